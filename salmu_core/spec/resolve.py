"""Step one of every command: names and options become objects, and everything that can be wrong is found before work begins."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salmu_core.benchmark import Benchmark
from salmu_core.data.pairs import Role
from salmu_core.errors import BadData, BadOptions, BadRecord, NotBuilt, PluginFailure, SalmuError
from salmu_core.evaluation.pair_cosine import PairCosine
from salmu_core.method import UnlearningMethod
from salmu_core.metric import Metric
from salmu_core.options import parse_options
from salmu_core.plugins.calls import Warn, asked
from salmu_core.plugins.loading import Entry, PluginProblem, Plugins
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.records.store import RECORD_FILE, read_record
from salmu_core.spec.presets import with_preset


@dataclass(frozen=True)
class Resolved:
    """A spec whose names and options are known to be good."""

    spec: RunSpec  # with resolved benchmark options; method options as given
    options: dict[str, Any]  # of the method, with defaults
    id: str
    former_id: str  # before 0.2, when the packages' names were not part of it
    method: Entry[type[UnlearningMethod]]
    benchmark_entry: Entry[type[Benchmark]]
    benchmark: Benchmark

    @property
    def who(self) -> str:
        """The method and where it comes from, as the beginning of a sentence."""
        return f"The method {self.spec.method} ({self.method.origin})"

    def new_method(self, warn: Warn = lambda sentence: None) -> UnlearningMethod:
        """A fresh method object.

        Args:
            warn: told what it changed in the process when it was made.
        """
        cls = self.method.cls
        with asked(self.who, warn):
            return cls(cls.Options(**self.options))

    def reads(self, warn: Warn = lambda sentence: None) -> tuple[Role, ...]:
        """The roles that the method sees with these options."""
        with asked(self.who, warn):
            return tuple(self.new_method().reads())

    @property
    def title(self) -> str:
        """Short words for progress displays."""
        if self.spec.method == "none":
            return self.spec.start
        budget = "" if self.spec.budget == 1 else f" {self.spec.budget:g}x"
        return f"{self.spec.method}{budget} seed {self.spec.seed}"

    @property
    def folder_name(self) -> str:
        """Name of the run's directory below a comparison's."""
        return self._folder_name(self.id)

    def _folder_name(self, run: str) -> str:
        if self.spec.method == "none":
            return f"reference-{self.spec.start}-{run[:8]}"
        return f"{self.spec.method.replace(':', '.')}-b{self.spec.budget:g}-s{self.spec.seed}-{run[:8]}"

    def folder_in(self, runs: Path) -> Path:
        """The run's directory below a comparison's: where it was finished before 0.2, else by the name it has now."""
        former = runs / self._folder_name(self.former_id)
        if not (runs / self.folder_name).exists() and (former / RECORD_FILE).is_file():
            with contextlib.suppress(BadRecord):
                if self.made(read_record(former)):
                    return former
        return runs / self.folder_name

    def made(self, record: RunRecord) -> bool:
        """Is this the record of this very run? One of before 0.2 must be of the same packages."""
        if record.id == self.id:
            return True
        origin = record.provenance
        ours = (
            (origin.method_package, {self.method.package.name, self.method.cls.former_package}),
            (origin.benchmark_package, {self.benchmark_entry.package.name}),
        )
        return record.id == self.former_id and all(found is None or found.name in names for found, names in ours)


def resolve(spec: RunSpec, plugins: Plugins, cache: Path | None = None, benchmark: Benchmark | None = None) -> Resolved:
    """Look up names and validate options.

    Args:
        benchmark: an instance to share between runs; made when not given.

    Raises:
        UnknownName, BadOptions: see there.
    """
    if not spec.benchmark:
        spec = spec.model_copy(update={"benchmark": standard_benchmark(plugins)})
    method = plugins.get("method", spec.method)
    entry = plugins.get("benchmark", spec.benchmark)
    options = parse_options(method.cls.Options, spec.method_options, spec.method)
    try:
        with asked("it"):
            reads = method.cls(options).reads()
    except Exception as error:  # the plugin's own code
        raise PluginFailure(
            f"The method {spec.method} ({method.origin}) cannot be made with these options: {_reason(error)}"
        ) from error
    if spec.start == "clean" and "forget" in reads:
        raise BadOptions(
            f"{spec.method} cannot start from the Clean model: it holds nothing to forget.",
            "Only the method 'none', which is the reference, and methods that see retain pairs alone start there.",
        )
    spec = spec.model_copy(update={"method": method.name, "benchmark": entry.name})  # PACKAGE:NAME only where it is needed
    benchmark = benchmark or make_benchmark(spec.benchmark, spec.benchmark_options, plugins, cache)
    offered = {info.role for info in benchmark.splits().values()}
    if lacking := [role for role in reads if role not in offered]:
        raise BadOptions(
            f"{spec.method} sees {' and '.join(reads)} pairs, and {spec.benchmark} has no {lacking[0]} pairs here.",
            f"Give some, or choose a method that does not see {lacking[0]} (`salmu list-methods`).",
        )
    resolved = spec.model_copy(update={"benchmark_options": benchmark.options.model_dump(mode="json")})
    # Options that equal the default must not make another run than options left out.
    decisive = {"method_options": options.decisive(), "benchmark_options": dict(benchmark.identity())}
    full = resolved.model_copy(update=decisive)
    versions = {"method": method.package.version, "benchmark": benchmark.version}
    packages = {"method_package": method.cls.former_package or method.package.name, "benchmark_package": entry.package.name}
    return Resolved(
        resolved,
        options.model_dump(mode="json"),
        full.identity(**versions, **packages),
        full.identity(**versions),
        method,
        entry,
        benchmark,
    )


def resolve_with_preset(spec: RunSpec, preset: str | Path, plugins: Plugins, cache: Path | None = None) -> Resolved:
    """`resolve`, where a preset gives the method's options that the spec leaves out.

    Args:
        preset: "benchmark" for what the benchmark ships, "none" for the method's defaults, or the path of a preset or of a folder.

    Raises:
        UnknownName, BadOptions: see there.
    """
    name = spec.benchmark or standard_benchmark(plugins)
    benchmark = make_benchmark(name, spec.benchmark_options, plugins, cache)
    chosen = with_preset(spec.method, spec.method_options, benchmark, preset, spec.budget)
    return resolve(spec.model_copy(update={"benchmark": name, "method_options": chosen}), plugins, cache, benchmark)


def standard_benchmark(plugins: Plugins) -> str:
    """The benchmark that is meant where none is named: the one that an installed package declares as standard.

    Raises:
        BadOptions: no package declares one, or several do.
    """
    found = sorted(name for name, entry in plugins.benchmarks.items() if entry.cls.standard)
    if len(found) != 1:
        declared = f"{' and '.join(found)} are both standard" if found else "no installed package has a standard one"
        raise BadOptions(f"No benchmark was named, and {declared}.", f"Name one: {', '.join(sorted(plugins.benchmarks))}.")
    return found[0]


def make_benchmark(name: str, options: Mapping[str, Any], plugins: Plugins, cache: Path | None = None) -> Benchmark:
    """A benchmark object of that name."""
    entry = plugins.get("benchmark", name)
    benchmark: Benchmark = entry.cls(parse_options(entry.cls.Options, options, name), cache)
    return benchmark


def shipped_presets(plugins: Plugins) -> dict[str, dict[str, dict[str, Any]]]:
    """Benchmark name -> method -> the options that it ships; {}: the method's defaults were best. Benchmarks that have to be told
    their data are left out; one that fails otherwise is noted among the problems."""
    found = {}
    for name, entry in plugins.benchmarks.items():
        try:
            presets = make_benchmark(name, {}, plugins).presets()
            found[name] = {method: dict(options) for method, options in presets.items()}
        except SalmuError:
            continue
        except Exception as error:  # the plugin's own code, which a look at a method must not depend on
            cause = f"presets of its benchmark '{name}' cannot be read: {type(error).__name__}: {error}"
            plugins.problems.append(PluginProblem(entry.package, entry.entry_point, cause))
    return found


def benchmark_of_run(
    record: RunRecord, folder: Path, plugins: Plugins, cache: Path | None = None, *, why: str = ""
) -> Benchmark:
    """The benchmark that a run was made on, with the data that it saw.

    Args:
        why: end of the sentence that says the data is not here, e.g. what cannot be done without it.

    Raises:
        NotBuilt: the data is not on this machine.
        BadData: it is, and is not what the run saw.
    """
    name = record.spec.benchmark
    benchmark = make_benchmark(name, record.spec.benchmark_options, plugins, cache)
    if not benchmark.ready():
        raise NotBuilt(
            f"The data of {name} that '{folder}' ran over is not on this machine{why}.",
            f"Run `salmu build {name}` or `salmu data pull {name}` with the run's options.",
        )
    check_data(benchmark, record, folder)
    return benchmark


def check_data(benchmark: Benchmark, record: RunRecord, folder: Path) -> None:
    """Raises BadData where a benchmark's data is not what a run saw."""
    if benchmark.fingerprint() != record.provenance.data_fingerprint:
        raise BadData(
            f"The data of {record.spec.benchmark} is not what '{folder}' ran over: it has changed since.",
            "Bring the data of that time back, or run again.",
        )


def make_method(name: str, options: Mapping[str, Any], plugins: Plugins) -> UnlearningMethod:
    """A method object of that name."""
    entry = plugins.get("method", name)
    return entry.cls(parse_options(entry.cls.Options, options, name))  # type: ignore[no-any-return]


def make_metrics(
    plugins: Plugins,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    benchmark: Benchmark | None = None,
    spec: RunSpec | None = None,
) -> list[Metric]:
    """Every installed metric, in the order of registration, then the benchmark's own; core's `PairCosine` where neither has any.

    Args:
        options: metric name -> options, for installed metrics.
        spec: of what is evaluated: its protocol and precision say which of a metric's conventions hold.
    """
    given = dict(options or {})
    for name in given:
        plugins.get("metric", name)
    words = () if spec is None else conventions_of(spec)
    installed = []
    for name, entry in plugins.metrics.items():
        by_convention = {key: value for word in words for key, value in entry.cls.conventions.get(word, {}).items()}
        parsed = parse_options(entry.cls.Options, {**by_convention, **given.get(name, {})}, name)
        told: list[str] = []
        try:
            with asked(f"the metric {name}", told.append):
                metric = entry.cls(parsed)
        except Exception as error:  # the plugin's own code
            raise PluginFailure(
                f"The metric {name} ({entry.origin}) cannot be made with these options: {_reason(error)}"
            ) from error
        finally:
            problems = [PluginProblem(entry.package, entry.entry_point, sentence) for sentence in told]
            plugins.problems += [problem for problem in problems if problem not in plugins.problems]
        metric.name, metric.origin = name, entry.origin
        installed.append(metric)
    return [*installed, *(benchmark.metrics() if benchmark is not None else ())] or [PairCosine()]


def _reason(error: Exception) -> str:
    return error.message if isinstance(error, SalmuError) else f"{type(error).__name__}: {error}"


def conventions_of(spec: RunSpec) -> tuple[str, ...]:
    """Which conventions of metrics hold in an evaluation."""
    if spec.protocol == "seeded":
        return ()
    return ("official", "official-fp16") if spec.precision == "fp16" else ("official",)
