"""The terminal's progress display: an observer of runs like any other."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from salmu_core.cli.render import err, seconds_text
from salmu_core.data.processes import process_index
from salmu_core.hookspecs import hookimpl
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.runner.progress import Progress as Event

_MARKS = {"ok": "[green]done[/]", "diverged": "[yellow]diverged[/]", "failed": "[red]failed[/]"}
_LINE_EVERY = 25.0  # seconds between lines in a log file where nothing ends


class ProgressDisplay:
    """Stages, steps and time left of the run at hand; above it one line per finished run.

    Args:
        runs: how many runs are to come; 0 when it is not a comparison.
        quiet: show nothing.
    """

    def __init__(self, runs: int = 0, quiet: bool = False, console: Console = err) -> None:
        self._console = console
        self._quiet = quiet
        self._plain = not console.is_terminal  # a log file gets a line per stage, not an animation
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[values]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._all = self._bar.add_task("all runs", total=runs, values="") if runs else None
        self._stage_task = self._bar.add_task("starting", total=None, values="")
        self._stage = ""
        self._done = self._before = 0
        self._runs = runs
        self._began = self._started = time.monotonic()
        self._shown_at = 0.0
        self._stage_began, self._begun_at = self._started, 0

    def __enter__(self) -> ProgressDisplay:
        self._quiet = self._quiet or process_index() != 0
        if not self._quiet and not self._plain:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    @hookimpl
    def run_started(self, spec: RunSpec) -> None:
        """A run begins."""
        self._started = time.monotonic()

    @hookimpl
    def run_progress(self, event: Event) -> None:
        """A stage moves."""
        if self._quiet or event.stage == "log":
            return
        if event.note:  # a line that stays
            self._console.print(event.note, markup=False, highlight=False)
            return
        if event.stage == "waiting":  # of a comparison: runs of several workers tell nothing between
            if self._plain and self._runs and time.monotonic() - self._shown_at >= 0.9 * _LINE_EVERY:
                self._console.print(f"[{self._done}/{self._runs}] going on{self._left()}", markup=False, highlight=False)
                self._shown_at = time.monotonic()
            return
        stage = f"{event.run}: {event.stage}"
        new = stage != self._stage
        self._stage = stage
        if self._plain:
            self._tell_in_lines(stage, event, new)
            return
        if new:
            self._bar.reset(self._stage_task, total=event.total or None, description=stage)
        elif time.monotonic() - self._shown_at < 0.05 and event.done < event.total:
            return
        self._shown_at = time.monotonic()
        values = "  ".join(f"{name} {value:.4g}" for name, value in list(event.values.items())[:4])
        self._bar.update(self._stage_task, completed=event.done, total=event.total or None, values=values)

    def _tell_in_lines(self, stage: str, event: Event, new: bool) -> None:
        """A line for each stage, and for a long one more with the time left."""
        now = time.monotonic()
        if new:
            self._console.print(stage, markup=False, highlight=False)
            self._stage_began, self._begun_at, self._shown_at = now, event.done, now
        elif event.total and event.done > self._begun_at and now - self._shown_at >= _LINE_EVERY:
            left = (now - self._stage_began) / (event.done - self._begun_at) * (event.total - event.done)
            words = f"{stage}, {event.done} of {event.total}, about {seconds_text(left)} left"
            self._console.print(words, markup=False, highlight=False)
            self._shown_at = now

    @hookimpl
    def run_finished(self, record: RunRecord) -> None:
        """A run ends: one line that stays."""
        if self._quiet:
            return
        self._done += 1
        counter = f"[{self._done}/{self._runs}] " if self._runs else ""
        name = record.spec.start if record.kind == "reference" else f"{record.spec.method} seed {record.spec.seed}"
        self._console.print(counter, end="", markup=False, highlight=False)
        took, left = seconds_text(self._seconds_of(record)), self._left() if self._plain else ""
        self._console.print(f"{name} {_MARKS[record.status]} in {took}{left}", highlight=False)
        self._shown_at = time.monotonic()
        if self._all is not None:
            self._bar.update(self._all, completed=self._done)

    def _left(self) -> str:
        """How long the other runs of a comparison take, at the pace so far."""
        ended, left = self._done - self._before, self._runs - self._done
        return f", about {seconds_text((time.monotonic() - self._began) / ended * left)} left" if ended and left > 0 else ""

    def _seconds_of(self, record: RunRecord) -> float:
        """A reference's time is that since it began, with the building of the benchmark; several runs at once have their own."""
        counted = sum(record.cost.seconds.values())
        return counted if counted and record.kind == "run" else time.monotonic() - self._started

    def skip(self, runs: int) -> None:
        """Runs that were done before."""
        self._done, self._before = self._done + runs, self._before + runs
        if self._all is not None:
            self._bar.update(self._all, completed=self._done)
