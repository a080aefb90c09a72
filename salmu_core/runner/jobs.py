"""A comparison's runs as jobs: what a plugin that launches jobs is told, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from salmu_core.errors import SalmuError
from salmu_core.plugins.loading import Plugins
from salmu_core.runner.planned import ComparisonResult, PlannedRun
from salmu_core.runner.run import Settings
from salmu_core.spec.study import StudyLauncher


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
    planned: Sequence[PlannedRun],
    out: Path,
    settings: Settings,
    plugins: Plugins,
    launcher: StudyLauncher,
    *,
    wait: bool = True,
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
