"""What `salmu compare` and `salmu study` do: plan, run what is missing, rank, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salmu_core.cli.arguments import results_folder
from salmu_core.cli.showing import Showing
from salmu_core.errors import BadOptions

if TYPE_CHECKING:
    from salmu_core.plugins.registry import Plugins
    from salmu_core.runner.compare import ComparisonResult, PlannedRun
    from salmu_core.runner.run import Settings
    from salmu_core.spec.study import Study


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
    from salmu_core.plugins.registry import load_plugins
    from salmu_core.runner.compare import MethodChoice, plan_comparison, run_planned
    from salmu_core.runner.planning import plan_runs
    from salmu_core.spec.resolve import make_metrics
    from salmu_core.spec.study import write_study

    if no_wait and study.launcher is None:
        raise BadOptions("--no-wait needs jobs, and this study has no launcher.")
    plugins = load_plugins()
    how = settings_of(study, overwrite=overwrite)
    out = Path(study.out) if study.out is not None else _results_folder(study)
    given = {name: dict(values) for name, values in (options or {}).items()}
    planned = plan_comparison(
        [MethodChoice(method.name, method.options, method.budgets) for method in study.methods],
        benchmark=study.benchmark,
        bench_seeds=study.bench_seeds,
        seeds=study.seeds,
        budgets=study.budgets,
        options=given,
        benchmark_options=study.benchmark_options,
        precision=study.execution.precision,
        protocol=study.execution.protocol,
        preset=study.preset,
        out=out,
        settings=how,
        plugins=plugins,
    )
    showing.check([metric.name for metric in make_metrics(plugins, how.metric_options, planned[0].resolved.benchmark)])
    done = 0 if overwrite else sum(item.done for item in planned)
    if dry_run:
        plans = plan_runs([(item.resolved, item.folder) for item in planned], how, plugins)
        if len(study.bench_seeds) > 1:
            seeds = [item.resolved.spec.benchmark_options["seed"] for item in planned]
            plans = [
                replace(plan, title=f"{plan.title}, bench seed {seed}") for plan, seed in zip(plans, seeds, strict=True)
            ]
        if showing.form == "json":
            render.print_json([plan.as_json() for plan in plans])
        else:
            render.show_plans(plans)
        return 0
    if process_index() == 0:
        render.show_problems(plugins.problems)
        render.err.print(f"{len(planned)} runs, {done} of them done before.", highlight=False)
        _show_presets(planned, study, given)
        write_study(out, as_run(study, planned, out), text)
    with ProgressDisplay(runs=len(planned), quiet=showing.form == "json") as display:
        plugins.watch(display)
        display.skip(done)
        result: ComparisonResult | None
        if study.launcher is None:
            result, problem = run_planned(planned, out, how, plugins, study.execution.workers, study.audits), False
        else:
            result, problem = _launch(planned, out, how, plugins, study, wait=not no_wait)
    if process_index() != 0:
        return 0
    if result is None:
        return 1 if problem else 0
    code = showing.show(result.comparison, result.files)
    return code or (0 if not problem and all(record.status == "ok" for record in result.records) else 1)


def settings_of(study: Study, *, overwrite: bool = False) -> Settings:
    """How its runs are carried out."""
    from salmu_core.runner.run import Settings

    how = study.execution
    return Settings(
        overwrite=overwrite,
        checkpoint_seconds=how.checkpoint_seconds,
        log_with=how.log_with,
        cpu=how.cpu,
        metric_options=study.metrics,
        keep_pixels=how.keep_pixels,
        micro_batch=how.micro_batch,
        checkpoint_activations=how.checkpoint_activations,
        compile=how.compile,
    )


def _results_folder(study: Study) -> Path:
    seeds = {"seeds": "-".join(map(str, study.bench_seeds))} if study.bench_seeds else {}
    return results_folder(study.benchmark, {**study.benchmark_options, **seeds})


def as_run(study: Study, planned: Sequence[PlannedRun], out: Path) -> Study:
    """The study as it is carried out: every method by name, with the options that presets chose, so that it means the same where
    other plugins or presets are installed."""
    from salmu_core.spec.study import StudyMethod

    found: dict[str, tuple[str, dict[str, Any], dict[float, None]]] = {}
    for item in planned:
        spec = item.resolved.spec
        if spec.method != "none":
            chosen = {name: item.resolved.options[name] for name in spec.method_options}
            found.setdefault(f"{spec.method} {chosen}", (spec.method, chosen, {}))[2][spec.budget] = None
    methods = [
        StudyMethod(name=name, options=chosen, budgets=() if len(budgets) == len(study.budgets) else tuple(budgets))
        for name, chosen, budgets in found.values()
    ]
    return study.model_copy(update={"methods": tuple(methods), "preset": "none", "out": str(out)})


def _show_presets(planned: Sequence[PlannedRun], study: Study, given: Mapping[str, Mapping[str, Any]]) -> None:
    from salmu_core.cli import render

    asked = {method.name: {*method.options, *given.get(method.name, {})} for method in study.methods}
    shown: set[str] = set()
    for spec in (item.resolved.spec for item in planned):
        known = asked.get(spec.method, set(given.get(spec.method, {})))
        taken = {option: value for option, value in spec.method_options.items() if option not in known}
        if taken and f"{spec.method} {taken}" not in shown:
            shown.add(f"{spec.method} {taken}")
            render.show_preset(spec.method, taken, study.preset, spec.budget if len(study.budgets) > 1 else None)


def _launch(
    planned: Sequence[PlannedRun], out: Path, how: Settings, plugins: Plugins, study: Study, *, wait: bool
) -> tuple[ComparisonResult | None, bool]:
    """Run as jobs. Returns the comparison, where there is one already, and whether a job died."""
    from salmu_core.cli import render
    from salmu_core.runner.jobs import Launcher, launch_runs

    assert study.launcher is not None
    launched = launch_runs(planned, out, how, plugins, Launcher(study.launcher.kind, study.launcher.options), wait=wait)
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
