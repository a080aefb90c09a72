"""What this package adds to the command line."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo


@hookimpl
def register_commands() -> list[CommandInfo]:
    """`salmu push`."""
    return [
        CommandInfo(
            "push", "Publish a run on the Hugging Face hub: model, card and record.", "salmu_share.command:push_command"
        )
    ]
