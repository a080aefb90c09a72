"""`salmu check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from salmu_core.cli.arguments import complete_names, parse_settings

if TYPE_CHECKING:
    from salmu_authors.testing import CheckReport, CheckResult

_EXAMPLES = """\b
Examples:
  salmu check zero-cosine
  salmu check RetFail --json
  salmu check mini --only splits --only models
  salmu check zero-cosine --set epochs=1 --quick
"""


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    from salmu_core.cli.command_group import installed_commands

    found = [
        item
        for kind in ("method", "metric", "benchmark", "audit")
        for item in complete_names(kind)(ctx, parameter, incomplete)
    ]
    return found + [name for name in installed_commands().entries if name.startswith(incomplete)]


@click.command("check", epilog=_EXAMPLES)
@click.argument("name", shell_complete=_complete)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the plugin; repeatable.")
@click.option("--only", multiple=True, metavar="WORD", help="Show checks whose id begins so; repeatable. All are run.")
@click.option("--quick", is_flag=True, help="Leave out the checks that start processes.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check_command(name: str, settings: tuple[str, ...], only: tuple[str, ...], quick: bool, as_json: bool) -> int:
    """Check whether the method, metric, benchmark, audit or command NAME keeps salmu's contract.

    A method, metric or audit is tried on the toy benchmark, on the CPU; a benchmark must be built; of a command only `--help` is run.
    Exit code 1 when a check fails.
    """
    import torch

    from salmu_authors.testing import report_named
    from salmu_core.cli import render
    from salmu_core.cli.command_group import installed_commands
    from salmu_core.errors import BadOptions
    from salmu_core.plugins.loading import load_plugins

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the toy's tensors are too small to share out
    try:
        report = report_named(name, load_plugins(), parse_settings(settings), slow=not quick, commands=installed_commands())
    finally:
        torch.set_num_threads(threads)
    shown = [result for result in report.results if not only or result.id.startswith(only)]
    if not shown:
        raise BadOptions(
            f"No check of a {report.kind} begins with {' or '.join(only)}.", "Leave --only out to see all of them."
        )
    if as_json:
        content = report.as_json()
        content["checks"] = [item for item in content["checks"] if not only or item["id"].startswith(only)]
        render.print_json(content)
    else:
        _show_checks(report, shown)
    return 0 if report.ok else 1


def _show_checks(report: CheckReport, shown: Sequence[CheckResult]) -> None:
    """Print a line per check; below, what to change where one failed."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from salmu_core.cli.render import out, seconds_text

    signs = {"passed": ("pass", "green"), "failed": ("FAIL", "bold red"), "skipped": ("–", "dim")}
    table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "Check", "What is so"):
        table.add_column(column, no_wrap=column != "What is so", overflow="fold")
    for result in shown:
        word, style = signs[result.status]
        dim = "dim" if result.status == "skipped" else ""
        sentence = f"{result.sentence} ({result.message.rstrip('.')})" if result.status == "skipped" else result.sentence
        table.add_row(Text(word, style=style), Text(result.id, style=dim), Text(sentence, style=dim))
    out.print(table)
    failed = [result for result in shown if result.status == "failed"]
    for result in failed:
        out.print()
        out.print(Text(f"FAIL {result.id}", style="bold red"))
        out.print(Padding(Text(result.message), (0, 0, 0, 2)))
    counts = ", ".join(f"{len(report.of(status))} {status}" for status in ("passed", "failed", "skipped"))
    out.print()
    line = f"{report.kind} {report.name}: {counts}, in {seconds_text(report.seconds)}."
    out.print(Text(line, style="green" if report.ok else "red"))
    slowest = sorted(report.results, key=lambda result: -result.seconds)[:3]
    out.print(Text(f"Slowest: {', '.join(f'{each.id} {seconds_text(each.seconds)}' for each in slowest)}.", style="dim"))
