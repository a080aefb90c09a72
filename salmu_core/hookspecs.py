"""The whole contract between salmu and its plugins: six hooks to register, two to carry out parts of a
comparison, three to watch.

A plugin is any importable module or object named by an entry point of the group `salmu`; it implements the hooks it needs
and marks them with `salmu_core.hookimpl`. Commands have a group of their own, `salmu.commands`, so that `salmu --help` imports
no other plugin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from salmu_core.audit import Audit
    from salmu_core.benchmark import Benchmark
    from salmu_core.layout import Layout
    from salmu_core.method import UnlearningMethod
    from salmu_core.metric import Metric
    from salmu_core.plugins.commands import CommandInfo
    from salmu_core.plugins.loading import Plugins
    from salmu_core.records.schema import RunRecord, RunSpec
    from salmu_core.runner.jobs import Launched
    from salmu_core.runner.planned import PlannedRun
    from salmu_core.runner.progress import Progress
    from salmu_core.runner.run import Settings
    from salmu_core.spec.study import AuditChoice, StudyLauncher

hookspec = pluggy.HookspecMarker("salmu")
hookimpl = pluggy.HookimplMarker("salmu")


@hookspec
def register_methods() -> Iterable[type[UnlearningMethod]]:
    """Called once when plugins are loaded. Return the plugin's method classes (classes, not instances). Since 0.1.

    Example:
        @hookimpl
        def register_methods():
            return [GradientAscent]
    """
    return []


@hookspec
def register_metrics() -> Iterable[type[Metric]]:
    """Called once when plugins are loaded. Return the plugin's metric classes. Since 0.1.

    Example:
        @hookimpl
        def register_metrics():
            return [RetFail, AssocStr]
    """
    return []


@hookspec
def register_benchmarks() -> Iterable[type[Benchmark]]:
    """Called once when plugins are loaded. Return the plugin's benchmark classes. Since 0.1.

    Example:
        @hookimpl
        def register_benchmarks():
            return [Mini]
    """
    return []


@hookspec
def register_layouts() -> Iterable[type[Layout]]:
    """Called once when plugins are loaded. Return the plugin's data layouts: what `salmu data check` and `salmu data
    export` read and write. Since 0.2.

    Example:
        @hookimpl
        def register_layouts():
            return [SalmubenchLayout]
    """
    return []


@hookspec
def register_audits() -> Iterable[type[Audit]]:
    """Called once when plugins are loaded. Return the plugin's audit classes: attacks that `salmu audit` runs. Since 0.2.

    Example:
        @hookimpl
        def register_audits():
            return [FewShotRelearning]
    """
    return []


@hookspec
def register_commands() -> Iterable[CommandInfo]:
    """Called when the command line starts, of plugins in the entry-point group `salmu.commands` alone. Return what is typed, a
    summary and where the click command is; import neither torch nor anything else that takes time: the module is imported for
    `salmu --help` too, and what the command itself needs only when it is called. Core's own commands cannot be replaced. Since 0.2.

    Example:
        @hookimpl
        def register_commands():
            return [CommandInfo("count-runs", "Count runs by status.", "salmu_count_runs.command:count_runs")]
    """
    return []


@hookspec
def attack_runs(
    runs: Sequence[tuple[Benchmark, Path, str]], audits: AuditChoice, settings: Settings, plugins: Plugins
) -> Sequence[str]:
    """Called by a comparison on the main process when its runs are finished and before they are compared, unless audits are
    switched off. Attack the model in each run's folder and write what the attacks got to `audits.json` there
    (`salmu_core.records.attacks`). Return a sentence for each thing that the reader of the comparison should know. Since 0.2.

    `runs` are the benchmark, folder and title of each run, diverged and failed ones too; `audits` is "fast" or "all".

    Example:
        @hookimpl
        def attack_runs(runs, audits, settings, plugins):
            return [f"{title}: not attacked" for _, folder, title in runs]
    """
    return []


@hookspec
def launch_runs(
    planned: Sequence[PlannedRun], out: Path, settings: Settings, plugins: Plugins, launcher: StudyLauncher, wait: bool
) -> Launched | None:
    """Called instead of running what is missing, when a comparison has a launcher (`--launcher`). Start a job for every planned run
    that is not done, wait for them when `wait` says so, and return what came of it; None: this plugin does not know the
    launcher. The first answer counts. Since 0.2.

    Example:
        @hookimpl
        def launch_runs(planned, out, settings, plugins, launcher, wait):
            return launch_planned(planned, out, settings, plugins, launcher, wait=wait)
    """


@hookspec
def run_started(spec: RunSpec) -> None:
    """Called on the main process when a run's names and options are valid and its work begins. Only watch: what this
    returns is ignored, and an exception is reported and the run goes on. Since 0.1.

    Example:
        @hookimpl
        def run_started(spec):
            print(spec.method)
    """


@hookspec
def run_progress(event: Progress) -> None:
    """Called on the main process as a run moves: stages, steps of a stage, logged values. Only watch. Since 0.1.

    Example:
        @hookimpl
        def run_progress(event):
            print(event.stage, event.done, event.total)
    """


@hookspec
def run_finished(record: RunRecord) -> None:
    """Called on the main process after a run's record is written, whatever its status. Only watch. Since 0.1.

    Example:
        @hookimpl
        def run_finished(record):
            print(record.status, record.scores)
    """
