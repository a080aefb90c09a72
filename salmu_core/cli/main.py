"""The command line: a command parses, calls one library function, renders. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from salmu_core.errors import SalmuError

# command -> module of this package and function in it. Read lazily, so that --help imports neither torch nor plugins.
_COMMANDS = {
    "audit": ("audit", "audit_command", "Attack a model: does what it forgot come back?"),
    "build": ("build", "build_command", "Build or rebuild a benchmark's data and models."),
    "certificate": ("certificate", "certificate_command", "Write or verify a signed summary of a deletion."),
    "check": ("check", "check_command", "Check whether a method, metric or benchmark keeps the contract."),
    "compare": ("compare", "compare_command", "Run what is missing, then rank methods side by side."),
    "completion": ("completion", "completion_command", "Print the shell completion script."),
    "data": ("data", "data_command", "Fetch, check and export the data of benchmarks."),
    "describe": ("listing", "describe_command", "Show the card and the options of a method, metric or benchmark."),
    "doctor": ("doctor", "doctor_command", "Versions, devices, plugins and their problems, cache sizes."),
    "evaluate": ("evaluate", "evaluate_command", "Score a model on a benchmark."),
    "find": ("find", "find_command", "Search a table for the rows that a request to forget is about."),
    "forget": ("forget", "forget_command", "Make your own model forget pairs of yours."),
    "inspect": ("inspect", "inspect_command", "What became of one person or one association, in words and numbers."),
    "list-audits": ("listing", "list_audits_command", "List the installed audits."),
    "list-benchmarks": ("listing", "list_benchmarks_command", "List the installed benchmarks."),
    "list-methods": ("listing", "list_methods_command", "List the installed unlearning methods."),
    "list-metrics": ("listing", "list_metrics_command", "List the installed metrics."),
    "new-plugin": ("new_plugin", "new_plugin_command", "Write the package of a new plugin, with tests."),
    "push": ("push", "push_command", "Publish a run on the Hugging Face hub: model, card and record."),
    "replay": ("replay", "replay_command", "Run a record again and say whether it comes out the same."),
    "report": ("report", "report_command", "Make the leaderboard and the report again from records alone."),
    "rescore": ("rescore", "rescore_command", "Measure finished runs by metrics that were installed later."),
    "run": ("run", "run_command", "Run one method over one benchmark."),
    "serve": ("serve", "serve_command", "Show a results folder in the browser while it grows."),
    "study": ("study", "study_command", "Carry out a comparison that a TOML file describes."),
    "tune": ("tune", "tune_command", "Choose options of methods without looking at evaluation data."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called, and not for `--help` of the group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, function, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"salmu_core.cli.{module}"), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=2, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with `salmu compare`: it builds the embedded benchmark, runs every installed method and ranks them.",
)
@click.version_option(package_name="salmu", prog_name="salmu")
def cli() -> None:
    """salmu compares ways to make CLIP-style models forget."""


def main(argv: list[str] | None = None) -> None:
    """Entry point. The one place where a SalmuError becomes a panel; anything else is a bug and keeps its traceback."""
    # Progress libraries of dependencies would write over our own display.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        result: Any = cli.main(args=argv, prog_name="salmu", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("Stopped. Run the same command again to go on where it was.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SalmuError as error:
        from salmu_core.cli.render import show_error

        show_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("Stopped. Run the same command again to go on where it was.", err=True)
        sys.exit(130)
    finally:
        setup = sys.modules.get("salmu_core.runner.accelerate_setup")
        if setup is not None:
            setup.leave_process_group()
    sys.exit(result if isinstance(result, int) else 0)
