"""What this package adds to the command line."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo


@hookimpl
def register_commands() -> list[CommandInfo]:
    """`salmu push`, `salmu submit` and `salmu board`."""
    return [
        CommandInfo(
            "push", "Publish a run on the Hugging Face hub: model, card and record.", "salmu_share.command:push_command"
        ),
        CommandInfo(
            "submit", "Make a submission of runs for a leaderboard of others.", "salmu_share.board.command:submit_command"
        ),
        CommandInfo(
            "board",
            "Check submissions and build a leaderboard of those that hold.",
            "salmu_share.board.command:board_command",
        ),
    ]
