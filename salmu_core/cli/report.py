"""`salmu report`: from records alone. Imports neither torch nor plugins."""

from __future__ import annotations

from pathlib import Path

import click

from salmu_core.cli.arguments import format_option

_EXAMPLES = """\b
Examples:
  salmu report results/mini
  salmu report results/mini elsewhere/runs --out joined
  salmu report results/mini --format latex > table.tex
"""


@click.command("report", epilog=_EXAMPLES)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where to write. Default: the first FOLDER.")
@format_option
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
def report_command(folders: tuple[Path, ...], out: Path | None, form: str, as_json: bool) -> int:
    """Make the leaderboard and the HTML report again from the records below FOLDERS."""
    from salmu_core.cli import render
    from salmu_core.errors import BadRecord
    from salmu_core.records import formats
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
    files = write_reports(out or folders[0], comparison, zip(loaded.records, loaded.files, strict=True))
    if as_json or form != "table":
        print(formats.render(comparison, "json" if as_json else form), end="")
        return 0
    for renderable in leaderboard_renderables(comparison, render.out.width):
        render.out.print(renderable)
    for path in files.values():
        render.out.print(f"Written: {path}", markup=False, highlight=False)
    return 0
