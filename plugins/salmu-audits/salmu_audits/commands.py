"""What this package adds to the command line."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo


@hookimpl
def register_commands() -> list[CommandInfo]:
    """`salmu audit`."""
    return [CommandInfo("audit", "Attack a model: does what it forgot come back?", "salmu_audits.command:audit_command")]
