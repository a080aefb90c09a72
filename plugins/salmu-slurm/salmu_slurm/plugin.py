"""What this package registers: launching the runs of a comparison as jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from salmu_core import hookimpl
from salmu_core.plugins.loading import Plugins
from salmu_core.runner.jobs import Launched
from salmu_core.runner.planned import PlannedRun
from salmu_core.runner.run import Settings
from salmu_core.spec.study import StudyLauncher


@hookimpl
def launch_runs(
    planned: Sequence[PlannedRun], out: Path, settings: Settings, plugins: Plugins, launcher: StudyLauncher, wait: bool
) -> Launched:
    """Launch through submitit."""
    from salmu_slurm.launch import launch_planned  # submitit takes a while to import

    return launch_planned(planned, out, settings, plugins, launcher, wait=wait)
