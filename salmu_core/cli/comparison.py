"""What `salmu compare` and `salmu study` do: plan, run what is missing, rank, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from salmu_core.cli.shown_rows import Showing
from salmu_core.errors import BadOptions

if TYPE_CHECKING:
    from salmu_core.plugins.loading import Plugins
    from salmu_core.runner.planned import ComparisonResult, PlannedRun
    from salmu_core.runner.run import Settings
    from salmu_core.spec.study import Study


#: So many presets are spelt out before a comparison; of more, their number.
MANY_PRESETS = 6


def carry_out(
    study: Study,
    showing: Showing,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    no_wait: bool = False,
    text: str | None = None,
) -> int:
    """Run a study and show its leaderboard.

    Args:
        options: method name -> options, for all choices of that method.
        text: the study's file as it was written, to be kept with the results.

    Returns:
        The exit code: 0, 1 when a run is not ok, 3 when a condition is broken.
    """
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.data.processes import process_index
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.compare import compare
    from salmu_core.runner.planned import plan_comparison, settings_of, with_options
    from salmu_core.spec.resolve import make_metrics

    if no_wait and study.launcher is None:
        raise BadOptions("--no-wait needs jobs, and this study has no launcher.")
    if study.launcher is not None and study.execution.time_limit is not None:
        raise BadOptions("A job's time is limited by its launcher.", "Use --launcher-set timeout_min=N.")
    plugins = load_plugins()
    how = settings_of(study, overwrite=overwrite)
    study = with_options(study, options or {}, plugins)
    planned = plan_comparison(study, settings=how, plugins=plugins)
    showing.check([metric.name for metric in make_metrics(plugins, how.metric_options, planned[0].resolved.benchmark)])
    if dry_run:
        return _show_plans(study, planned, how, plugins, as_json=showing.form == "json")
    done, known = 0 if overwrite else sum(item.done for item in planned), len(plugins.problems)
    if process_index() == 0:
        render.show_problems(plugins.problems)
        render.err.print(f"{len(planned)} runs, {done} of them done before.", highlight=False)
        _show_presets(planned, study)
    with ProgressDisplay(runs=len(planned), quiet=showing.form == "json") as display:
        plugins.watch(display)
        display.skip(done)
        result: ComparisonResult | None
        if study.launcher is None:
            result, problem = compare(study, settings=how, plugins=plugins, planned=planned, text=text), False
        else:
            result, problem = _launch(study, planned, how, plugins, wait=not no_wait, text=text)
    if process_index() != 0:
        return 0
    render.show_problems(plugins.problems[known:])  # what observers did meanwhile
    if result is None:
        return 1 if problem else 0
    code = showing.show(result.comparison, result.files)
    return code or (0 if not problem and all(record.status == "ok" for record in result.records) else 1)


def _show_plans(study: Study, planned: Sequence[PlannedRun], how: Settings, plugins: Plugins, *, as_json: bool) -> int:
    from salmu_core.cli import render
    from salmu_core.runner.planning import plan_runs

    plans = plan_runs([(item.resolved, item.folder) for item in planned], how, plugins)
    if len(study.bench_seeds) > 1:
        seeds = [item.resolved.spec.benchmark_options["seed"] for item in planned]
        plans = [replace(plan, title=f"{plan.title}, bench seed {seed}") for plan, seed in zip(plans, seeds, strict=True)]
    if as_json:
        render.print_json([plan.as_json() for plan in plans])
    else:
        render.show_plans(plans)
    return 0


def _show_presets(planned: Sequence[PlannedRun], study: Study) -> None:
    from salmu_core.cli import render

    asked = {method.name: method.options for method in study.methods}
    found: dict[str, tuple[str, dict[str, Any], float]] = {}
    for spec in (item.resolved.spec for item in planned):
        known = asked.get(spec.method, {})
        taken = {option: value for option, value in spec.method_options.items() if option not in known}
        if taken:
            found.setdefault(f"{spec.method} {taken}", (spec.method, taken, spec.budget))
    if len(found) > MANY_PRESETS:
        render.show_presets_in_short(len({method for method, _, _ in found.values()}), study.preset)
        return
    for method, taken, budget in found.values():
        render.show_preset(method, taken, study.preset, budget if len(study.budgets) > 1 else None)


def _launch(
    study: Study, planned: Sequence[PlannedRun], how: Settings, plugins: Plugins, *, wait: bool, text: str | None
) -> tuple[ComparisonResult | None, bool]:
    """Run as jobs. Returns the comparison, where there is one already, and whether a job died."""
    from salmu_core.cli import render
    from salmu_core.runner.compare import launch

    launched = launch(study, planned, how, plugins, wait=wait, text=text)
    if launched.waiting:
        render.err.print(
            f"{len(launched.waiting)} jobs are queued or running. The same command without --no-wait waits and compares.",
            highlight=False,
        )
    for job in launched.dead:
        render.err.print(
            f"The job {job.job} of {job.run} ended without a record; its log: {job.log}", style="red", markup=False
        )
    if launched.result is not None and study.audits != "none":
        render.err.print(
            "Runs that were launched as jobs are not attacked. The same command without --launcher attacks those that are done.",
            highlight=False,
        )
    if launched.dead:
        render.err.print("The same command again goes on from the last checkpoints.", highlight=False)
    return launched.result, bool(launched.dead)
