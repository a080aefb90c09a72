"""Finding, loading and attributing plugins.

Every plugin is loaded and asked for what it offers on its own, so a broken one is reported with its distribution, version and
cause, and takes nothing else down.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import pluggy

from salmu_core import __version__, hookspecs
from salmu_core.audit import Audit
from salmu_core.benchmark import Benchmark
from salmu_core.errors import PluginFailure, SalmuError, UnknownName
from salmu_core.layout import Layout
from salmu_core.method import UnlearningMethod
from salmu_core.metric import Metric
from salmu_core.options import Options
from salmu_core.plugins.core_versions import unsupported
from salmu_core.plugins.entry_points import PluginProblem as PluginProblem
from salmu_core.plugins.entry_points import distribution_of, wanted_points
from salmu_core.records.schema import Package

GROUP = "salmu"
Kind = Literal["method", "metric", "benchmark", "layout", "audit"]
T = TypeVar("T")

_KINDS: dict[Kind, tuple[str, type]] = {
    "method": ("register_methods", UnlearningMethod),
    "metric": ("register_metrics", Metric),
    "benchmark": ("register_benchmarks", Benchmark),
    "layout": ("register_layouts", Layout),
    "audit": ("register_audits", Audit),
}
_REQUIRED: dict[Kind, tuple[str, ...]] = {
    "method": ("name", "summary", "family"),
    "metric": ("name", "summary", "target", "aspect"),
    "benchmark": ("name", "version", "summary"),
    "layout": ("name", "summary"),
    "audit": ("name", "summary"),
}


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered class and where it comes from."""

    kind: Kind
    name: str
    cls: T
    package: Package
    entry_point: str

    @property
    def origin(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.package.name} {self.package.version}"


@dataclass
class Plugins:
    """Everything that is registered, by kind and name, and everything that could not be."""

    manager: pluggy.PluginManager
    methods: dict[str, Entry[type[UnlearningMethod]]] = field(default_factory=dict)
    metrics: dict[str, Entry[type[Metric]]] = field(default_factory=dict)
    benchmarks: dict[str, Entry[type[Benchmark]]] = field(default_factory=dict)
    layouts: dict[str, Entry[type[Layout]]] = field(default_factory=dict)
    audits: dict[str, Entry[type[Audit]]] = field(default_factory=dict)
    problems: list[PluginProblem] = field(default_factory=list)

    def of(self, kind: Kind) -> dict[str, Entry[Any]]:
        """The entries of a kind."""
        entries: dict[Kind, dict[str, Entry[Any]]] = {
            "method": self.methods,
            "metric": self.metrics,
            "benchmark": self.benchmarks,
            "layout": self.layouts,
            "audit": self.audits,
        }
        return entries[kind]

    def get(self, kind: Kind, name: str) -> Entry[Any]:
        """The entry of that kind and name.

        Raises:
            UnknownName: near matches are listed; plugins that could not be loaded are named with their cause.
        """
        entries = self.of(kind)
        if name in entries:
            return entries[name]
        error = UnknownName(kind, name, entries)
        if self.problems:
            broken = "; ".join(str(problem) for problem in self.problems)
            raise UnknownName(kind, name, entries, f"{error.hint} These plugins have problems: {broken}")
        raise error

    def watch(self, observer: object) -> None:
        """Add an observer of runs: an object with any of the hooks run_started, run_progress, run_finished."""
        self.manager.register(observer)

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook. An observer that raises is reported once and the run goes on."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                names = implementation.argnames
                implementation.function(*(arguments[name] for name in names))
            except Exception as error:  # an observer must not be able to end a run
                problem = PluginProblem(
                    Package(name=str(implementation.plugin_name), version="observer"),
                    hook,
                    f"{type(error).__name__}: {error}",
                )
                if problem not in self.problems:
                    self.problems.append(problem)

    def ask(self, hook: str, **arguments: Any) -> list[Any]:
        """Call a hook of every plugin that has it, core's order, and give what each returned.

        Raises:
            SalmuError: as a plugin raised it.
            PluginFailure: a plugin raised anything else.
        """
        found = []
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                found.append(implementation.function(*(arguments[name] for name in implementation.argnames)))
            except SalmuError:
                raise
            except Exception as error:  # the plugin's own code
                cause = f"{hook} of {implementation.plugin_name} raised {type(error).__name__}: {error}"
                raise PluginFailure(cause) from error
        return found


def new_manager() -> pluggy.PluginManager:
    """A plugin manager that knows salmu's hooks and no plugin."""
    manager = pluggy.PluginManager("salmu")
    manager.add_hookspecs(hookspecs)
    return manager


def load_plugins(
    entry_points: Iterable[importlib.metadata.EntryPoint] | None = None, only: Sequence[str] | None = None
) -> Plugins:
    """Load every plugin of the entry point group `salmu`.

    Args:
        entry_points: instead of the installed ones (for tests).
        only: distributions or entry point names to load besides core; default: the variable SALMU_PLUGINS (names
            separated by commas), else all.
    """
    plugins = Plugins(new_manager())
    for point in wanted_points(GROUP, entry_points, only):
        package = _package_of(point)
        # Asked before the import, which may well fail on a salmu that the plugin was not written for.
        misfit = unsupported(getattr(getattr(point, "dist", None), "requires", None), __version__)
        if misfit is not None:
            plugins.problems.append(PluginProblem(package, point.name, misfit))
            continue
        try:
            plugin = point.load()
        except Exception as error:  # whatever a third party's import does
            cause = f"cannot be imported: {type(error).__name__}: {error}"
            plugins.problems.append(PluginProblem(package, point.name, cause))
            continue
        add_plugin(plugins, plugin, package, point.name)
    return plugins


def add_plugin(plugins: Plugins, plugin: ModuleType | object, package: Package, entry_point: str) -> None:
    """Register one loaded plugin and take in what it offers; problems are noted, never raised."""
    manager = plugins.manager
    try:
        name = manager.register(plugin, name=f"{package.name}:{entry_point}")
        if name is None:
            return
        manager.check_pending()
    except Exception as error:  # pluggy raises several kinds for hooks that do not fit
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        plugins.problems.append(PluginProblem(package, entry_point, f"its hooks do not fit: {error}"))
        return
    others = [other for other in manager.get_plugins() if other is not plugin]
    for kind, (hook, base) in _KINDS.items():
        try:
            offered = [cls for group in manager.subset_hook_caller(hook, remove_plugins=others)() for cls in group or ()]
        except Exception as error:  # the plugin's own code
            plugins.problems.append(PluginProblem(package, entry_point, f"{hook} raised {type(error).__name__}: {error}"))
            continue
        for cls in offered:
            cause = _fault(kind, cls, base)
            entries = plugins.of(kind)
            if cause is None and cls.name in entries:
                cause = f"its {kind} '{cls.name}' is already registered by {entries[cls.name].origin}; that one is kept"
            if cause is not None:
                plugins.problems.append(PluginProblem(package, entry_point, cause))
            else:
                entries[cls.name] = Entry(kind, cls.name, cls, package, entry_point)


def require_class(kind: Kind, cls: Any) -> None:
    """Raise PluginFailure when a class cannot be registered under `kind`."""
    cause = _fault(kind, cls, _KINDS[kind][1])
    if cause is not None:
        raise PluginFailure(cause)


def _fault(kind: Kind, cls: Any, base: type) -> str | None:
    """Why a class cannot be registered; None when it can."""
    shown = getattr(cls, "__name__", repr(cls))
    if not (isinstance(cls, type) and issubclass(cls, base)):
        return f"it offers {shown} as a {kind}, which is not a subclass of {base.__name__}"
    return _class_fault(kind, cls, shown)


def _class_fault(kind: Kind, cls: Any, shown: str) -> str | None:
    missing = [attribute for attribute in _REQUIRED[kind] if not isinstance(getattr(cls, attribute, None), str)]
    if missing:
        return f"its {kind} {shown} lacks {', '.join(missing)}"
    if inspect.isabstract(cls):
        return f"its {kind} {shown} does not implement {', '.join(sorted(cls.__abstractmethods__))}"
    if not (inspect.isclass(cls.Options) and issubclass(cls.Options, Options)):
        return f"the Options of its {kind} {shown} are not a subclass of salmu_core.Options"
    try:
        cls.Options()
    except Exception as error:  # a default outside its own bounds
        return f"the default options of its {kind} {shown} are not valid: {error}"
    return None


def _package_of(point: importlib.metadata.EntryPoint) -> Package:
    found = distribution_of(point)
    return Package(name=found.name, version=found.version)
