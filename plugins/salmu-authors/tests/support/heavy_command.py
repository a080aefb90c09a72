"""A command whose module imports torch."""

import click
import torch  # noqa: F401


@click.command("heavy", epilog="Example: salmu heavy")
def heavy() -> None:
    """Do nothing, slowly."""
