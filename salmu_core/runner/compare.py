"""A comparison: run what is missing, skip what is done, and let no failing method end the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salmu_core.benchmark import Benchmark
from salmu_core.comparison.compare import compare_records
from salmu_core.data.processes import process_index
from salmu_core.errors import PluginFailure, SalmuError
from salmu_core.files.writing import check_writable
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE
from salmu_core.report.report import write_reports
from salmu_core.runner.jobs import Launched, launch_runs
from salmu_core.runner.planned import (
    ComparisonResult,
    PlannedRun,
    as_carried_out,
    described,
    folder_of,
    likely_cost,
    plan_comparison,
)
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.runner.workers import choose_workers, run_alone, run_in_workers
from salmu_core.spec.study import AuditChoice, Study, StudyMethod, write_study

MethodChoice = StudyMethod


def compare(
    study: Study | Sequence[str | StudyMethod] | None = None,
    *,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
    planned: Sequence[PlannedRun] | None = None,
    text: str | None = None,
    **parts: Any,
) -> ComparisonResult:
    """Run what a study describes, then compare.

    Runs that are done are read back, runs that were cut are resumed. A method that fails is a row that says why. The results folder
    holds `runs/`, `study.toml`, `leaderboard.json`, `leaderboard.md` and `report.html`.

    Args:
        study: a `Study`, or the methods of one (default: all that are installed but `none`) with `parts`.
        settings: how runs are carried out; default: as the study says.
        planned: the result of `plan_comparison` for this study, where it is known already.
        text: the study's file as it was written, to be kept with the results.
        parts: where `study` is a list of methods: `benchmark`, `benchmark_options`, `bench_seeds`, `seeds`, `budgets`, `options`
            (method name -> options), `preset` (see `run`), `precision`, `protocol`, `workers` (runs at a time, each in a process
            of its own; default 1, None: what suits this machine), `audits` ("fast", "all" or "none": what every finished run is
            attacked with), `out`.

    Raises:
        SalmuError: names, options, output or benchmark are not usable; or a reference row cannot be made.
    """
    plugins = plugins or load_plugins()
    study, settings = described(study, settings, plugins, parts)
    if planned is None:
        planned = plan_comparison(study, settings=settings, plugins=plugins)
    if study.launcher is None:
        _keep_study(study, planned, text)
        return run_planned(planned, settings, plugins, study.execution.workers, study.audits)
    launched = launch(study, planned, settings, plugins, text=text)
    if launched.result is None or launched.dead:
        died = ", ".join(f"{job.run} (log: {job.log})" for job in launched.dead)
        raise SalmuError(f"Jobs ended without a record: {died}.", "The same call again goes on from the last checkpoints.")
    return launched.result


def launch(
    study: Study,
    planned: Sequence[PlannedRun],
    settings: Settings,
    plugins: Plugins,
    *,
    wait: bool = True,
    text: str | None = None,
) -> Launched:
    """`compare` for a study with a launcher, which may come back before the jobs are done.

    Args:
        wait: False: come back when all jobs are submitted; the same call again attaches to them.

    Raises:
        SalmuError: no plugin launches jobs, or one refused.
    """
    assert study.launcher is not None
    _keep_study(study, planned, text)
    return launch_runs(planned, folder_of(planned), settings, plugins, study.launcher, wait=wait)


def _keep_study(study: Study, planned: Sequence[PlannedRun], text: str | None) -> None:
    check_writable(folder_of(planned), needed_bytes=64_000_000)
    if process_index() == 0:
        write_study(folder_of(planned), as_carried_out(study, planned), text)


def run_planned(
    planned: Sequence[PlannedRun],
    settings: Settings,
    plugins: Plugins,
    workers: int | None = 1,
    audits: AuditChoice = "none",
) -> ComparisonResult:
    """Carry out what `plan_comparison` planned, then compare and write the reports to the results folder.

    Args:
        workers: runs at a time, each in a process of its own that loads the installed plugins; None: what suits this machine.
        audits: what every run is attacked with: what is cheap, all that are installed, or nothing. Workers attack a run when it is
            done, one process does so when all are. Attacks that lie beside a run are kept and shown whatever is chosen.
    """
    # The references first: they build the benchmark, and everything is measured against them.
    references = [item for item in planned if item.resolved.spec.method == "none"]
    runs = [item for item in planned if item.resolved.spec.method != "none"]
    records = [run_alone(item.resolved, item.folder, settings, plugins) for item in references]
    # Quick ones first: somebody is waiting for the first row.
    open_runs = sorted((item for item in runs if settings.overwrite or not item.done), key=likely_cost)
    if workers is None:
        workers = 1
        if len(open_runs) > 1:
            model = open_runs[0].resolved.benchmark.load_model("compromised")
            workers = choose_workers(len(open_runs), sum(t.nbytes for t in model.weights().values()), settings)
    if workers > 1:
        here = [(item.resolved, item.folder) for item in open_runs]
        made = run_in_workers(here, settings, plugins, workers, audits=audits)
    else:
        made = [run_alone(item.resolved, item.folder, settings, plugins) for item in open_runs]
    found = dict(zip((str(item.folder) for item in open_runs), made, strict=True))
    records += [found.get(str(item.folder)) or run_resolved(item.resolved, item.folder, settings, plugins) for item in runs]
    attacked = [(item.resolved.benchmark, item.folder, item.resolved.title) for item in runs]
    notes = _attacked(attacked, audits, settings, plugins)
    return compared(records, [item.folder for item in [*references, *runs]], folder_of(planned), notes)


def _attacked(
    runs: Sequence[tuple[Benchmark, Path, str]], audits: AuditChoice, settings: Settings, plugins: Plugins
) -> list[str]:
    """Let plugins attack the finished runs; returns sentences for the comparison's reader."""
    if audits == "none":
        return []
    try:
        asked = plugins.ask("attack_runs", runs=runs, audits=audits, settings=settings, plugins=plugins)
    except PluginFailure as failure:  # the runs are done, and can be compared without
        return [f"No run was attacked: {failure.message}."]
    return [note for notes in asked for note in notes or ()] if asked else ["No run was attacked: no audit is installed."]


def compared(
    records: Sequence[RunRecord], folders: Sequence[Path], out: Path, notes: Sequence[str] = ()
) -> ComparisonResult:
    """The leaderboard of finished runs, written to `out`.

    Args:
        folders: where each record lies.
        notes: sentences for whoever reads it, beside those of the comparison.
    """
    comparison = compare_records(records, folders)
    comparison = comparison.model_copy(update={"notes": (*comparison.notes, *notes)})
    places = [folder / RECORD_FILE for folder in folders]
    return ComparisonResult(comparison, list(records), write_reports(out, comparison, zip(records, places, strict=True)))
