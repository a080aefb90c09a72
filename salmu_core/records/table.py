"""The leaderboard in a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from salmu_core.records.compare import Cell, Comparison, Row

_VERDICT_STYLES = {
    "selective": "bold green", "over-generalised": "yellow", "ineffective": "yellow", "catastrophic": "red",
    "no effect": "dim", "diverged": "red", "failed": "red", "unknown": "dim",
}  # fmt: skip
_SHORT = {"over-generalised": "over-gen.", "catastrophic": "catastr.", "ineffective": "ineffect."}


def leaderboard_renderables(comparison: Comparison) -> list[RenderableType]:
    """What `salmu compare` and `salmu report` print: values, distances, reasons, legend. Fits 80 columns and uses more."""
    parts: list[RenderableType] = [Text(""), _values(comparison), Text(""), _distances(comparison), Text("")]
    reasons = [row for row in comparison.rows if row.verdict]
    if reasons:
        parts.append(Text("Why", style="bold"))
        parts += [Text.assemble("  ", (row.title, "bold"), f": {row.verdict}. {row.reason}") for row in reasons]
        parts.append(Text(""))
    parts.append(_legend(comparison))
    parts += [Text(note, style="yellow") for note in comparison.notes]
    return [Group(*parts)]


def _values(comparison: Comparison) -> Table:
    table = _table(f"{comparison.benchmark} {comparison.benchmark_version}: leaderboard")
    table.add_column("#", justify="right")
    table.add_column("", no_wrap=True, min_width=12)
    for metric in comparison.metrics:
        table.add_column(_heading(metric.name), justify="right")
    table.add_column("verdict")
    table.add_column("overall", justify="right")
    for row in comparison.rows:
        name = Text(row.title, style="italic" if row.kind == "reference" else "bold")
        cells = [_value(row.cells.get(metric.name)) for metric in comparison.metrics]
        verdict = Text(_SHORT.get(row.verdict, row.verdict), style=_VERDICT_STYLES.get(row.verdict, ""))
        table.add_row(str(row.rank or ""), name, *cells, verdict, _overall(row), end_section=row.title == "Compromised")
    return table


def _distances(comparison: Comparison) -> Table:
    table = _table("Distance to each metric's target (0 is the target; for forgetting metrics Compromised is at 1), and cost")
    table.add_column("", no_wrap=True, min_width=12)
    for metric in comparison.metrics:
        table.add_column(_heading(metric.name), justify="right")
    for heading in ("sec", "samples", "params"):
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        cells = [_gap(row.cells.get(metric.name)) for metric in comparison.metrics]
        cost = ["", "", ""]
        if row.kind == "run":
            cost = [f"{row.seconds:.1f}", f"{sum(row.samples.values()):,}", _count(row.trainable_parameters)]
        table.add_row(Text(row.title), *cells, *cost, end_section=row.title == "Compromised")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)


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
    for heading in ("Metric", "Target", "Range", "Weight", "What it says"):
        table.add_column(heading)
    for metric in comparison.metrics:
        name = metric.name + (" *" if metric.primary else "")
        low, high = metric.bounds
        table.add_row(name, metric.target.capitalize(), f"{low:g} to {high:g}", f"{metric.weight:.2f}", metric.summary)
    words = Text(
        "* the verdict rests on these. Overall: 1 - D/D(Compromised), D the weighted distance to the ideal point:"
        " 0 at Compromised, 1 at the goal. Colours: distance up to 0.1 green, up to 0.5 yellow, above red.",
        style="dim",
    )
    return Group(table, words)
