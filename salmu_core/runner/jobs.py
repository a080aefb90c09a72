"""A comparison's runs as jobs: what a plugin that launches jobs is told, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from salmu_core.errors import SalmuError
from salmu_core.plugins.registry import Plugins
from salmu_core.runner.compare import ComparisonResult, PlannedRun
from salmu_core.runner.run import Settings


@dataclass(frozen=True)
class Launcher:
    """Where jobs run and what each is given.

    Args:
        kind: "slurm", or "local" for processes of this machine.
        options: submitit's names, e.g. timeout_min, gpus_per_node, tasks_per_node, nodes, cpus_per_task, mem_gb,
            slurm_partition, slurm_account, slurm_array_parallelism; on this machine also `parallel`, jobs at a time.
    """

    kind: Literal["slurm", "local"]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DeadJob:
    """A job that ended without leaving a record."""

    run: str
    job: str
    log: Path


@dataclass(frozen=True)
class Launched:
    """What came of it.

    Args:
        result: the comparison of all finished runs; None when not waited for, or while a reference row is missing.
        dead: jobs that ended without a record.
        waiting: runs whose jobs are queued or running.
    """

    result: ComparisonResult | None
    dead: Sequence[DeadJob] = ()
    waiting: Sequence[str] = ()


def launch_runs(
    planned: Sequence[PlannedRun], out: Path, settings: Settings, plugins: Plugins, launcher: Launcher, *, wait: bool = True
) -> Launched:
    """Have a plugin run what is missing as jobs, and compare.

    Args:
        wait: False: come back when all jobs are submitted.

    Raises:
        SalmuError: no plugin launches jobs, or one refused.
    """
    asked = {"planned": planned, "out": out, "settings": settings, "plugins": plugins, "launcher": launcher, "wait": wait}
    launched: list[Launched] = [answer for answer in plugins.ask("launch_runs", **asked) if answer is not None]
    if not launched:
        raise SalmuError(
            "No installed package launches jobs.", "Install one that has the hook launch_runs, or leave --launcher out."
        )
    return launched[0]
