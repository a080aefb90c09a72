"""Carry out planned runs a few at a time: what each experiment on `mini` shares. Restartable, and it ends in time when it is told to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing

from salmu_core.records.schema import RunRecord
from salmu_core.runner.planned import PlannedRun
from salmu_core.runner.run import Settings
from salmu_core.runner.workers import finished_runs


def carry_out(
    planned: Sequence[PlannedRun],
    settings: Settings,
    workers: int,
    keep: Callable[[PlannedRun, RunRecord], object],
    minutes: float | None = None,
) -> int:
    """Run what is planned in processes of one thread each, and tell what is done and how long the rest may take.

    Args:
        planned: in the order in which they begin.
        keep: told of each run as it ends; what it writes is what a later call need not do again.
        minutes: begin no further run after so many; those that are going on end first.

    Returns:
        How many runs were not begun.
    """
    started = time.monotonic()
    runs = [(item.resolved, item.folder) for item in planned]
    costs = [item.resolved.spec.budget for item in planned]  # a run costs about as much as its budget
    done, spent = 0, 0.0
    with closing(finished_runs(runs, settings, workers, threads=1)) as finished:
        for position, record in finished:
            keep(planned[position], record)
            done, spent = done + 1, spent + costs[position]
            elapsed = time.monotonic() - started
            left = elapsed / spent * (sum(costs) - spent) / 60
            spec = record.spec
            title = f"{spec.method} {spec.budget:g}x seed {spec.seed} instance {spec.benchmark_options.get('seed', 0)}"
            print(
                f"{done}/{len(planned)} {elapsed:.0f} s {title}: {record.status}; about {left:.0f} minutes left", flush=True
            )
            if minutes is not None and elapsed > 60 * minutes:
                break
    if done < len(planned):
        print(
            f"The time is over: {len(planned) - done} of {len(planned)} runs are left. The same command goes on.", flush=True
        )
    return len(planned) - done
