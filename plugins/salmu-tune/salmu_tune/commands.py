"""What this package adds to the command line."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo


@hookimpl
def register_commands() -> list[CommandInfo]:
    """`salmu tune`."""
    return [
        CommandInfo(
            "tune", "Choose options of methods without looking at evaluation data.", "salmu_tune.command:tune_command"
        )
    ]
