"""Core's own commands, registered through the same hook as everybody else's."""

from __future__ import annotations

from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.commands import CommandInfo

_COMMANDS = (
    ("build", "build:build_command", "Build or rebuild a benchmark's data and models."),
    ("compare", "compare:compare_command", "Run what is missing, then rank methods side by side."),
    ("completion", "completion:completion_command", "Print the shell completion script."),
    ("describe", "listing:describe_command", "Show the card and the options of a method, metric or benchmark."),
    ("doctor", "doctor:doctor_command", "Versions, devices, plugins and their problems, cache sizes."),
    ("evaluate", "evaluate:evaluate_command", "Score a model on a benchmark."),
    ("list-audits", "listing:list_audits_command", "List the installed audits."),
    ("list-benchmarks", "listing:list_benchmarks_command", "List the installed benchmarks."),
    ("list-methods", "listing:list_methods_command", "List the installed unlearning methods."),
    ("list-metrics", "listing:list_metrics_command", "List the installed metrics."),
    ("report", "report:report_command", "Make the leaderboard and the report again from records alone."),
    ("run", "run:run_command", "Run one method over one benchmark."),
    ("study", "study:study_command", "Carry out a comparison that a TOML file describes."),
)


@hookimpl
def register_commands() -> list[CommandInfo]:
    """The commands of this package."""
    return [CommandInfo(name, summary, f"salmu_core.cli.{target}") for name, target, summary in _COMMANDS]
