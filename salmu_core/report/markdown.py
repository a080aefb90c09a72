"""The leaderboard as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from salmu_core.comparison.leaderboard import Cell, Comparison, Row
from salmu_core.report.table import counts, mark


def render_markdown(comparison: Comparison) -> str:
    """A table with values and, in brackets, distances to the target; verdicts, legend, and the commands that remake it."""
    options = _escape(", ".join(f"{name}={value}" for name, value in comparison.benchmark_options.items()))
    lines = [
        f"# {_escape(f'{comparison.benchmark} {comparison.benchmark_version}')}: leaderboard",
        "",
        f"Options: {options}." if options else "",
        "",
    ]
    names = [metric.name for metric in comparison.metrics]
    lines.append(
        "| # | method | "
        + " | ".join(map(_escape, names))
        + " | verdict | overall | forgotten, kept, general | recovered | seconds |"
    )
    lines.append("|---|---|" + "---|" * len(names) + "---|---|---|---|---|")
    for row in comparison.rows:
        cells = " | ".join(_cell(row.cells.get(name)) for name in names)
        overall = (
            ""
            if row.overall is None
            else f"{row.overall:.3f}" + (f" ± {row.overall_sd:.3f}" if row.overall_sd is not None else "")
        )
        seconds = f"{row.seconds:.1f}" if row.kind == "run" else ""
        title = _escape(comparison.label(row) + mark(row))
        verdict = row.verdict or ("*published*" if row.kind == "published" else "")
        lines.append(
            f"| {row.place} | {title} | {cells} | {verdict} | {overall} | {_parts(row)} | {_recovered(row)} | {seconds} |"
        )
    lines += [
        "",
        "In brackets: distance to the metric's target. ± is the standard deviation over runs (seeds, instances); a"
        " deterministic row has the same weights with every seed, and none. Overall is"
        " forgotten x kept x general, each 0 to 1: 0 at Compromised and at Clean, at most 0.25 for what forgets everything"
        " sensitive alike.",
        "Recovered: the most that an attack on the model alone gets back, of what it gets from Compromised beyond Clean.",
        "",
    ]
    lines += _against_the_best(comparison)
    if comparison.sources:
        lines += [
            "Rows marked *published* were measured by others and hold no rank; distances are to their source's references.",
            "",
        ]
        lines += [f"- [{number}] {_escape(source)}" for number, source in enumerate(comparison.sources, start=1)]
        lines += [""]
    lines += [
        f"- **{_escape(row.title)}**: {_escape(row.verdict)}. {_escape(row.reason)}"
        for row in comparison.rows
        if row.verdict
    ]
    lines += ["", "| metric | target | range | counts | what it says |", "|---|---|---|---|---|"]
    lines += [
        f"| {_escape(m.name)} | {m.target.capitalize()} | {m.bounds[0]:g} to {m.bounds[1]:g} | {counts(m)} | {_escape(m.summary)} |"
        for m in comparison.metrics
    ]
    lines += ["", *(f"> {_escape(note)}" for note in comparison.notes), "", "Each row again:", ""]
    commands = [(row.title, row.command) for row in comparison.rows if row.command]
    return "\n".join([*lines, *_fenced([line for title, command in commands for line in (f"# {title}", command)]), ""])


def _fenced(lines: Sequence[str]) -> list[str]:
    """A block of code that none of its lines can close: its fence is longer than any run of backticks in it."""
    plain = [" ".join(line.splitlines()) for line in lines]
    fence = "`" * max(3, 1 + max((len(run) for line in plain for run in re.findall("`+", line)), default=0))
    return [f"{fence}bash", *plain, fence]


def _against_the_best(comparison: Comparison) -> list[str]:
    """Every row against the first of one's own, with what the tests cover."""
    first = next((row.title for row in comparison.rows if row.kind in ("run", "evaluation")), None)
    against = comparison.against(first) if first else {}
    found = [against[row.title] for row in comparison.rows if row.title in against]
    if not found:
        return []
    lines = [
        f"Against **{_escape(found[0].other)}**, differences of the overall score. {comparison.testing}",
        "",
        "| method | difference | 95 % | p, corrected | reads | metrics won, tied, lost |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_escape(d.row)} | {d.difference:+.3f} | {d.low:+.3f} to {d.high:+.3f} | {d.corrected:.2g} | {d.outcome}"
        f" | {d.wins}, {d.ties}, {d.losses} |"
        for d in found
    ]
    return [*lines, "", "Ranks marked = are shared: those rows cannot be told from the best of them.", ""]


def _recovered(row: Row) -> str:
    if row.recovered is None:
        return "not attacked" if row.kind == "run" else ""
    return f"{row.recovered:.0%} ({_escape(str(row.recovered_by))})"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    spread = f" ± {cell.sd:.3f}" if cell.sd is not None else ""
    return f"{cell.value:.3f}{spread}" + (f" ({cell.gap:.2f})" if cell.gap is not None else "")


def _parts(row: Row) -> str:
    return ", ".join(f"{row.parts[name]:.2f}" for name in ("forgotten", "kept", "general") if name in row.parts)


def _escape(text: str) -> str:
    """Text that reads as it is, whatever it holds: neither a tag, nor an entity, a link, emphasis, code or the end of a cell."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"[\\`*|]|~(?=~)|(?<=~)~|\](?=[(\[:])", r"\\\g<0>", text)  # [1] alone is not a link
    # An underscore between letters is not emphasis: names and options stay as they are typed.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
