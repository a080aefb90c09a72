"""The leaderboard for other programs: CSV for a spreadsheet, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import re

from salmu_core.comparison.leaderboard import Cell, Comparison, Row
from salmu_core.report.markdown import render_markdown
from salmu_core.report.table import mark

#: What `--format` takes, besides the table of the terminal.
FORMATS = ("json", "csv", "md", "latex")

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: f"\\{c}" for c in "&%$#_{}"
}


def render(comparison: Comparison, form: str) -> str:
    """The leaderboard as text of one of `FORMATS`."""
    if form == "json":
        return comparison.model_dump_json(indent=2) + "\n"
    if form == "md":
        return render_markdown(comparison)
    return render_csv(comparison) if form == "csv" else render_latex(comparison)


def render_csv(comparison: Comparison) -> str:
    """One line for each row with all digits: value, standard deviation over runs and distance of every metric; wins, ties and losses
    against the other rows; the command that remakes it."""
    names = [metric.name for metric in comparison.metrics]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["rank", "row", "kind", "family", "oracle", "budget", "seeds", "verdict", "overall", "overall_sd", "seconds"]
    parts = ["forgotten", "kept", "general"]
    more = ["bench_seeds", "tie_group", "wins", "ties", "losses", "command", *parts, "control", "recovered", "recovered_by"]
    writer.writerow([*header, *(f"{name}{part}" for name in names for part in ("", "_sd", "_gap")), *more])
    for row in comparison.rows:
        facts: list[object] = [
            row.rank, comparison.label(row), row.kind, row.family, row.oracle, row.budget, " ".join(map(str, row.seeds)),
            row.verdict, row.overall, row.overall_sd, row.seconds,
        ]  # fmt: skip
        for name in names:
            cell = row.cells.get(name)
            facts += [None, None, None] if cell is None else [cell.value, cell.sd, cell.gap]
        facts += [" ".join(map(str, row.bench_seeds)), row.tie_group, row.wins, row.ties, row.losses, row.command]
        facts += [*(row.parts.get(part) for part in parts), row.control]
        facts += [row.recovered, row.recovered_by]
        writer.writerow(["" if fact is None else _harmless(fact) for fact in facts])
    return text.getvalue()


def _harmless(fact: object) -> object:
    """A text that a spreadsheet would take for a formula is marked as text."""
    return f"'{fact}" if isinstance(fact, str) and fact[:1] in ("=", "+", "-", "@") else fact


def render_latex(comparison: Comparison) -> str:
    """A table for the package booktabs: three digits, the standard deviation over seeds behind them."""
    names = [metric.name for metric in comparison.metrics]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{rl{'c' * len(names)}lc}}",
        r"\toprule",
        " & ".join(["\\#", "Method", *map(_latex, names), "Verdict", "Overall"]) + r" \\",
        r"\midrule",
    ]
    before = ""
    for row in comparison.rows:
        if before and row.kind != before:
            lines.append(r"\midrule")
        before = row.kind
        cells = [_number(row.cells.get(name)) for name in names]
        overall = "" if row.overall is None else _mean(row.overall, row.overall_sd)
        facts = [row.place, _latex(_title(comparison, row)), *cells, _latex(row.verdict), overall]
        lines.append(" & ".join(facts) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _title(comparison: Comparison, row: Row) -> str:
    return comparison.label(row) + mark(row)


def _number(cell: Cell | None) -> str:
    return "--" if cell is None else _mean(cell.value, cell.sd)


def _mean(value: float, sd: float | None) -> str:
    return f"${value:.3f}$" if sd is None else rf"${value:.3f} \pm {sd:.3f}$"


def _latex(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _SPECIAL[found.group()], text)
