"""`salmu rescore`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("rescore", epilog="\b\nExample:\n  salmu rescore results/mini")
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def rescore_command(folder: Path) -> int:
    """Measure the finished runs below FOLDER by metrics that they lack, from the weights that they left. Each record is replaced at
    once, or stays as it was. Exit code 1 when a record could not be looked at.
    """
    from salmu_core.cli import render
    from salmu_core.plugins.loading import load_plugins
    from salmu_upkeep.rescoring import rescore

    plugins = load_plugins()
    found = rescore(folder, plugins=plugins)
    for item in found:
        words = f"added {', '.join(item.added)}" if item.added else "nothing to add"
        render.out.print(f"{item.folder.name}: {words}", markup=False, highlight=False)
        for name, why in item.why_not.items():
            render.out.print(f"  {name + ': ' if name else ''}{why}", style="dim", markup=False, highlight=False)
    render.show_problems(plugins.problems)
    return 1 if any("" in item.why_not for item in found) else 0
