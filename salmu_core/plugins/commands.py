"""Commands of the command line, core's own and those of plugins: found without importing a method, a model or torch.

A command plugin is a module named by an entry point of the group `salmu.commands`. It is imported whenever salmu starts, so it only
says which commands there are; the module that a command leads to is imported when the command is called.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pluggy

from salmu_core import __version__, hookspecs
from salmu_core.errors import PluginFailure
from salmu_core.plugins.calls import no_exit
from salmu_core.plugins.entry_points import Distribution, Origin, PluginProblem, distribution_of, wanted_points

if TYPE_CHECKING:
    import click

COMMAND_GROUP = "salmu.commands"
COMMAND_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TARGET = re.compile(r"[\w.]+:\w+")


@dataclass(frozen=True)
class CommandInfo:
    """A command that a package adds to `salmu`.

    Args:
        name: what is typed after `salmu`: words of small letters and digits, joined by hyphens.
        summary: one sentence on one line, for `salmu --help`.
        target: "module:function", where the function is a click command. It is imported when the command is called.
    """

    name: str
    summary: str
    target: str


@dataclass(frozen=True)
class CommandEntry:
    """A registered command and where it comes from."""

    info: CommandInfo
    package: Origin
    entry_point: str
    requires: tuple[str, ...] = ()

    def load(self) -> click.Command:
        """Import the command.

        Raises:
            PluginFailure: it is not a click command, it cannot be imported, or its package works with another salmu.
        """
        fault, found = self._loaded()
        if fault is not None:
            raise PluginFailure(
                f"The command '{self.info.name}' of {self.package.name} {self.package.version} cannot be used: {fault}.",
                "Install another version of that package, or uninstall it.",
            )
        return found  # type: ignore[no-any-return]

    def _loaded(self) -> tuple[str | None, Any]:
        from salmu_core.plugins.core_versions import unsupported

        misfit = unsupported(self.requires, __version__)
        if misfit is not None:
            return misfit, None
        module, _, function = self.info.target.partition(":")
        try:
            with no_exit("its import"):
                found = getattr(importlib.import_module(module), function)
        except Exception as error:  # whatever a third party's import does
            return f"{self.info.target} cannot be imported: {type(error).__name__}: {error}", None
        import click

        return (None, found) if isinstance(found, click.Command) else (f"{self.info.target} is not a click command", None)


@dataclass
class Commands:
    """Every command that can be called, by name, and what is wrong with plugins that offer one."""

    entries: dict[str, CommandEntry] = field(default_factory=dict)
    problems: list[PluginProblem] = field(default_factory=list)


def load_commands(
    own: object, entry_points: Iterable[importlib.metadata.EntryPoint] | None = None, only: Sequence[str] | None = None
) -> Commands:
    """Ask core and every plugin of the group `salmu.commands` for their commands; problems are noted, never raised.

    Args:
        own: core's own plugin, whose commands no other plugin can take over.
        entry_points: instead of the installed ones (for tests).
        only: as for `wanted_points`.
    """
    commands = Commands()
    _take(commands, own, Distribution("salmu", __version__), "core", ())
    for point in wanted_points(COMMAND_GROUP, entry_points, only):
        package = distribution_of(point)
        light = "torch" not in sys.modules
        try:
            with no_exit("its import"):
                plugin = point.load()
        except Exception as error:  # whatever a third party's import does
            cause = f"cannot be imported: {type(error).__name__}: {error}"
            commands.problems.append(PluginProblem(package, point.name, cause))
            continue
        if light and "torch" in sys.modules:
            cause = f"{point.value} imports torch, which makes every salmu command slow: import it inside the command"
            commands.problems.append(PluginProblem(package, point.name, cause))
        requires = tuple(getattr(getattr(point, "dist", None), "requires", None) or ())
        _take(commands, plugin, package, point.name, requires)
    return commands


def failing_commands(commands: Commands) -> list[PluginProblem]:
    """Import every command of a plugin, and say which cannot be called."""
    found = []
    for entry in commands.entries.values():
        if entry.package.name != "salmu":
            try:
                entry.load()
            except PluginFailure as failure:
                found.append(PluginProblem(entry.package, entry.entry_point, failure.message))
    return found


def every_point_name() -> list[str]:
    """The names of all installed entry points of commands, those that SALMU_PLUGINS leaves out too."""
    return [point.name for point in importlib.metadata.entry_points(group=COMMAND_GROUP)]


def _take(commands: Commands, plugin: object, package: Origin, entry_point: str, requires: tuple[str, ...]) -> None:
    """Take in what one plugin offers."""

    def note(cause: str) -> None:
        commands.problems.append(PluginProblem(package, entry_point, cause))

    manager = pluggy.PluginManager("salmu")
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, name=f"{package.name}:{entry_point}")
        manager.check_pending()
    except Exception as error:  # pluggy raises several kinds for hooks that do not fit
        note(f"its hooks do not fit: {error}")
        return
    try:
        with no_exit("it"):
            offered = [info for group in manager.hook.register_commands() for info in group or ()]
    except Exception as error:  # the plugin's own code
        note(f"register_commands raised {type(error).__name__}: {error}")
        return
    for info in offered:
        cause = command_fault(info)
        if cause is None and info.name in commands.entries:
            other = commands.entries[info.name].package
            cause = f"its command '{info.name}' is already registered by {other.name} {other.version}; that one is kept"
        if cause is None:
            commands.entries[info.name] = CommandEntry(info, package, entry_point, requires)
        else:
            note(cause)


def command_fault(info: Any) -> str | None:
    """Why what `register_commands` returned cannot be registered; None when it can."""
    if not isinstance(info, CommandInfo):
        return f"it offers {info!r} as a command, which is not a CommandInfo"
    if not (isinstance(info.name, str) and COMMAND_NAME.fullmatch(info.name)):
        return f"its command {info.name!r} is not a name: use small letters and digits, words joined by hyphens"
    if not (isinstance(info.summary, str) and info.summary.strip() and "\n" not in info.summary):
        return f"its command '{info.name}' has no summary of one line"
    if not (isinstance(info.target, str) and _TARGET.fullmatch(info.target)):
        return f"its command '{info.name}' leads to {info.target!r}; write it as module:function"
    return None
