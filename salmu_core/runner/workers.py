"""Runs in processes of their own: several at once where that is faster, and one each where nobody vouches for their code.

On a machine without an accelerator small models gain little from a second thread, and all from a second process.
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil
import torch

from salmu_core import errors
from salmu_core.data.processes import process_count
from salmu_core.errors import BadRecord, SalmuError
from salmu_core.evaluation.evaluate import Evaluation
from salmu_core.plugins.calls import thread_left
from salmu_core.plugins.loading import Plugins, new_manager
from salmu_core.plugins.own_packages import is_own
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import read_record, write_record
from salmu_core.runner.progress import Progress
from salmu_core.runner.recording import make_record
from salmu_core.runner.run import finished_record, run_resolved
from salmu_core.runner.settings import Settings
from salmu_core.runner.unlearning import UNLEARNED_FILE
from salmu_core.runner.worker import STOPPED, Job, Surroundings, work
from salmu_core.spec.resolve import Resolved
from salmu_core.spec.study import AuditChoice

LARGEST = 200_000_000  # bytes of weights up to which several models are trained side by side unasked
_MEMORY = 2_000_000_000  # bytes that a worker with such a model is given room for
_MOST = 8


def choose_workers(runs: int, weight_bytes: int, settings: Settings) -> int:
    """How many runs at once suit this machine: one where there is an accelerator, where the model is large or where this is
    one of several processes; else as many as there are cores and memory for."""
    if process_count() > 1 or weight_bytes > LARGEST or (torch.accelerator.is_available() and not settings.cpu):
        return 1
    return max(1, min(runs, os.cpu_count() or 1, int(psutil.virtual_memory().available // _MEMORY), _MOST))


def isolated(resolved: Resolved, settings: Settings) -> bool:
    """Does a run get a process that carries out nothing else?

    By default it does where its method is of a package that salmu's own metadata does not name under the extra `zoo`; and always where
    a plugin left a thread running in this one.
    """
    if process_count() > 1 or not (resolved.method.installed and resolved.benchmark_entry.installed):
        return False
    third_party = settings.isolate == "third-party" and not is_own(resolved.method.package.name)
    return third_party or settings.isolate == "all" or settings.time_limit is not None or thread_left() is not None


def run_in_workers(
    runs: Sequence[tuple[Resolved, Path]],
    settings: Settings,
    plugins: Plugins,
    workers: int,
    threads: int | None = None,
    audits: AuditChoice = "none",
) -> list[RunRecord]:
    """Carry out independent runs, `workers` at a time. Workers load the installed plugins, and end when this process ends.

    A run whose process ends before it is done, or takes longer than `settings.time_limit`, gets a record that says so, and the others
    go on. Observers of `plugins` are told when a run is done, and of its progress where there is one worker.

    Args:
        settings: `isolate` says which runs get a process that carries out nothing else.
        threads: of each worker; default: its share of the cores, or torch's choice for one worker.
        audits: what a worker attacks each run with once it is done. A run that has a process of its own is not attacked there: what
            its code left behind must not reach the attacks.

    Returns:
        The records, in the order of `runs`.

    Raises:
        SalmuError: of a run, about the output, the data or the options; those that are done stay done.
    """
    records: dict[int, RunRecord] = {}
    with closing(finished_runs(runs, settings, workers, threads, plugins, audits)) as finished:
        for position, record in finished:
            records[position] = record
            plugins.tell("run_finished", record=record)
    return [records[position] for position in range(len(runs))]


def finished_runs(
    runs: Sequence[tuple[Resolved, Path]],
    settings: Settings,
    workers: int,
    threads: int | None = None,
    plugins: Plugins | None = None,
    audits: AuditChoice = "none",
) -> Generator[tuple[int, RunRecord]]:
    """As `run_in_workers`, with each run's position and record as it ends. Closing the generator begins no further run; those that are
    going on end first, and their records are written.

    Args:
        plugins: those whose observers are told of progress.
        audits: as for `run_in_workers`.
    """
    if threads is None and workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
    return _Pool(runs, settings, plugins or Plugins(new_manager()), workers, threads, audits).finished()


def run_alone(resolved: Resolved, folder: Path, settings: Settings, plugins: Plugins) -> RunRecord:
    """One run, in this process or, where `settings` say so, in one of its own."""
    done = None if settings.overwrite else finished_record(folder, resolved)
    if done is not None or not isolated(resolved, settings):
        return run_resolved(resolved, folder, settings, plugins)
    [record] = run_in_workers([(resolved, folder)], settings, plugins, 1)
    return record


@dataclass
class _Worker:
    """A process and the run that it is at."""

    process: Any
    connection: Connection
    position: int = -1
    since: datetime = datetime.min
    ends: float = math.inf
    alone: bool = False
    told: bool = False


class _Pool:
    """Runs that wait, and the processes that carry them out."""

    def __init__(
        self,
        runs: Sequence[tuple[Resolved, Path]],
        settings: Settings,
        plugins: Plugins,
        workers: int,
        threads: int | None,
        audits: AuditChoice,
    ) -> None:
        self._runs, self._settings, self._plugins = runs, settings, plugins
        self._most, self._threads, self._audits = workers, threads, audits
        self._waiting = deque(range(len(runs)))
        self._busy: list[_Worker] = []
        self._ended: list[tuple[int, RunRecord]] = []

    def finished(self) -> Generator[tuple[int, RunRecord]]:
        """Carry out everything."""
        try:
            while self._waiting or self._busy:
                while self._waiting and len(self._busy) < self._most:
                    self._busy.append(self._started())
                self._look()
                while self._ended:
                    yield self._ended.pop(0)
        except GeneratorExit:
            self._waiting.clear()
            while self._busy:
                self._look()
            raise
        finally:
            for worker in self._busy:
                _kill(worker.process)

    def _started(self) -> _Worker:
        context = _context()
        here, there = context.Pipe()
        surroundings = Surroundings(dict(os.environ), os.getcwd(), self._threads)
        process = context.Process(target=work, args=(there, surroundings), name="salmu-worker")
        process.start()
        there.close()
        worker = _Worker(process, here)
        self._hand(worker)
        return worker

    def _hand(self, worker: _Worker) -> None:
        """Give a worker the next run."""
        worker.position, worker.told = self._waiting.popleft(), False
        resolved, folder = self._runs[worker.position]
        worker.alone = isolated(resolved, self._settings)
        worker.since = datetime.now(UTC)
        worker.ends = time.monotonic() + (self._settings.time_limit or math.inf)
        with contextlib.suppress(OSError):  # it ended already, which is seen next
            audits = "none" if worker.alone else self._audits
            worker.connection.send(Job(resolved.spec, folder.absolute(), self._settings, self._most == 1, audits))
        if self._most == 1:
            self._plugins.tell("run_started", spec=resolved.spec)

    def _look(self) -> None:
        """Wait until something happens, and see to it."""
        soonest = min(worker.ends for worker in self._busy)
        pause = max(0.0, min(25.0, soonest - time.monotonic()))  # observers hear of silence, too
        if not wait([thing for worker in self._busy for thing in (worker.connection, worker.process.sentinel)], pause):
            self._plugins.tell("run_progress", event=Progress("", "waiting"))
        for worker in list(self._busy):
            if (message := _received(worker)) is not None:
                self._answered(worker, message)
            elif not worker.process.is_alive():
                self._failed(worker, _ending(worker.process.exitcode))
            elif time.monotonic() >= worker.ends:
                self._failed(worker, f"It took longer than {self._settings.time_limit:g} s, its time limit.")

    def _answered(self, worker: _Worker, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "progress":
            self._plugins.tell("run_progress", event=Progress(**message["event"]))
        elif kind == "error":
            cls = getattr(errors, str(message["type"]), SalmuError)
            raise cls(message["message"], message["hint"])
        elif kind == "bug":
            raise RuntimeError(f"A run ended with a bug:\n{message['message']}")
        elif kind == "failed":
            self._failed(worker, str(message["message"]))
        elif kind == "measured":  # attacks follow, and somebody may wait for the row
            worker.told = True
            self._ended.append((worker.position, read_record(self._runs[worker.position][1])))
        elif kind == "done":
            worker.alone = worker.alone or bool(message["thread_left"])  # it carries out nothing more
            self._done(worker, read_record(self._runs[worker.position][1]))

    def _failed(self, worker: _Worker, why: str) -> None:
        """A run that its process did not bring to an end.

        Raises:
            KeyboardInterrupt: Ctrl-C in the terminal that both processes share.
        """
        if worker.process.exitcode in (STOPPED, -signal.SIGINT):
            raise KeyboardInterrupt
        resolved, folder = self._runs[worker.position]
        record = _left(resolved, folder, worker.since)
        if record is None:  # else it ended after everything was written
            who = resolved.who
            if (folder / UNLEARNED_FILE).is_file():
                who = f"The evaluation of {resolved.spec.method}, whose method had finished"
            nothing = Evaluation({}, {}, {})
            record = make_record(resolved, self._plugins, self._settings, {}, nothing, None, "failed", f"{who}: {why}")
            write_record(folder, record)
        worker.alone = True  # nobody knows what state its process is in
        self._done(worker, record)

    def _done(self, worker: _Worker, record: RunRecord) -> None:
        if not worker.told:
            self._ended.append((worker.position, record))
        if self._waiting and not worker.alone and not isolated(self._runs[self._waiting[0]][0], self._settings):
            self._hand(worker)
            return
        self._busy.remove(worker)
        started = _children(worker.process.pid)
        with contextlib.suppress(OSError):
            worker.connection.send(None)
        worker.process.join(0 if worker.alone else 10)
        _kill(worker.process)
        for child in started:  # what a plugin started and left
            with contextlib.suppress(psutil.Error):
                child.kill()
        worker.connection.close()


def _received(worker: _Worker) -> dict[str, Any] | None:
    """A message, where one is there."""
    try:
        if not worker.connection.poll():
            return None
        found = json.loads(worker.connection.recv_bytes())
    except (EOFError, OSError):  # it hung up: whatever it still does, it carries out nothing
        worker.process.join(5)
        _kill(worker.process)
        return None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _left(resolved: Resolved, folder: Path, since: datetime) -> RunRecord | None:
    """The record that a run wrote since then, before its process ended without a word."""
    with contextlib.suppress(BadRecord):
        record = read_record(folder)
        if resolved.made(record) and record.created_at >= since:
            return record
    return None


def _ending(code: int | None) -> str:
    """How a process ended, in a sentence."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"Its process was ended by {name}{', perhaps for want of memory' if name == 'SIGKILL' else ''}."
    return f"Its process ended with exit code {code} before the run was done."


def _kill(process: Any) -> None:
    """End a process and what it started."""
    if process.pid is None or not process.is_alive():
        return
    for child in _children(process.pid):
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.kill()
    process.join(10)


def _children(process: int | None) -> list[psutil.Process]:
    """Processes that a process started, and theirs."""
    try:
        return [] if process is None else psutil.Process(process).children(recursive=True)
    except psutil.Error:
        return []


def _context() -> Any:
    """How processes are started. On Linux from one that has imported what all of them need: that takes a hundredth of the time."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["salmu_core.runner.worker", "open_clip"])
    return context
