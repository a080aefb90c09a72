"""The leaderboard as Markdown."""

from __future__ import annotations

from salmu_core.records.compare import Cell, Comparison, Row
from salmu_core.records.table import counts, mark


def render_markdown(comparison: Comparison) -> str:
    """A table with values and, in brackets, distances to the target; verdicts, legend, and the commands that remake it."""
    options = ", ".join(f"{name}={value}" for name, value in comparison.benchmark_options.items())
    lines = [
        f"# {comparison.benchmark} {comparison.benchmark_version}: leaderboard",
        "",
        f"Options: {options}." if options else "",
        "",
    ]
    names = [metric.name for metric in comparison.metrics]
    lines.append(
        "| # | method | " + " | ".join(names) + " | verdict | overall | forgotten, kept, general | recovered | seconds |"
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
        title = _escape(comparison.label(row)) + mark(row)
        verdict = row.verdict or ("*published*" if row.kind == "published" else "")
        lines.append(
            f"| {row.place} | {title} | {cells} | {verdict} | {overall} | {_parts(row)} | {_recovered(row)} | {seconds} |"
        )
    lines += [
        "",
        "In brackets: distance to the metric's target. ± is the standard deviation over runs (seeds, instances). Overall is"
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
    lines += [f"- **{_escape(row.title)}**: {row.verdict}. {_escape(row.reason)}" for row in comparison.rows if row.verdict]
    lines += ["", "| metric | target | range | counts | what it says |", "|---|---|---|---|---|"]
    lines += [
        f"| {m.name} | {m.target.capitalize()} | {m.bounds[0]:g} to {m.bounds[1]:g} | {counts(m)} | {_escape(m.summary)} |"
        for m in comparison.metrics
    ]
    lines += ["", *(f"> {_escape(note)}" for note in comparison.notes), "", "Each row again:", "", "```bash"]
    for row in comparison.rows:
        lines += [f"# {row.title}", row.command] if row.command else []
    return "\n".join([*lines, "```", ""])


def _against_the_best(comparison: Comparison) -> list[str]:
    """Every row against the first of one's own, with what the tests cover."""
    first = next((row.title for row in comparison.rows if row.kind in ("run", "evaluation")), None)
    found = [d for row in comparison.rows if first and (d := comparison.between(row.title, first)) is not None]
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
    return f"{row.recovered:.0%} ({row.recovered_by})"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    spread = f" ± {cell.sd:.3f}" if cell.sd is not None else ""
    return f"{cell.value:.3f}{spread}" + (f" ({cell.gap:.2f})" if cell.gap is not None else "")


def _parts(row: Row) -> str:
    return ", ".join(f"{row.parts[name]:.2f}" for name in ("forgotten", "kept", "general") if name in row.parts)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
