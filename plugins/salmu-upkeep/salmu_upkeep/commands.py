"""What this package adds to the command line."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo


@hookimpl
def register_commands() -> list[CommandInfo]:
    """`salmu data`, `replay`, `rescore` and `serve`."""
    return [
        CommandInfo("data", "Fetch, check and export the data of benchmarks.", "salmu_upkeep.cli.data:data_command"),
        CommandInfo(
            "replay", "Run a record again and say whether it comes out the same.", "salmu_upkeep.cli.replay:replay_command"
        ),
        CommandInfo(
            "rescore",
            "Measure finished runs by metrics that were installed later.",
            "salmu_upkeep.cli.rescore:rescore_command",
        ),
        CommandInfo("serve", "Show a results folder in the browser while it grows.", "salmu_upkeep.cli.serve:serve_command"),
    ]
