"""`salmu serve`: a growing results folder in the browser. Imports neither torch nor plugins."""

from __future__ import annotations

from pathlib import Path

import click

_EXAMPLES = """\b
Examples:
  salmu serve results/mini
  salmu serve results/mini --open
  salmu serve results/mini --port 0
"""


@click.command("serve", epilog=_EXAMPLES)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--port", type=click.IntRange(0, 65535), default=8642, show_default=True, help="0 takes any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address of this machine itself, e.g. ::1.")
@click.option("--open", "open_browser", is_flag=True, help="Open the page in the browser.")
def serve_command(folder: Path, port: int, host: str, open_browser: bool) -> int:
    """Show the report of a results FOLDER in the browser while it grows. The page loads itself again when a run ends.

    Nothing is written, and only this machine is answered. Ctrl-C ends it.
    """
    from salmu_core.cli import render
    from salmu_upkeep.report_server import ReportServer

    with ReportServer(folder, port, host) as server:
        click.echo(f"{folder} is shown at {server.url} (Ctrl-C ends it).")
        if open_browser and click.launch(server.url) != 0:
            render.err.print("No browser could be opened; open the address yourself.")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            click.echo("\nEnded.", err=True)
    return 0
