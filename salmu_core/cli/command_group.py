"""The group of all commands: listed, completed and looked up from what packages say about them, imported when called."""

from __future__ import annotations

import difflib
import os
from functools import lru_cache

import click
from click.shell_completion import CompletionItem

from salmu_core.cli import core_commands
from salmu_core.plugins.commands import Commands, every_point_name, load_commands


@lru_cache(maxsize=8)
def _installed(only: str | None) -> Commands:
    """Loaded once for each value of SALMU_PLUGINS: click asks for the list several times."""
    return load_commands(core_commands)


def installed_commands() -> Commands:
    """The commands of core and of the installed plugins."""
    return _installed(os.environ.get("SALMU_PLUGINS"))


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and not for `--help` of the group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(installed_commands().entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = installed_commands().entries.get(cmd_name)
        return None if entry is None else entry.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        entries = installed_commands().entries
        with formatter.section("Commands"):
            formatter.write_dl([(name, entries[name].info.summary) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands without importing the commands, as click's own group would."""
        entries = installed_commands().entries
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=entries[name].info.summary) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in installed_commands().entries:
            raise click.UsageError(f"There is no command '{args[0]}'.{_hint(args[0])}", ctx)
        return super().resolve_command(ctx, args)


def _hint(name: str) -> str:
    """What was meant perhaps; or why a command that a package offers is not there."""
    commands = installed_commands()
    near = difflib.get_close_matches(name, commands.entries, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    if commands.problems:
        return f"{hint} These plugins have problems: {'; '.join(map(str, commands.problems))}"
    selection = os.environ.get("SALMU_PLUGINS")
    if selection is not None and name in load_commands(core_commands, only=every_point_name()).entries:
        return f"{hint} Its package is left out by SALMU_PLUGINS={selection}."
    return hint
