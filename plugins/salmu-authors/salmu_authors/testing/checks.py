"""The checks of a plugin: as a report for `salmu check`, and as functions that raise for a plugin's own tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from salmu_authors.testing.audit_checks import AUDIT_CHECKS, AuditTrial
from salmu_authors.testing.benchmark_checks import BENCHMARK_CHECKS, BenchmarkTrial
from salmu_authors.testing.command_checks import COMMAND_CHECKS, CommandTrial
from salmu_authors.testing.contract import Check, CheckReport, run_all
from salmu_authors.testing.method_checks import METHOD_CHECKS
from salmu_authors.testing.method_trial import MethodTrial
from salmu_authors.testing.metric_checks import METRIC_CHECKS, MetricTrial
from salmu_core.audit import Audit
from salmu_core.benchmark import Benchmark
from salmu_core.errors import PluginFailure, UnknownName
from salmu_core.method import UnlearningMethod
from salmu_core.metric import Metric
from salmu_core.options import parse_options
from salmu_core.plugins.commands import CommandEntry, CommandInfo, Commands
from salmu_core.plugins.loading import Entry, Kind, Plugins, require_class

#: Kinds that can be checked, in the order in which a name is looked up.
KINDS: tuple[Kind, ...] = ("method", "metric", "benchmark", "audit")
CheckedKind = Literal["method", "metric", "benchmark", "audit", "command"]


def checks_of(kind: CheckedKind) -> list[Check]:
    """The checks of a kind, in order."""
    found = {
        "method": METHOD_CHECKS,
        "metric": METRIC_CHECKS,
        "benchmark": BENCHMARK_CHECKS,
        "audit": AUDIT_CHECKS,
        "command": COMMAND_CHECKS,
    }
    return list(found[kind].listed)


def report_method(
    cls: type[UnlearningMethod],
    options: Mapping[str, Any] | None = None,
    *,
    entry: Entry[Any] | None = None,
    slow: bool = True,
) -> CheckReport:
    """Run every check on a method and say what each found.

    Args:
        options: other than the defaults.
        entry: where it is registered; its package is then looked at too.
        slow: with the checks that start processes.
    """
    return run_all("method", _name(cls), METHOD_CHECKS.listed, MethodTrial(cls, options or {}, entry), slow=slow)


def report_metric(
    cls: type[Metric], options: Mapping[str, Any] | None = None, *, entry: Entry[Any] | None = None, slow: bool = True
) -> CheckReport:
    """Run every check on a metric and say what each found; arguments as for `report_method`."""
    return run_all("metric", _name(cls), METRIC_CHECKS.listed, MetricTrial(cls, options or {}, entry), slow=slow)


def report_benchmark(benchmark: Benchmark, *, entry: Entry[Any] | None = None, slow: bool = True) -> CheckReport:
    """Run every check on a benchmark object and say what each found; build it first."""
    return run_all("benchmark", _name(type(benchmark)), BENCHMARK_CHECKS.listed, BenchmarkTrial(benchmark, entry), slow=slow)


def report_audit(
    cls: type[Audit], options: Mapping[str, Any] | None = None, *, entry: Entry[Any] | None = None, slow: bool = True
) -> CheckReport:
    """Run every check on an audit and say what each found; arguments as for `report_method`."""
    return run_all("audit", _name(cls), AUDIT_CHECKS.listed, AuditTrial(cls, options or {}, entry), slow=slow)


def report_command(info: CommandInfo, *, entry: CommandEntry | None = None) -> CheckReport:
    """Run every check on a command and say what each found; nothing but its `--help` is run."""
    return run_all("command", str(getattr(info, "name", info)), COMMAND_CHECKS.listed, CommandTrial(info, entry), slow=True)


def report_named(
    name: str,
    plugins: Plugins,
    options: Mapping[str, Any] | None = None,
    *,
    cache: Path | None = None,
    slow: bool = True,
    commands: Commands | None = None,
) -> CheckReport:
    """Run every check on the installed method, metric, benchmark, audit or command of that name.

    Args:
        options: of the plugin, as after `--set`.
        cache: where benchmarks are kept.
        commands: the installed commands; default: none is known.

    Raises:
        UnknownName: nothing of that name is installed; plugins that could not be loaded are named with their cause.
        BadOptions: it does not take these options.
    """
    kind = next((kind for kind in KINDS if name in plugins.of(kind)), None)
    if kind is None:
        commands = commands or Commands()
        if name in commands.entries:
            return report_command(commands.entries[name].info, entry=commands.entries[name])
        known = [*(known for kind in KINDS for known in plugins.of(kind)), *commands.entries]
        broken = "; ".join(str(problem) for problem in (*plugins.problems, *commands.problems))
        hint = f"{UnknownName('', name, known).hint} These plugins have problems: {broken}" if broken else None
        raise UnknownName("method, metric, benchmark, audit or command", name, known, hint)
    entry = plugins.get(kind, name)
    parsed = parse_options(entry.cls.Options, options or {}, name)
    if kind == "benchmark":
        return report_benchmark(entry.cls(parsed, cache), entry=entry, slow=slow)
    report: Any = {"method": report_method, "metric": report_metric, "audit": report_audit}[kind]
    found: CheckReport = report(entry.cls, parsed.model_dump(exclude_unset=True), entry=entry, slow=slow)
    return found


def check_method(cls: type[UnlearningMethod], **options: Any) -> None:
    """Run a method on the toy benchmark and check what the runner relies on.

    Every check but the slow ones, which start processes: `salmu check NAME` runs those too.

    Args:
        options: other than the defaults, e.g. to make the check faster.

    Raises:
        AssertionError: names every check that failed and what to change.
    """
    _require("method", cls)
    report_method(cls, options, slow=False).raise_failures()


def check_metric(cls: type[Metric], **options: Any) -> None:
    """Compute a metric on the toy benchmark and check what the evaluation relies on.

    Raises:
        AssertionError: names every check that failed and what to change.
    """
    _require("metric", cls)
    report_metric(cls, options, slow=False).raise_failures()


def check_audit(cls: type[Audit], **options: Any) -> None:
    """Attack the toy benchmark's models with an audit and check what a comparison relies on.

    Raises:
        AssertionError: names every check that failed and what to change.
    """
    _require("audit", cls)
    report_audit(cls, options, slow=False).raise_failures()


def check_benchmark(benchmark: Benchmark) -> None:
    """Read a built benchmark's splits and models and check what the runner relies on.

    Raises:
        AssertionError: names every check that failed and what to change.
    """
    _require("benchmark", type(benchmark))
    report_benchmark(benchmark, slow=False).raise_failures()


def check_command(info: CommandInfo) -> None:
    """Check what salmu relies on in a command of a plugin; nothing but its `--help` is run.

    Args:
        info: one that the plugin's `register_commands` returns.

    Raises:
        AssertionError: names every check that failed and what to change.
    """
    report_command(info).raise_failures()


def _require(kind: Kind, cls: type) -> None:
    """What cannot be registered cannot be tried either: everything else would fail for that reason."""
    try:
        require_class(kind, cls)
    except PluginFailure as failure:
        raise AssertionError(f"{getattr(cls, '__name__', cls)} cannot be registered: {failure.message}.") from None


def _name(cls: Any) -> str:
    return str(getattr(cls, "name", None) or cls.__name__)


__all__ = [
    "check_audit",
    "check_benchmark",
    "check_command",
    "check_method",
    "check_metric",
    "checks_of",
    "report_audit",
    "report_benchmark",
    "report_command",
    "report_method",
    "report_metric",
]
