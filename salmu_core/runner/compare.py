"""A comparison: run what is missing, skip what is done, and let no failing method end the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from salmu_core.benchmark import Benchmark
from salmu_core.comparison.compare import Comparison, compare_records
from salmu_core.errors import SalmuError
from salmu_core.files.writing import check_writable
from salmu_core.plugins.registry import Plugins, load_plugins
from salmu_core.records.schema import Protocol, RunRecord, RunSpec
from salmu_core.records.store import RECORD_FILE
from salmu_core.report.report import write_reports
from salmu_core.runner.run import Settings, finished_record, run_resolved
from salmu_core.runner.workers import choose_workers, run_in_workers
from salmu_core.spec.presets import FROM_BENCHMARK, with_preset
from salmu_core.spec.resolve import Resolved, make_benchmark, resolve
from salmu_core.spec.study import AuditChoice

RUNS_FOLDER = "runs"
_STARTS: tuple[Literal["clean", "compromised"], ...] = ("clean", "compromised")


@dataclass(frozen=True)
class MethodChoice:
    """A method and the options it is given.

    Args:
        budgets: those it is run at; none: all of the comparison.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    budgets: Sequence[float] = ()


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
    methods: Sequence[str | MethodChoice] | None = None,
    *,
    benchmark: str = "mini",
    bench_seeds: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    budgets: Sequence[float] = (1.0,),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    benchmark_options: Mapping[str, Any] | None = None,
    precision: Literal["no", "bf16", "fp16"] = "no",
    protocol: Protocol = "seeded",
    preset: str | Path = FROM_BENCHMARK,
    out: str | Path,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
) -> list[PlannedRun]:
    """Every run of a comparison, the two reference rows of each instance first. Validates all names and options; runs nothing.

    Args:
        methods: names, or choices with options of their own, which may repeat a name.
        bench_seeds: instances of a benchmark that has a seed; none: the one of `benchmark_options`.
        options: method name -> options, for all choices of that method.

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
    wanted: Sequence[str | MethodChoice] = methods or sorted(name for name in plugins.methods if name != "none")
    choices = [MethodChoice(choice) if isinstance(choice, str) else choice for choice in wanted]
    chosen = [choice.name for choice in choices]
    given = dict(options or {})
    for name in given:
        if name not in chosen:
            plugins.get("method", name)
            raise SalmuError(f"Options are given for {name}, which is not in this comparison.", "Add it, or leave them out.")
    shared_options = dict(benchmark_options or {})
    if bench_seeds and "seed" in shared_options:
        raise SalmuError(
            "The benchmark's seed is given twice: one, and a list of instances.",
            "Leave out one of --bench-seed and --bench-seeds.",
        )
    instances = [
        make_benchmark(benchmark, {**shared_options, **seed}, plugins, settings.cache_folder)
        for seed in ([{"seed": seed} for seed in bench_seeds] or [{}])
    ]
    planned: list[PlannedRun] = []
    for shared in instances:
        specs = [
            RunSpec(method="none", benchmark=benchmark, start=start, precision=precision, protocol=protocol)
            for start in _STARTS
        ]
        specs += [
            RunSpec(
                method=choice.name,
                benchmark=benchmark,
                method_options=with_preset(
                    choice.name, {**given.get(choice.name, {}), **choice.options}, shared, preset, budget
                ),
                seed=seed,
                budget=budget,
                precision=precision,
                protocol=protocol,
            )
            for budget in budgets
            for seed in seeds
            for choice in choices
            if choice.name != "none" and (not choice.budgets or budget in choice.budgets)
        ]
        for spec in specs:
            resolved = resolve(spec, plugins, settings.cache_folder, shared)
            folder = Path(out) / RUNS_FOLDER / resolved.folder_name
            planned.append(PlannedRun(resolved, folder, finished_record(folder, resolved) is not None))
    # References first: they build the benchmark. The same choice given twice is one run.
    unique = list({item.folder: item for item in planned}.values())
    return sorted(unique, key=lambda item: item.resolved.spec.method != "none")


def compare(
    methods: Sequence[str | MethodChoice] | None = None,
    *,
    benchmark: str = "mini",
    bench_seeds: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    budgets: Sequence[float] = (1.0,),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    benchmark_options: Mapping[str, Any] | None = None,
    precision: Literal["no", "bf16", "fp16"] = "no",
    protocol: Protocol = "seeded",
    preset: str | Path = FROM_BENCHMARK,
    out: str | Path,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
    workers: int | None = 1,
    audits: AuditChoice = "fast",
) -> ComparisonResult:
    """Run methods over a benchmark (all installed ones by default), then compare.

    Runs that are done are read back, runs that were cut are resumed. A method that fails is a row that says why.

    Args:
        methods: registered names; default: all but `none`.
        seeds, budgets: every combination is run, on every instance of `bench_seeds`.
        options: method name -> options.
        preset: see `run`.
        workers, audits: see `run_planned`.
        out: holds `runs/`, `leaderboard.json`, `leaderboard.md` and `report.html`.

    Raises:
        SalmuError: names, options, output or benchmark are not usable; or a reference row cannot be made.
    """
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    planned = plan_comparison(
        methods,
        benchmark=benchmark,
        bench_seeds=bench_seeds,
        seeds=seeds,
        budgets=budgets,
        options=options,
        benchmark_options=benchmark_options,
        precision=precision,
        protocol=protocol,
        preset=preset,
        out=out,
        settings=settings,
        plugins=plugins,
    )
    return run_planned(planned, out, settings, plugins, workers, audits)


def run_planned(
    planned: Sequence[PlannedRun],
    out: str | Path,
    settings: Settings,
    plugins: Plugins,
    workers: int | None = 1,
    audits: AuditChoice = "none",
) -> ComparisonResult:
    """Carry out what `plan_comparison` planned, then compare and write the reports to `out`.

    Args:
        workers: runs at a time, each in a process of its own that loads the installed plugins; None: what suits this machine.
        audits: what every run is attacked with once all are done: what is cheap, all that are installed, or nothing. Attacks that
            lie beside a run are kept and shown whatever is chosen.
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
    attacked = [(item.resolved.benchmark, item.folder, item.resolved.title) for item in runs]
    notes = _attacked(attacked, audits, settings, plugins)
    return compared(records, [item.folder for item in [*references, *runs]], Path(out), notes)


def _attacked(
    runs: Sequence[tuple[Benchmark, Path, str]], audits: AuditChoice, settings: Settings, plugins: Plugins
) -> list[str]:
    """Let plugins attack the finished runs; returns sentences for the comparison's reader."""
    if audits == "none":
        return []
    asked = plugins.ask("attack_runs", runs=runs, audits=audits, settings=settings, plugins=plugins)
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
