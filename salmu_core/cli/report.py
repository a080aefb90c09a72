"""`salmu report`: from records alone. Imports neither torch nor plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from salmu_core.cli.shown_rows import Showing, showing

_EXAMPLES = """\b
Examples:
  salmu report results/mini
  salmu report results/mini elsewhere/runs --out joined
  salmu report results/mini --where 'GenKnow.gap<0.05' --sort InterIdSim
  salmu report results/mini --commands
  salmu report results/mini --format latex > table.tex
"""


@click.command("report", epilog=_EXAMPLES)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where to write. Default: the first FOLDER.")
@click.option(
    "--score-with", multiple=True, metavar="METRIC", help="Count a metric that the benchmark does not name; repeatable."
)
@showing
def report_command(folders: tuple[Path, ...], out: Path | None, score_with: tuple[str, ...], **flags: Any) -> int:
    """Make the leaderboard and the HTML report again from the records below FOLDERS.

    Instances of a benchmark that differ in their seed alone are pooled. Exit codes: 0, 1 when something cannot be used, 2 for unknown
    flags, 3 when a --require or --fail-if condition is broken.
    """
    from salmu_core.cli import render
    from salmu_core.comparison.compare import compare_records
    from salmu_core.errors import BadRecord
    from salmu_core.records.store import load_records
    from salmu_core.report.report import write_reports

    loaded = load_records(*folders)
    render.show_problems(loaded.problems)
    if not loaded.records:
        raise BadRecord(
            f"There is no record below {', '.join(map(str, folders))}.", "Run `salmu compare` or `salmu run` first."
        )
    comparison = compare_records(loaded.records, loaded.folders, score_with=score_with)
    files = write_reports(out or folders[0], comparison, zip(loaded.records, loaded.files, strict=True))
    return Showing.of(flags).show(comparison, files)
