"""Commands with one planted fault each, beside the check that has to find it. Torch is imported by none but `heavy_command`."""

from __future__ import annotations

import click

from salmu_core.plugins.commands import CommandInfo

_SERVE = "salmu_upkeep.cli.serve:serve_command"

#: Check id -> the command that it has to find.
COMMANDS: dict[str, CommandInfo] = {
    "class": CommandInfo("serve", "Show a\nfolder.", _SERVE),
    "summary": CommandInfo("serve", "Show a folder", _SERVE),
    "target": CommandInfo("serve", "Show a folder.", "salmu_upkeep.cli.serve:gone"),
    "help": CommandInfo("silent", "Say nothing.", "faulty_commands:silent"),
    "example": CommandInfo("bare", "Show no example.", "faulty_commands:bare"),
    "light": CommandInfo("heavy", "Import torch.", "heavy_command:heavy"),
}


@click.command("silent", epilog="Example: salmu silent")
def silent() -> None:
    pass


@click.command("bare")
def bare() -> None:
    """Do nothing."""
