"""Everything that commands print. Results go to standard output, progress and problems to standard error."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from salmu_core.errors import SalmuError
from salmu_core.files.names import visible
from salmu_core.report.names import Name


class _Shown(Console):
    """Colours are its own to write, and nobody's name is: the one place that all text for a terminal passes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does it, without signs that steer the terminal."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment(visible(part.text), part.style)


out = _Shown()
err = _Shown(stderr=True)
_LONGEST_NAME = 60  # cells of a first column that is not broken


def show_error(error: SalmuError) -> None:
    """The panel of an error: what, and what to do."""
    text = Text(error.message)
    if error.hint:
        text.append(f"\n{error.hint}", style="dim")
    err.print(Panel(text, title="Error", title_align="left", border_style="red", expand=False))


def show_problems(problems: Iterable[object]) -> None:
    """Plugins that have problems: one line each."""
    for problem in problems:
        err.print(Text("Plugin problem: ", style="yellow").append(str(problem), style="default"))


def print_json(content: Any) -> None:
    """JSON on standard output, nothing else."""
    readable = (sys.stdout.encoding or "utf-8").lower().startswith("utf")  # else letters are escaped, not lost
    text = json.dumps(content, indent=2, ensure_ascii=not readable, default=str)
    print("".join(sign if visible(sign) == sign else f"\\u{ord(sign):04x}" for sign in text))


def show_preset(method: str, options: Mapping[str, Any], preset: str, budget: float | None = None) -> None:
    """Say which options come from a preset: they are not the method's defaults. `budget` is named where there are several."""
    given = " ".join(f"{name}={value}" for name, value in options.items())
    place = _preset_in_words(preset)
    title = method if budget is None else f"{method} {budget:g}x"
    err.print(f"{title}: {given} from {place}", markup=False, highlight=False)


def show_presets_in_short(methods: int, preset: str) -> None:
    """Say how many methods take options from a preset, where spelling them out would fill the screen."""
    words = f"{methods} methods take options from {_preset_in_words(preset)}; study.toml beside the results lists them."
    err.print(words, markup=False, highlight=False)


def _preset_in_words(preset: str) -> str:
    return "the benchmark's preset (--preset none for the defaults)" if preset == "benchmark" else preset


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A plain table."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    cells = [[Name(visible(cell, one_line=True)) for cell in row] for row in rows]
    for number, column in enumerate(columns):
        whole = number == 0 and all(row[0].cell_len <= _LONGEST_NAME for row in cells)
        table.add_column(column, overflow="fold", no_wrap=whole)
    for row in cells:
        table.add_row(*row)
    return table


def show_entries(entries: Iterable[tuple[str, str, Sequence[str]]]) -> None:
    """Named things with a sentence and a line of facts each: reads well at any width."""
    for name, sentence, facts in entries:
        out.print(Text(name, style="bold"))
        out.print(Padding(Text(sentence), (0, 0, 0, 2)))
        out.print(Padding(Text(" · ".join(fact for fact in facts if fact), style="dim"), (0, 0, 0, 2)))


def show_offer(title: str, offers: Mapping[str, str]) -> None:
    """A package and the names that it offers, by kind: a line or more each, broken between names."""
    out.print(Text(title, style="bold"))
    for kind, names in offers.items():
        if names:  # broken between names only: a name is found by searching for it
            width = max(20, out.width)
            lines = textwrap.wrap(
                f"{kind}: {names}", width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
            out.print("\n".join(lines), markup=False, highlight=False)


def seconds_text(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bytes_text(count: float) -> str:
    """Bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def show_plans(plans: Sequence[Any]) -> None:
    """The runs of a comparison with what each would take."""
    rows = [
        (
            plan.title,
            "" if plan.most_steps is None else str(plan.most_steps),
            "done" if plan.done else ", ".join(f"{role} {count}" for role, count in plan.samples.items()),
            "" if plan.memory_bytes is None else bytes_text(plan.memory_bytes),
        )
        for plan in plans
    ]
    out.print(make_table(("Run", "Steps", "Samples at most", "Memory"), rows))
    missing = [plan for plan in plans if not plan.done]
    kept = sum(plan.kept_bytes or 0 for plan in missing)
    most = bytes_text(max((plan.disk_bytes or 0 for plan in missing), default=0))
    words = f"{len(plans)} runs, {len(missing)} to do. Memory is an estimate."
    out.print(f"{words} Disk: {most} for a run, {bytes_text(kept)} kept.", highlight=False)


def show_reading(record: Any) -> None:
    """What a run's method was handed: samples, captions on their own, metadata columns."""
    cost = record.cost
    for words, found in (("samples", cost.samples), ("captions read", cost.captions)):
        if any(found.values()):
            out.print(f"{words}: {', '.join(f'{role} {count:,}' for role, count in found.items())}", highlight=False)
    for role, names in record.columns.items():
        out.print(f"columns read of {role}: {', '.join(names)}", highlight=False)
    if record.undeclared:
        out.print(Text(f"not declared by the method: {', '.join(record.undeclared)}", style="yellow"))


def show_faults(record: Any) -> None:
    """What went wrong in metrics, and what plugins did that they should not have."""
    for name, problem in record.broken.items():
        err.print(Text(f"The metric {name} failed: {problem}.", style="red"))
    for warning in record.warnings:
        err.print(Text(warning, style="yellow"))


def show_scores(scores: Mapping[str, Any], skipped: Mapping[str, str]) -> None:
    """The scores of one model as a table with intervals and targets."""
    rows = []
    for name, score in scores.items():
        interval = f"{score.low:.4f} – {score.high:.4f}" if score.low is not None else ""
        extras = ", ".join(f"{key} {value:.4f}" for key, value in score.extras.items())
        rows.append((name, f"{score.value:.4f}", interval, f"{score.n}", f"{score.clusters}", score.target, extras))
    out.print(make_table(("Metric", "Value", "95 % interval", "Rows", "Clusters", "Target is", "Also"), rows))
    for name, reason in skipped.items():
        out.print(Text(f"{name}: not measured ({reason})", style="dim"))


def show_standing(record: Any, rows: Mapping[str, Any]) -> None:
    """A run's verdict and score, then its metrics beside those of both references."""
    row = rows["run"]
    parts = " x ".join(f"{name} {value:.2f}" for name, value in row.parts.items())
    overall = "no score" if row.overall is None else f"overall {row.overall:.2f}" + (f" = {parts}" if parts else "")
    out.print(Text(row.verdict or record.status, style="bold").append(f"   {overall}", style="default"))
    if row.reason:
        out.print(row.reason, markup=False, highlight=False)
    out.print()
    shown = []
    for name, score in record.scores.items():
        clean, compromised = (_cell(rows[which], name) for which in ("clean", "compromised"))
        shown.append((name, clean, f"{score.value:.3f}", compromised, score.target.capitalize()))
    out.print(make_table(("Metric", "Clean", "This run", "Compromised", "Goal"), shown))
    for name, reason in record.skipped.items():
        out.print(Text(f"{name}: not measured ({reason})", style="dim"))


def _cell(row: Any, metric: str) -> str:
    return f"{row.cells[metric].value:.3f}" if metric in row.cells and row.cells[metric].value is not None else ""


def show_next(folder: object) -> None:
    """What to do with a finished run."""
    for words, command in (
        ("does it come back?", f"salmu audit {folder}"),
        ("one person:", f"salmu inspect {folder} --identity ID"),
        ("beside others:", "salmu compare"),
    ):
        err.print(Text(f"{words} ", style="dim").append(command, style="default"), soft_wrap=True)
