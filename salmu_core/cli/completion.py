"""`salmu completion`."""

from __future__ import annotations

import click


@click.command("completion", epilog='\b\nExample:\n  eval "$(salmu completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> int:
    """Print the completion script of SHELL; put it where your shell looks, or eval it."""
    from click.shell_completion import get_completion_class

    from salmu_core.cli.main import cli

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"There is no completion for {shell}.")
    click.echo(completion(cli, {}, "salmu", "_SALMU_COMPLETE").source())
    return 0
