"""What this package adds to the command line."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo

_CHECK = "Check whether a method, metric, benchmark or command keeps the contract."


@hookimpl
def register_commands() -> list[CommandInfo]:
    """`salmu check` and `salmu new-plugin`."""
    return [
        CommandInfo("check", _CHECK, "salmu_authors.cli.check:check_command"),
        CommandInfo(
            "new-plugin", "Write the package of a new plugin, with tests.", "salmu_authors.cli.new_plugin:new_plugin_command"
        ),
    ]
