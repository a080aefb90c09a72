"""What this package adds to the command line."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo


@hookimpl
def register_commands() -> list[CommandInfo]:
    """The four commands of a deletion."""
    home = "salmu_deletion.cli"
    return [
        CommandInfo(
            "certificate", "Write or verify a signed summary of a deletion.", f"{home}.certificate:certificate_command"
        ),
        CommandInfo("find", "Search a table for the rows that a request to forget is about.", f"{home}.find:find_command"),
        CommandInfo("forget", "Make your own model forget pairs of yours.", f"{home}.forget:forget_command"),
        CommandInfo("inspect", "Show what became of one person or one association.", f"{home}.inspect:inspect_command"),
    ]
