"""`salmu inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from salmu_deletion.inspection.inspect import Inspection

_EXAMPLES = """\b
Examples:
  salmu inspect results/mini/runs/RUN --list
  salmu inspect results/mini/runs/RUN --identity 00000012
  salmu inspect results/mini/runs/RUN --identity "Anna Smith" --html anna.html
  salmu inspect results/mini/runs/RUN --association 00000012/city --json
"""


@click.command("inspect", epilog=_EXAMPLES)
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--identity", metavar="ID", help="A person, by identity or by name.")
@click.option("--association", metavar="ID/FIELD", help="One fact of a person.")
@click.option("--list", "list_all", is_flag=True, help="Who and what can be looked at.")
@click.option("--neighbours", type=click.IntRange(min=0), default=5, show_default=True, help="Listed of each group.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with the pictures.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is an accelerator.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inspect_command(
    run: Path,
    identity: str | None,
    association: str | None,
    list_all: bool,
    neighbours: int,
    html_file: Path | None,
    overwrite: bool,
    cpu: bool,
    as_json: bool,
) -> int:
    """Show what became of one person or one association in RUN, a run directory.

    Before, after, and in a model that never learned it: similarity of picture and caption, and the place of the right caption
    among all captions of the benchmark. Then the others that moved most, and whether anybody asked for that. What is printed
    is personal data.
    """
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.errors import BadOptions, OutputError
    from salmu_core.files.writing import write_text
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.run import Settings
    from salmu_deletion.inspection.inspect import inspect, open_run, people

    if sum((identity is not None, association is not None, list_all)) != 1:
        raise BadOptions("Give one of --identity, --association and --list.", "--list shows who and what can be looked at.")
    if html_file is not None and html_file.exists() and not overwrite:
        raise OutputError(f"'{html_file}' is there already.", "Choose another --html, or --overwrite to replace it.")
    plugins = load_plugins()
    opened = open_run(run, Settings(cpu=cpu), plugins)
    if list_all:
        _list(people(opened), as_json)
        return 0
    with ProgressDisplay(quiet=as_json) as display:
        plugins.watch(display)
        found = inspect(opened, identity=identity, association=association, neighbours=neighbours)
    if html_file is not None:
        from salmu_deletion.inspection.page import render_page

        write_text(html_file, render_page(found, opened.benchmark))
    if as_json:
        render.print_json(found.as_json())
    else:
        _show(found)
        if html_file is not None:
            render.out.print(f"\nWritten: {html_file}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _list(everybody: list[dict[str, Any]], as_json: bool) -> None:
    from salmu_core.cli import render

    if as_json:
        render.print_json(everybody)
        return
    words = {"forget": "forget", "holdout": "kept", "retain": "ordinary"}
    rows = [
        (
            person["identity"],
            person["name"] or "",
            "; ".join(f"{words[group]}: {_facts(facts)}" for group, facts in person["facts"].items()),
        )
        for person in everybody
    ]
    render.out.print(render.make_table(("Identity", "Name", "Facts and their rows"), rows))
    render.out.print(f"{len(rows)} people.", highlight=False)


def _facts(facts: dict[str, int]) -> str:
    """Each fact with its rows, or how many there are where a list would tell nobody anything."""
    if len(facts) > 12:
        names = list(facts)
        return f"{len(facts)} facts ({names[0]} to {names[-1]}), {sum(facts.values())} rows"
    return ", ".join(f"{fact} {count}" for fact, count in facts.items())


def _show(found: Inspection) -> None:
    """Sentences, then tables that fit 80 columns."""
    from rich.text import Text

    from salmu_core.cli import render
    from salmu_core.files.names import visible
    from salmu_deletion.inspection.words import GROUP_WORDS

    for line in (visible(words, one_line=True) for words in found.words):
        render.out.print(Text(line, style="bold" if line.startswith("Conclusion") else ""))
    for note in found.notes:
        render.out.print(Text(note, style="dim"))
    models = [which for which in ("compromised", "unlearned", "clean") if which in found.models]

    def trio(values: Any, form: str) -> str:
        """Before > after (never learned)."""
        shown = ["–" if values[which] is None else format(values[which], form) for which in models]
        return f"{shown[0]} > {shown[1]}" + (f" ({shown[2]})" if len(shown) > 2 else "")

    rows = [
        (pair.row.file_name, trio(pair.similarity, ".2f"), trio(pair.caption_rank, ","), trio(pair.picture_rank, ","))
        for pair in found.pairs
    ]
    never = " (never learned)" if len(models) > 2 else ""
    render.out.print()
    render.out.print(Text(f"Each pair, before > after{never}", style="bold"))
    for pair, row in zip(found.pairs, rows, strict=True):
        shown = visible(f"{row[0]}  ", one_line=True), visible(pair.row.caption, one_line=True)
        render.out.print(Text(shown[0], style="bold").append(shown[1], style="not bold"))
        render.out.print(Text(f"  similarity {row[1]}, caption's place {row[2]}, picture's {row[3]}", style="dim"))
    for group, items in found.neighbours.items():
        if not items:
            continue
        render.out.print()
        render.out.print(Text(f"Affected most: {GROUP_WORDS[group]}", style="bold"))
        table = [
            (
                item.association,
                f"{item.change:+.2f}",
                trio(item.similarity, ".2f"),
                trio(item.best_rank, ","),
                f"{item.closeness:.2f}",
            )
            for item in items
        ]
        render.out.print(render.make_table(("Association", "Change", "Similarity", "Best place", "Close"), table))
    render.out.print()
    render.out.print(
        Text(
            f"Similarity: cosine of picture and caption. Place: 1 + how many of {found.gallery:,} distinct captions (or"
            f" {found.pictures:,} pictures) of forget, holdouts and retain are strictly more similar. Close: cosine with the mean"
            " picture looked at, before.",
            style="dim",
        )
    )
