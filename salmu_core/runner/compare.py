"""A comparison: run what is missing, skip what is done, and let no failing method end the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from salmu_core.errors import SalmuError
from salmu_core.files import check_writable
from salmu_core.plugins import Plugins, load_plugins
from salmu_core.records.compare import Comparison, compare_records
from salmu_core.records.report import write_reports
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.records.store import RECORD_FILE
from salmu_core.runner.presets import FROM_BENCHMARK, with_preset
from salmu_core.runner.resolve import Resolved, make_benchmark, resolve
from salmu_core.runner.run import Settings, finished_record, run_resolved
from salmu_core.runner.workers import choose_workers, run_in_workers

RUNS_FOLDER = "runs"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison, its directory, and whether it is done already."""

    resolved: Resolved
    folder: Path
    done: bool


@dataclass(frozen=True)
class ComparisonResult:
    """What `compare` hands back."""

    comparison: Comparison
    records: list[RunRecord]
    files: Mapping[str, Path] = field(default_factory=dict)


def plan_comparison(
    methods: Sequence[str] | None = None,
    *,
    benchmark: str = "mini",
    seeds: Sequence[int] = (0,),
    budgets: Sequence[float] = (1.0,),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    benchmark_options: Mapping[str, Any] | None = None,
    precision: Literal["no", "bf16", "fp16"] = "no",
    preset: str | Path = FROM_BENCHMARK,
    out: str | Path,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
) -> list[PlannedRun]:
    """Every run of a comparison, the two reference rows first. Validates all names and options; runs nothing.

    Raises:
        UnknownName, BadOptions: any name or option that is not usable, before anything is run.
        SalmuError: no metric is installed.
    """
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    if not plugins.metrics:
        raise SalmuError(
            "No metric is installed, so there is nothing to compare by.", "Install a package that registers metrics."
        )
    chosen = list(methods) if methods else sorted(name for name in plugins.methods if name != "none")
    given = dict(options or {})
    for name in given:
        if name not in chosen:
            plugins.get("method", name)
            raise SalmuError(f"Options are given for {name}, which is not in this comparison.", "Add it, or leave them out.")
    shared = make_benchmark(benchmark, dict(benchmark_options or {}), plugins, settings.cache_folder)
    chosen_options = {name: with_preset(name, given.get(name, {}), shared, preset) for name in chosen}
    specs = [
        RunSpec(method="none", benchmark=benchmark, start=start, precision=precision) for start in ("clean", "compromised")
    ]
    specs += [
        RunSpec(
            method=name,
            benchmark=benchmark,
            method_options=chosen_options[name],
            seed=seed,
            budget=budget,
            precision=precision,
        )
        for budget in budgets
        for seed in seeds
        for name in chosen
        if name != "none"
    ]
    planned = []
    for spec in specs:
        resolved = resolve(spec, plugins, settings.cache_folder, shared)
        folder = Path(out) / RUNS_FOLDER / resolved.folder_name
        planned.append(PlannedRun(resolved, folder, finished_record(folder, resolved) is not None))
    return planned


def compare(
    methods: Sequence[str] | None = None,
    *,
    benchmark: str = "mini",
    seeds: Sequence[int] = (0,),
    budgets: Sequence[float] = (1.0,),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    benchmark_options: Mapping[str, Any] | None = None,
    precision: Literal["no", "bf16", "fp16"] = "no",
    preset: str | Path = FROM_BENCHMARK,
    out: str | Path,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
    workers: int | None = 1,
) -> ComparisonResult:
    """Run methods over a benchmark (all installed ones by default), then compare.

    Runs that are done are read back, runs that were cut are resumed. A method that fails is a row that says why.

    Args:
        methods: registered names; default: all but `none`.
        seeds, budgets: every combination is run.
        options: method name -> options.
        preset: see `run`.
        workers: see `run_planned`.
        out: holds `runs/`, `leaderboard.json`, `leaderboard.md` and `report.html`.

    Raises:
        SalmuError: names, options, output or benchmark are not usable; or a reference row cannot be made.
    """
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    planned = plan_comparison(
        methods,
        benchmark=benchmark,
        seeds=seeds,
        budgets=budgets,
        options=options,
        benchmark_options=benchmark_options,
        precision=precision,
        preset=preset,
        out=out,
        settings=settings,
        plugins=plugins,
    )
    return run_planned(planned, out, settings, plugins, workers)


def run_planned(
    planned: Sequence[PlannedRun], out: str | Path, settings: Settings, plugins: Plugins, workers: int | None = 1
) -> ComparisonResult:
    """Carry out what `plan_comparison` planned, then compare and write the reports to `out`.

    Args:
        workers: runs at a time, each in a process of its own that loads the installed plugins; None: what suits this machine.
    """
    check_writable(Path(out), needed_bytes=64_000_000)
    # The references first: they build the benchmark, and everything is measured against them.
    references = [item for item in planned if item.resolved.spec.method == "none"]
    runs = [item for item in planned if item.resolved.spec.method != "none"]
    records = [run_resolved(item.resolved, item.folder, settings, plugins) for item in references]
    open_runs = [item for item in runs if settings.overwrite or not item.done]
    if workers is None:
        workers = 1
        if len(open_runs) > 1:
            model = open_runs[0].resolved.benchmark.load_model("compromised")
            workers = choose_workers(len(open_runs), sum(t.nbytes for t in model.weights().values()), settings)
    if workers > 1:
        made = run_in_workers([(item.resolved, item.folder) for item in open_runs], settings, plugins, workers)
        found = dict(zip((str(item.folder) for item in open_runs), made, strict=True))
        # Those that were done before are read back.
        records += [
            found.get(str(item.folder)) or run_resolved(item.resolved, item.folder, settings, plugins) for item in runs
        ]
    else:
        records += [run_resolved(item.resolved, item.folder, settings, plugins) for item in runs]
    comparison = compare_records(records)
    places = [item.folder / RECORD_FILE for item in (*references, *runs)]
    return ComparisonResult(comparison, records, write_reports(Path(out), comparison, zip(records, places, strict=True)))
