"""The command line: a command parses, calls one library function, renders. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NoReturn

import click

from salmu_core.cli import streams
from salmu_core.cli.command_group import LazyGroup
from salmu_core.errors import SalmuError


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with `salmu compare`: it builds the embedded benchmark, runs every installed method and ranks them.",
)
@click.version_option(package_name="salmu", prog_name="salmu")
def cli() -> None:
    """salmu compares ways to make CLIP-style models forget."""


def main(argv: list[str] | None = None) -> None:
    """Entry point. A thread that a plugin left running does not keep the command from ending."""
    try:
        _carry_out(argv)
    except SystemExit as ending:
        calls = sys.modules.get("salmu_core.plugins.calls")
        if calls is None or not calls.any_thread_left():
            raise
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(ending.code if isinstance(ending.code, int) else int(ending.code is not None))


def _carry_out(argv: list[str] | None) -> NoReturn:
    """The one place where a SalmuError, and what the system refuses at a place of the user's, becomes a panel; anything
    else is a bug and keeps its traceback."""
    # Progress libraries of dependencies would write over our own display.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    streams.prepare_streams()
    try:
        streams.check_arguments(sys.argv[1:] if argv is None else argv)
        with streams.results_alone() if argv is None and "--json" in sys.argv else contextlib.nullcontext():
            result: Any = cli.main(args=argv, prog_name="salmu", standalone_mode=False)
            streams.flush_output()
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("Stopped. Run the same command again to go on where it was.", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SalmuError as error:
        _fail(error)
    except OSError as error:
        known = streams.system_error(error)
        if known is None:
            raise
        _fail(known)
    finally:
        setup = sys.modules.get("salmu_core.runner.accelerate_setup")
        if setup is not None:
            setup.leave_process_group()
    sys.exit(result if isinstance(result, int) else 0)


def _fail(error: SalmuError) -> NoReturn:
    from salmu_core.cli.render import show_error

    show_error(error)
    try:
        sys.stdout.flush()
    except OSError:
        streams.give_up_output()
    sys.exit(1)
