"""Finding, loading and attributing plugins.

Every plugin is loaded and asked for what it offers on its own, so a broken one is reported with its distribution, version and
cause, and takes nothing else down.
"""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

import pluggy

from salmu_core import __version__, hookspecs
from salmu_core.audit import Audit
from salmu_core.benchmark import Benchmark
from salmu_core.errors import AmbiguousName, PluginFailure, SalmuError, UnknownName
from salmu_core.layout import Layout
from salmu_core.method import UnlearningMethod
from salmu_core.metric import Metric
from salmu_core.options import Options
from salmu_core.plugins.calls import Warn, asked, no_exit, plugin_code, results_to_stdout
from salmu_core.plugins.code_state import watched
from salmu_core.plugins.core_versions import unsupported
from salmu_core.plugins.declared import declaration_fault
from salmu_core.plugins.entry_points import PluginProblem as PluginProblem
from salmu_core.plugins.entry_points import distribution_of, wanted_points
from salmu_core.plugins.process_state import ProcessState
from salmu_core.records.schema import Package

GROUP = "salmu"
#: Names become names of folders and parts of PACKAGE:NAME.
_NAME = re.compile(r"""(?![.\s-])[^/\\:<>"'|?*`\x00-\x1f\x7f]{1,80}(?<!\s)""")
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
    installed: bool = False  # found among the installed packages, as another process would find it

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
    #: (kind, name) that several packages register -> PACKAGE:NAME of each, under which they are registered instead.
    ambiguous: dict[tuple[Kind, str], list[str]] = field(default_factory=dict)

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
        """The entry of that kind and name. PACKAGE:NAME is understood too, and needed where several packages register a name.

        Raises:
            AmbiguousName: they do, and it does not say which.
            UnknownName: near matches are listed; plugins that could not be loaded are named with their cause.
        """
        entries = self.of(kind)
        if name in entries:
            return entries[name]
        package, _, plain = name.rpartition(":")
        if package and plain in entries and entries[plain].package.name == package:
            return entries[plain]
        if (kind, name) in self.ambiguous:
            raise AmbiguousName(kind, name, self.ambiguous[kind, name])
        error = UnknownName(kind, name, entries)
        if self.problems:
            broken = "; ".join(str(problem) for problem in self.problems)
            raise UnknownName(kind, name, entries, f"{error.hint} These plugins have problems: {broken}")
        raise error

    def watch(self, observer: object) -> None:
        """Add an observer of runs: an object with any of the hooks run_started, run_progress, run_finished."""
        self.manager.register(observer)

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook. An observer that raises is reported once and the run goes on.

        What observers are told is theirs: a record that one of them changes is a copy. Those of installed packages cannot end the
        program, print among results or leave gradients, number types, folders and the like changed.
        """
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            given = [copy.deepcopy(arguments[name]) for name in implementation.argnames]
            installed = ":" in str(implementation.plugin_name)  # as `add_plugin` names them
            told: list[str] = []
            try:
                with asked("it", told.append) if installed else results_to_stdout():
                    implementation.function(*given)
            except (Exception, SystemExit) as error:  # an observer must not be able to end a run
                told.append(f"{type(error).__name__}: {error}")
            for sentence in told:
                problem = PluginProblem(Package(name=str(implementation.plugin_name), version="observer"), hook, sentence)
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
                with no_exit("it"):
                    found.append(implementation.function(*(arguments[name] for name in implementation.argnames)))
            except PluginFailure as failure:
                raise PluginFailure(f"{hook} of {implementation.plugin_name}: {failure.message}", failure.hint) from failure
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
    state: ProcessState | None = None
    for point in wanted_points(GROUP, entry_points, only):
        package = _package_of(point)
        # Asked before the import, which may well fail on a salmu that the plugin was not written for.
        misfit = unsupported(getattr(getattr(point, "dist", None), "requires", None), __version__)
        if misfit is not None:
            plugins.problems.append(PluginProblem(package, point.name, misfit))
            continue
        imported = getattr(point, "module", "") in sys.modules  # then loading it runs nothing
        state = state or (None if imported else ProcessState())
        told: list[str] = []
        try:
            with (
                no_exit("its import")
                if imported
                else plugin_code("its import", told.append, state, _top(point.value), importing=True)
            ):
                plugin = point.load()
        except Exception as error:  # whatever a third party's import does
            cause = f"cannot be imported: {type(error).__name__}: {error}"
            plugins.problems.append(PluginProblem(package, point.name, cause))
            continue
        finally:
            plugins.problems += [PluginProblem(package, point.name, sentence) for sentence in told]
        add_plugin(plugins, plugin, package, point.name, installed=entry_points is None)
    return plugins


def add_plugin(
    plugins: Plugins, plugin: ModuleType | object, package: Package, entry_point: str, installed: bool = False
) -> None:
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
    told: list[str] = []  # of what it changed in the process: it was put back
    state = ProcessState(code=False)
    for kind, (hook, base) in _KINDS.items():
        caller = manager.subset_hook_caller(hook, remove_plugins=others)
        if not caller.get_hookimpls():
            continue
        try:
            with asked("it", told.append, state):
                offered = [cls for group in caller() for cls in group or ()]
        except Exception as error:  # the plugin's own code
            plugins.problems.append(PluginProblem(package, entry_point, f"{hook} raised {type(error).__name__}: {error}"))
            continue
        for cls in offered:
            cause = _fault(kind, cls, base) or _call_fault(kind, cls, told.append, state)
            if cause is None:
                cause = _take(plugins, Entry(kind, cls.name, cls, package, entry_point, installed))
            if cause is not None:
                plugins.problems.append(PluginProblem(package, entry_point, cause))
    plugins.problems += [PluginProblem(package, entry_point, sentence) for sentence in dict.fromkeys(told)]


def _take(plugins: Plugins, entry: Entry[Any]) -> str | None:
    """Register an entry, and say what is wrong with its name.

    Of two packages that register one name neither gets it: which one a comparison shows must not depend on how packages are
    called. Core's own names stay core's, since no command works without them.
    """
    entries, name = plugins.of(entry.kind), entry.name
    watched.add(_top(entry.cls.__module__))
    first = entries.get(name)
    choices = plugins.ambiguous.get((entry.kind, name))
    if first is None and choices is None:
        entries[name] = entry
        return None
    if first is not None and first.package.name == entry.package.name:
        return f"its {entry.kind} '{name}' is registered twice; the first is kept"
    own = f"{entry.package.name}:{name}"
    if choices is not None and own in choices:
        return f"its {entry.kind} '{own}' is registered twice; the first is kept"
    entries[own] = replace(entry, name=own)
    if first is not None and first.package.name == "salmu":
        return f"its {entry.kind} '{name}' has the name of one of core's: say {own}"
    if first is not None:
        del entries[name]
        qualified = f"{first.package.name}:{name}"
        entries[qualified] = replace(first, name=qualified)
        choices = plugins.ambiguous[entry.kind, name] = [qualified]
    assert choices is not None
    others = " and ".join(entries[choice].origin for choice in choices)
    choices.append(own)
    return f"its {entry.kind} '{name}' is also registered by {others}: say {' or '.join(sorted(choices))}"


def _call_fault(kind: Kind, cls: Any, warn: Warn, state: ProcessState) -> str | None:
    """Why an object with default options cannot be made and asked what it needs; None when it can."""
    try:
        with asked(f"its {kind} {cls.name}", warn, state):
            if kind == "method":
                cls().reads()
            elif kind == "metric":
                cls().needs()
            elif kind == "audit":
                cls()
    except Exception as error:  # the plugin's own code
        return f"its {kind} {cls.name} cannot be made: {type(error).__name__}: {error}"
    return None


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
    return _class_fault(kind, cls, shown) or declaration_fault(kind, cls, base)


def _class_fault(kind: Kind, cls: Any, shown: str) -> str | None:
    missing = [attribute for attribute in _REQUIRED[kind] if not isinstance(getattr(cls, attribute, None), str)]
    if missing:
        return f"its {kind} {shown} lacks {', '.join(missing)}"
    if not _NAME.fullmatch(cls.name):
        return f"its {kind} {shown} has the name {cls.name!r}, which cannot be part of a file's name"
    if inspect.isabstract(cls):
        return f"its {kind} {shown} does not implement {', '.join(sorted(cls.__abstractmethods__))}"
    if not (inspect.isclass(cls.Options) and issubclass(cls.Options, Options)):
        return f"the Options of its {kind} {shown} are not a subclass of salmu_core.Options"
    try:
        cls.Options()
    except Exception as error:  # a default outside its own bounds
        return f"the default options of its {kind} {shown} are not valid: {error}"
    return None


def _top(module: str) -> str:
    return module.partition(":")[0].partition(".")[0]


def _package_of(point: importlib.metadata.EntryPoint) -> Package:
    found = distribution_of(point)
    return Package(name=found.name, version=found.version)
