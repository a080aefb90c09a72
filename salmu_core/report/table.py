"""The leaderboard in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from salmu_core.comparison.differences import PairedDifference
from salmu_core.comparison.leaderboard import Cell, Comparison, MetricColumn, Row
from salmu_core.report.names import Name

_VERDICT_STYLES = {
    "selective": "bold green", "superficial": "magenta", "over-generalised": "yellow", "ineffective": "yellow", "catastrophic": "red",
    "no effect": "dim", "diverged": "red", "failed": "red", "unknown": "dim",
    "published": "dim italic",
}  # fmt: skip
WIDE = 132  # columns from which all ten metrics fit in one table


def leaderboard_renderables(comparison: Comparison, width: int = 80) -> list[RenderableType]:
    """What `salmu compare` and `salmu report` print: values, distances, reasons, legend.

    Args:
        width: columns of the terminal. On narrow ones the metrics are shown in two tables: forgetting, and the rest.
    """
    parts: list[RenderableType] = []
    forgetting = [metric for metric in comparison.metrics if metric.aspect == "forgetting"]
    others = [metric for metric in comparison.metrics if metric.aspect != "forgetting"]
    narrow = width < WIDE and bool(forgetting and others)
    blocks = (
        [("forgetting, target Clean", forgetting), ("the rest, target Compromised", others)]
        if narrow
        else [("", list(comparison.metrics))]
    )
    title = f"{comparison.benchmark} {comparison.benchmark_version}"
    for number, (words, metrics) in enumerate(blocks):
        last = number == len(blocks) - 1
        heading = f"{title}: leaderboard" + (f" ({words})" if words else "")
        parts += [Text(""), _values(heading, comparison, metrics, verdict=number == 0, overall=last)]
    for number, (words, metrics) in enumerate(blocks):
        last = number == len(blocks) - 1
        heading = "Distance to the target" + (f" ({words})" if words else "")
        parts += [Text(""), _distances(heading, comparison, metrics, score=last, cost=last and not narrow)]
    if narrow:
        words = f"Seconds, samples and trained parameters stand in the files, and in terminals of {WIDE} columns."
        parts.append(Padding(Text(words, style="dim"), (0, 0, 0, 2)))
    parts += _against_each_other(comparison)
    if comparison.sources:
        words = "Published: measured by others, never ranked; distances are to the references of the same source"
        parts += [Text(""), Text(words, style="bold")]
        parts += [
            Padding(Text(f"[{number}] {source}"), (0, 0, 0, 2)) for number, source in enumerate(comparison.sources, start=1)
        ]
    reasons = [row for row in comparison.rows if row.verdict]
    if reasons:
        parts += [Text(""), Text("Why", style="bold")]
        parts += [
            Padding(Text.assemble((row.title, "bold"), f": {row.verdict}. {row.reason}"), (0, 0, 0, 2)) for row in reasons
        ]
    parts += _attacked(comparison)
    parts += [Text(""), _legend(comparison)]
    parts += [Text(note, style="yellow") for note in comparison.notes]
    return [Group(*parts)]


def _attacked(comparison: Comparison) -> list[RenderableType]:
    """By what the facts came back, a line for each row; nothing where nothing was attacked."""
    attacked = [row for row in comparison.rows if row.recovered is not None]
    if not attacked:
        return []
    lines: list[RenderableType] = [Text(""), Text("Recovered by attacks on the model alone, the most first", style="bold")]
    for row in attacked:
        shares = sorted(row.attacks.items(), key=lambda item: -item[1])
        words = ", ".join(f"{name} {share:.0%}" for name, share in shares[:3])
        lines.append(Padding(Text.assemble((row.title, "bold"), f": {words}"), (0, 0, 0, 2)))
    words = "0 %: no more than from Clean; 100 %: all that the same attack gets from Compromised. –: not attacked."
    return [*lines, Padding(Text(words, style="dim"), (0, 0, 0, 2))]


def _values(heading: str, comparison: Comparison, metrics: list[MetricColumn], *, verdict: bool, overall: bool) -> Table:
    table = _table(heading)
    table.add_column("#", justify="right")
    table.add_column("", overflow="fold", min_width=16)
    for metric in metrics:
        table.add_column(_heading(metric.name), justify="right", no_wrap=True)
    if verdict:
        table.add_column("verdict", no_wrap=True)
    if overall:
        table.add_column("overall", justify="right", no_wrap=True)
        if attacked := any(row.recovered is not None for row in comparison.rows):
            table.add_column("recov-\nered", justify="right", no_wrap=True)
    for row, next_row in _with_next(comparison.rows):
        cells = [_value(row.cells.get(metric.name)) for metric in metrics]
        if verdict:
            word = "published" if row.kind == "published" else row.verdict
            cells.append(Text(word, style=_VERDICT_STYLES.get(word, "")))
        if overall:
            cells.append(Text(_overall(row)))
            if attacked:
                cells.append(_recovered(row, comparison))
        table.add_row(row.place, _name(comparison, row), *cells)
        if _ends_section(row, next_row):
            table.add_row()
    return table


def _distances(heading: str, comparison: Comparison, metrics: list[MetricColumn], *, score: bool, cost: bool) -> Table:
    table = _table(heading)
    table.add_column("", overflow="fold", min_width=16)
    for metric in metrics:
        table.add_column(_heading(metric.name), justify="right", no_wrap=True)
    for word in [
        *(("for-\ngotten", "kept", "gen-\neral") if score else ()),
        *(("sec", "samples", "params") if cost else ()),
    ]:
        table.add_column(word, justify="right", no_wrap=True)
    for row, next_row in _with_next(comparison.rows):
        cells = [_gap(row.cells.get(metric.name)) for metric in metrics]
        if score and row.kind == "run":
            cells += [_part(row, "forgotten"), _part(row, "kept"), _part(row, "general")]
        if cost and row.kind == "run":
            read = _count(sum(row.samples.values())) + (f"\n+{_count(sum(row.captions.values()))}c" if row.captions else "")
            cells += [Text(f"{row.seconds:.1f}"), Text(read), Text(_count(row.trainable_parameters))]
        table.add_row(_name(comparison, row), *cells)
        if _ends_section(row, next_row):
            table.add_row()
    return table


_FEW = 4  # rows up to which every two are shown; from there on all against the best
_OUTCOMES = {"better": ("better", "green"), "worse": ("worse", "red"), "tie": ("tie", "dim")}


def _against_each_other(comparison: Comparison) -> list[RenderableType]:
    """Paired differences: every two of a few rows, else the best against all others; of two rows each metric too."""
    titles = list(dict.fromkeys(title for d in comparison.differences for title in (d.row, d.other)))
    titles = [row.title for row in comparison.rows if row.title in titles]
    if len(titles) < 2:
        return []
    parts: list[RenderableType] = []
    for number, title in enumerate(titles[:-1] if len(titles) <= _FEW else titles[:1]):
        rivals = titles[number + 1 :]
        found = [d for other in rivals if (d := comparison.between(other, title)) is not None]
        if found:
            parts += [Text(""), _differences(f"Against {title}", found)]
    parts += [Padding(Text(comparison.testing, style="dim"), (0, 0, 0, 2))]
    if len(titles) == 2 and (only := comparison.between(*titles)) is not None and only.metrics:
        parts += [Text(""), _by_metric(only)]
    words = (
        "= marks a rank that is shared: none of these can be told from the best of them."
        " p is corrected for all comparisons; W-T-L counts metrics won, tied, lost."
    )
    if len(titles) == 2:
        words += " Distances: positive where the first is nearer to the target."
    return [*parts, Padding(Text(words, style="dim"), (0, 0, 0, 2))]


def _differences(heading: str, found: Sequence[PairedDifference]) -> Table:
    table = _table(heading)
    table.add_column("", overflow="fold", min_width=16)
    for word in ("overall", "95 %", "p", "", "W-T-L"):
        table.add_column(word, justify="left" if word == "" else "right", no_wrap=True)
    for d in found:
        table.add_row(
            Name(d.row, style="bold"),
            f"{d.difference:+.3f}",
            f"{d.low:+.3f} to {d.high:+.3f}",
            _probability(d.corrected),
            _outcome(d.outcome),
            f"{d.wins}-{d.ties}-{d.losses}",
        )
    return table


def _by_metric(found: PairedDifference) -> Table:
    table = _table(f"{found.row} against {found.other}, by metric")
    for word in ("", "distance", "95 %", "p", " "):
        table.add_column(word, justify="left" if not word.strip() else "right", no_wrap=True)
    for name, metric in found.metrics.items():
        interval = f"{metric.low:+.3f} to {metric.high:+.3f}"
        table.add_row(name, f"{metric.difference:+.3f}", interval, _probability(metric.p), _outcome(metric.outcome))
    return table


def _outcome(outcome: str) -> Text:
    word, style = _OUTCOMES[outcome]
    return Text(word, style=style)


def _probability(p: float) -> str:
    return "<.001" if p < 0.001 else _number(p) if p < 1 else "1"


def command_renderables(comparison: Comparison) -> list[RenderableType]:
    """What `--commands` prints: each row's title, and below it the command that remakes it, whole, to be copied."""
    parts: list[RenderableType] = [Text(""), Text("To remake a row", style="bold")]
    for row in comparison.rows:
        if row.command:
            parts += [Text(row.title, style="bold"), Text(f"  {row.command}")]
    return parts


def _with_next(rows: Sequence[Row]) -> Iterator[tuple[Row, Row | None]]:
    return zip(rows, [*rows[1:], None], strict=True)


def _ends_section(row: Row, next_row: Row | None) -> bool:
    """An empty line follows the references, the methods, the controls, and each published source."""

    def part(one: Row) -> tuple[object, ...]:
        return one.kind in ("run", "evaluation"), one.source, one.control

    return next_row is not None and part(row) != part(next_row)


def _name(comparison: Comparison, row: Row) -> Text:
    style = {"reference": "italic", "published": "dim italic"}.get(row.kind, "bold")
    return Name(comparison.label(row) + mark(row), style=style)


def mark(row: Row) -> str:
    """Mark the title of a row: controls, rows that no seed changes, and rows that stand for others."""
    words = ["oracle"] if row.oracle else ["control"] if row.control else []
    words += ["deterministic"] if row.deterministic else []
    words += [f"the same: {', '.join(row.same_as)}"] if row.same_as else []
    return f" ({'; '.join(words)})" if words else ""


def counts(metric: MetricColumn) -> str:
    """What a metric counts in the overall score, in a few words."""
    return "not informative" if metric.not_informative else f"in {metric.part}" if metric.weight else "no"


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def _heading(name: str) -> str:
    """Broken at capitals, so that ten metrics fit side by side."""
    parts: list[str] = []
    for letter in name:
        if letter.isupper() and parts and len(parts[-1]) >= 3:
            parts.append(letter)
        elif parts:
            parts[-1] += letter
        else:
            parts.append(letter)
    return "\n".join(parts)


def _value(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    return Text(_number(cell.value) + (f"\n±{_number(cell.sd)}" if cell.sd is not None else ""), style=_gap_style(cell.gap))


def _part(row: Row, name: str) -> Text:
    return Text(_number(row.parts[name]) if name in row.parts else "–")


def _gap(cell: Cell | None) -> Text:
    if cell is None or cell.gap is None:
        return Text("–", style="dim")
    return Text(f"{cell.gap:.2f}", style=_gap_style(cell.gap))


def _gap_style(gap: float | None) -> str:
    if gap is None:
        return ""
    return "green" if gap <= 0.1 else "yellow" if gap <= 0.5 else "red"


def _overall(row: Row) -> str:
    if row.overall is None:
        return ""
    return f"{row.overall:.3f}" + (f"\n±{row.overall_sd:.3f}" if row.overall_sd is not None else "")


def _recovered(row: Row, comparison: Comparison) -> Text:
    """The most that an attack got back; a dash for what was not attacked."""
    if row.recovered is None:
        return Text("–" if row.kind in ("run", "evaluation") else "", style="dim")
    limit = comparison.thresholds.get("recovered", 0.0)
    return Text(f"{row.recovered:.0%}", style="red" if row.recovered > limit else "green")


def _number(value: float) -> str:
    """Three decimals without the leading zero: ten columns have to fit."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _count(number: int) -> str:
    if number >= 1_000_000:
        return f"{number / 1e6:.1f}M"
    return f"{number / 1e3:.0f}k" if number >= 1000 else str(number)


def _legend(comparison: Comparison) -> RenderableType:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("Metric", "Target", "Range", "Counts", "What it says"):
        table.add_column(heading)
    for metric in comparison.metrics:
        name = metric.name + (" *" if metric.judged else "")
        low, high = metric.bounds
        table.add_row(name, metric.target.capitalize(), f"{low:g} to {high:g}", counts(metric), metric.summary)
    words = Text(
        "Overall: forgotten x kept x general, of each the worst metric, 0 to 1: 0 at Compromised and at Clean, at most 0.25 for what"
        " forgets everything sensitive alike, 1 at the goal. * the verdict looks at these. A distance of 1 is that of"
        " Compromised (forgetting) or of Clean (holdouts). Colours: up to 0.1 green, up to 0.5 yellow, above red.",
        style="dim",
    )
    return Group(table, words)
