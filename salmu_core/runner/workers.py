"""Several runs at once on a machine without an accelerator: small models gain little from a second thread, and all from a
second process."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import psutil
import torch

from salmu_core.benchmark import Benchmark
from salmu_core.data.processes import process_count
from salmu_core.errors import SalmuError
from salmu_core.plugins.registry import Plugins, load_plugins
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.spec.resolve import Resolved, resolve

LARGEST = 200_000_000  # bytes of weights up to which several models are trained side by side unasked
_MEMORY = 2_000_000_000  # bytes that a worker with such a model is given room for
_MOST = 8


def choose_workers(runs: int, weight_bytes: int, settings: Settings) -> int:
    """How many runs at once suit this machine: one where there is an accelerator, where the model is large or where this is
    one of several processes; else as many as there are cores and memory for."""
    if process_count() > 1 or weight_bytes > LARGEST or (torch.accelerator.is_available() and not settings.cpu):
        return 1
    room = int(psutil.virtual_memory().available // _MEMORY)
    return max(1, min(runs, os.cpu_count() or 1, room, _MOST))


def run_in_workers(
    runs: Sequence[tuple[Resolved, Path]], settings: Settings, plugins: Plugins, workers: int, threads: int | None = None
) -> list[RunRecord]:
    """Carry out independent runs, `workers` at a time, each with its share of the cores. Workers load the installed plugins;
    observers of `plugins` are told when a run is done.

    Args:
        threads: of each worker; default: its share of the cores.

    Returns:
        The records, in the order of `runs`.

    Raises:
        SalmuError: of a run; those that are done stay done. Or a worker was killed.
    """
    records: dict[int, RunRecord] = {}
    with closing(finished_runs(runs, settings, workers, threads)) as finished:
        for position, record in finished:
            records[position] = record
            plugins.tell("run_finished", record=record)
    return [records[position] for position in range(len(runs))]


def finished_runs(
    runs: Sequence[tuple[Resolved, Path]], settings: Settings, workers: int, threads: int | None = None
) -> Generator[tuple[int, RunRecord]]:
    """As `run_in_workers`, with each run's position and record as it ends. Closing the generator begins no further run; those that are
    going on end first, and their records are written."""
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    waiting = deque(enumerate(runs))
    going: dict[Future[RunRecord], int] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare, (threads,)) as pool:
        try:
            while waiting or going:
                # Not more than are at work: what a pool has queued cannot be taken back.
                while waiting and len(going) < workers:
                    position, (resolved, folder) = waiting.popleft()
                    going[pool.submit(_work, resolved.spec, folder, settings)] = position
                for future in wait(going, return_when=FIRST_COMPLETED).done:
                    yield going.pop(future), future.result()
        except BrokenProcessPool:
            raise SalmuError(
                "A process that carried out a run was killed, perhaps for want of memory.",
                "Run the same command again with fewer --workers; it goes on where it was.",
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _prepare(threads: int) -> None:
    torch.set_num_threads(threads)


_benchmarks: dict[str, Benchmark] = {}  # of this worker: its data is read once and not for every run


def _work(spec: RunSpec, folder: Path, settings: Settings) -> RunRecord:
    plugins = load_plugins()
    instance = json.dumps([spec.benchmark, spec.benchmark_options], sort_keys=True, default=str)
    resolved = resolve(spec, plugins, settings.cache_folder, _benchmarks.get(instance))
    _benchmarks[instance] = resolved.benchmark
    return run_resolved(resolved, folder, settings, plugins)
