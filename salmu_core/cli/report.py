"""`salmu report`: from records alone. Imports neither torch nor plugins."""

from __future__ import annotations

from pathlib import Path

import click

_EXAMPLES = """\b
Examples:
  salmu report results/mini
  salmu report results/mini elsewhere/runs --out joined
"""


@click.command("report", epilog=_EXAMPLES)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where to write. Default: the first FOLDER.")
@click.option("--json", "as_json", is_flag=True, help="Print the leaderboard as JSON.")
def report_command(folders: tuple[Path, ...], out: Path | None, as_json: bool) -> int:
    """Make the leaderboard and the HTML report again from the records below FOLDERS."""
    from salmu_core.cli import render
    from salmu_core.errors import BadRecord
    from salmu_core.records.compare import compare_records
    from salmu_core.records.report import write_reports
    from salmu_core.records.store import load_records
    from salmu_core.records.table import leaderboard_renderables

    loaded = load_records(*folders)
    render.show_problems(loaded.problems)
    if not loaded.records:
        raise BadRecord(
            f"There is no record below {', '.join(map(str, folders))}.", "Run `salmu compare` or `salmu run` first."
        )
    comparison = compare_records(loaded.records)
    files = write_reports(out or folders[0], comparison)
    if as_json:
        render.print_json(comparison.model_dump(mode="json"))
        return 0
    for renderable in leaderboard_renderables(comparison, render.out.width):
        render.out.print(renderable)
    for path in files.values():
        render.out.print(f"Written: {path}", markup=False, highlight=False)
    return 0
