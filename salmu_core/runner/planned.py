"""A study as the runs that it consists of: names and options become objects, folders are found, nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from salmu_core.benchmark import Benchmark
from salmu_core.comparison.leaderboard import Comparison
from salmu_core.errors import SalmuError
from salmu_core.method import LossMethod
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.runner.run import Settings, finished_record
from salmu_core.spec.presets import with_preset
from salmu_core.spec.resolve import Resolved, make_benchmark, resolve, standard_benchmark
from salmu_core.spec.study import Study, StudyMethod, parse_study

RUNS_FOLDER = "runs"
_STARTS: tuple[Literal["clean", "compromised"], ...] = ("clean", "compromised")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison, its directory, and whether it is done already."""

    resolved: Resolved
    folder: Path
    done: bool


def likely_cost(item: PlannedRun) -> tuple[bool, float, int]:
    """Sorts runs by the time that they are likely to take: what trains by the budget comes after what does not."""
    method, spec = item.resolved.method.cls, item.resolved.spec
    return issubclass(method, LossMethod), spec.budget, len(method.data)


@dataclass(frozen=True)
class ComparisonResult:
    """What `compare` hands back."""

    comparison: Comparison
    records: list[RunRecord]
    files: Mapping[str, Path] = field(default_factory=dict)


def settings_of(study: Study, *, overwrite: bool = False) -> Settings:
    """How a study's runs are carried out."""
    return Settings(**asdict(study.execution.execution), overwrite=overwrite, metric_options=study.metrics)


def study_of(
    methods: Sequence[str | StudyMethod] | None,
    settings: Settings,
    plugins: Plugins,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    **parts: Any,
) -> Study:
    """A study from what Python code gives.

    Args:
        methods: names, or methods with options of their own, which may repeat a name; None: all that are installed.
        options: method name -> options, for every method of that name.
        parts: the other fields of a `Study`; `precision`, `protocol` and `workers` are those of its execution.

    Raises:
        BadOptions: a field that a study does not have, or a value of the wrong kind.
        UnknownName, SalmuError: of options for a method that is not compared.
    """
    execution = {name: parts.pop(name) for name in ("precision", "protocol", "workers") if name in parts}
    execution |= {name: value for name, value in asdict(settings).items() if name in _EXECUTION}
    for name in ("out", "preset"):
        if isinstance(parts.get(name), Path):
            parts[name] = str(parts[name])
    named = [StudyMethod(item) if isinstance(item, str) else item for item in methods or ()]
    content = {name: value for name, value in parts.items() if value is not None}
    study = parse_study({**content, "methods": tuple(named), "execution": execution}, "compare()")
    return with_options(study, options or {}, plugins).model_copy(update={"metrics": dict(settings.metric_options)})


_EXECUTION = frozenset(asdict(Settings())) - {"cache", "overwrite", "metric_options"}


def with_options(study: Study, options: Mapping[str, Mapping[str, Any]], plugins: Plugins) -> Study:
    """The study with options for every method of a name; those that a method has of its own stay.

    Raises:
        UnknownName, SalmuError: a method that is not installed, or not in the study.
    """
    if not options:
        return study
    methods = study.methods or tuple(StudyMethod(name) for name in _installed(plugins))
    for name in options:
        if name not in {method.name for method in methods}:
            plugins.get("method", name)
            raise SalmuError(f"Options are given for {name}, which is not in this comparison.", "Add it, or leave them out.")
    given = tuple(
        method.model_copy(update={"options": {**options.get(method.name, {}), **method.options}}) for method in methods
    )
    return study.model_copy(update={"methods": given})


def _installed(plugins: Plugins) -> list[str]:
    return sorted(name for name in plugins.methods if name != "none")


def described(
    study: Study | Sequence[str | StudyMethod] | None, settings: Settings | None, plugins: Plugins, parts: Mapping[str, Any]
) -> tuple[Study, Settings]:
    """The study that `compare` and `plan_comparison` are given, in either form, and how its runs are carried out.

    Raises:
        TypeError: parts are given beside a whole study.
        BadOptions, UnknownName, SalmuError: see `study_of`.
    """
    if not isinstance(study, Study):
        study = study_of(study, settings or Settings(), plugins, **{"workers": 1, **parts})
    elif parts:
        raise TypeError(f"A Study says everything: {', '.join(parts)} cannot be given beside it.")
    return study, settings or settings_of(study)


def plan_comparison(
    study: Study | Sequence[str | StudyMethod] | None = None,
    *,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
    **parts: Any,
) -> list[PlannedRun]:
    """Every run of a study, the two reference rows of each instance first. Validates all names and options; runs nothing.

    Args:
        study, settings, parts: as for `compare`.

    Raises:
        UnknownName, BadOptions: any name or option that is not usable, before anything is run.
        SalmuError: no metric is installed, and the benchmark has none of its own.
    """
    plugins = plugins or load_plugins()
    study, settings = described(study, settings, plugins, parts)
    if study.bench_seeds and "seed" in study.benchmark_options:
        raise SalmuError(
            "The benchmark's seed is given twice: one, and a list of instances.",
            "Leave out one of --bench-seed and --bench-seeds.",
        )
    name = study.benchmark or standard_benchmark(plugins)
    study = study.model_copy(update={"benchmark": name})
    planned: list[PlannedRun] = []
    for seed in [{"seed": seed} for seed in study.bench_seeds] or [{}]:
        shared = make_benchmark(name, {**study.benchmark_options, **seed}, plugins, settings.cache_folder)
        for spec in _specs(study, name, shared, plugins):
            resolved = resolve(spec, plugins, settings.cache_folder, shared)
            folder = resolved.folder_in(study.folder.absolute() / RUNS_FOLDER)  # a plugin may go elsewhere
            planned.append(PlannedRun(resolved, folder, finished_record(folder, resolved) is not None))
    # References first: they build the benchmark. The same choice given twice is one run.
    unique = list({item.folder: item for item in planned}.values())
    return sorted(unique, key=lambda item: item.resolved.spec.method != "none")


def reference_specs(**of: Any) -> list[RunSpec]:
    """Clean and Compromised as they are, measured like any run.

    Args:
        of: the parts of a `RunSpec` that say on what and by which conventions.
    """
    return [RunSpec(method="none", start=start, **of) for start in _STARTS]


def _specs(study: Study, name: str, benchmark: Benchmark, plugins: Plugins) -> Iterator[RunSpec]:
    """The references of an instance, then its runs."""
    how: dict[str, Any] = {"precision": study.execution.precision, "protocol": study.execution.protocol}
    yield from reference_specs(benchmark=name, **how)
    methods = study.methods or tuple(StudyMethod(method) for method in _installed(plugins))
    for budget in study.budgets:
        for seed in study.seeds:
            for method in methods:
                if method.name != "none" and (not method.budgets or budget in method.budgets):
                    chosen = with_preset(method.name, method.options, benchmark, study.preset, budget)
                    yield RunSpec(method=method.name, benchmark=name, method_options=chosen, seed=seed, budget=budget, **how)


def as_carried_out(study: Study, planned: Sequence[PlannedRun]) -> Study:
    """The study as it is carried out: every method by name, with the options that presets chose, so that it means the same where
    other plugins or presets are installed."""
    found: dict[str, tuple[str, dict[str, Any], dict[float, None]]] = {}
    for item in planned:
        spec = item.resolved.spec
        if spec.method != "none":
            chosen = {name: item.resolved.options[name] for name in spec.method_options}
            found.setdefault(f"{spec.method} {chosen}", (spec.method, chosen, {}))[2][spec.budget] = None
    methods = tuple(
        StudyMethod(name, chosen, () if len(budgets) == len(study.budgets) else tuple(budgets))
        for name, chosen, budgets in found.values()
    )
    benchmark = planned[0].resolved.spec.benchmark
    return study.model_copy(update={"methods": methods, "preset": "none", "out": str(study.folder), "benchmark": benchmark})


def folder_of(planned: Sequence[PlannedRun]) -> Path:
    """The results folder of a planned comparison."""
    return planned[0].folder.parent.parent
