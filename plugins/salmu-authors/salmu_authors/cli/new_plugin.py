"""`salmu new-plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_EXAMPLES = """\b
Examples:
  salmu new-plugin zero-cosine
  salmu new-plugin caption-swap --kind multi-stage --out ~/code/caption-swap
  salmu new-plugin name-recall --kind metric
  salmu new-plugin count-runs --kind command
"""
_KINDS = """\b
Kinds:
  loss         a method that is one loss (the default)
  multi-stage  a method of several fits, with a teacher
  weights      a method that measures and edits weights, without training
  metric       a number about a model, from embeddings
  benchmark    data, splits and a Clean/Compromised pair
  audit        an attack on a finished model
  command      a command of salmu itself
"""


@click.command("new-plugin", epilog=f"{_EXAMPLES}\n{_KINDS}")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["loss", "multi-stage", "weights", "metric", "benchmark", "audit", "command"]),
    default="loss",
    show_default=True,
    help="What is written; see below.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="The folder to write. Default: salmu-NAME, here."
)
@click.option("--json", "as_json", is_flag=True, help="Print names and files as JSON.")
def new_plugin_command(name: str, kind: Any, out: Path | None, as_json: bool) -> int:
    """Write the package of a new plugin: code, tests, card, pyproject.toml, a workflow for GitHub.

    NAME is small letters and digits, words joined by hyphens. What is written runs as it is and passes `salmu check`;
    nothing that exists is overwritten.
    """
    from salmu_authors.scaffold import new_plugin
    from salmu_core.cli import render
    from salmu_core.cli.command_group import installed_commands
    from salmu_core.plugins.loading import load_plugins

    plugin, folder, written = new_plugin(name, kind, out, load_plugins(), installed_commands())
    if as_json:
        render.print_json(
            {
                "name": plugin.registered,
                "kind": plugin.registered_kind,
                "package": plugin.package,
                "module": plugin.module,
                "folder": str(folder),
                "files": written,
            }
        )
        return 0
    render.out.print(
        f"{folder}: the {plugin.registered_kind} {plugin.registered}", style="bold", highlight=False, soft_wrap=True
    )
    for path in written:
        render.out.print(f"  {path}", markup=False, highlight=False)
    steps = [f"cd {folder}", "uv pip install -e '.[test]'"]
    steps += [f"salmu build {plugin.registered}"] if plugin.kind == "benchmark" else []
    steps += [f"salmu check {plugin.registered}", "pytest"]
    render.out.print("\nNext:")
    for step in steps:
        render.out.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
    render.out.print(f"\nThen write your own idea into {plugin.module}.py and say it in README.md.", highlight=False)
    return 0
