"""`salmu study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from salmu_core.cli.shown_rows import Showing, showing

_EXAMPLES = """\b
Examples:
  salmu study study.toml --dry-run
  salmu study results/mini/study.toml --out results/again
  salmu study study.toml --require 'verdict!=catastrophic' --format md
"""


@click.command("study", epilog=_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Results directory. Default: the study's `out`.")
@click.option("--overwrite", is_flag=True, help="Do finished runs again.")
@click.option("--dry-run", is_flag=True, help="Check everything and list the runs and their cost; run nothing.")
@click.option("--no-wait", is_flag=True, help="Come back once jobs are submitted; the same command waits and compares.")
@showing
def study_command(file: Path, out: Path | None, overwrite: bool, dry_run: bool, no_wait: bool, **flags: Any) -> int:
    """Carry out the study that FILE describes: benchmark, instances, methods with options, seeds, budgets and how to run them.

    The results folder keeps a copy. `salmu compare` writes such a file for what it ran; docs/compare.md lists the keys. Exit codes
    are those of `salmu compare`.
    """
    from salmu_core.cli.comparison import carry_out
    from salmu_core.spec.study import read_study

    study = read_study(file)
    if out is not None:
        study = study.model_copy(update={"out": str(out)})
    return carry_out(
        study,
        Showing.of(flags),
        overwrite=overwrite,
        dry_run=dry_run,
        no_wait=no_wait,
        text=file.read_text(encoding="utf-8"),
    )
