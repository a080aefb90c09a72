"""`salmu find`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from salmu_core.cli.arguments import FiniteRange

if TYPE_CHECKING:
    from salmu_deletion.own_data.find import Candidate
    from salmu_deletion.own_data.tables import Table

_EXAMPLES = """\b
Examples:
  salmu find --table all.csv --name "Anna Smith" --out request.csv
  salmu find --table all.csv --text "+49 170 1234567"
  salmu find --table shards/ --model clip/ --face anna.jpg --html anna.html
  salmu find --table all.csv --model clip/ --name "Anna Smith" \\
      --face anna.jpg --drop 12,40 --out request.csv
"""
_SHOWN = 20


@click.command("find", epilog=_EXAMPLES)
@click.option(
    "--table",
    "place",
    required=True,
    type=click.Path(path_type=Path),
    metavar="TABLE",
    help="Pairs to search: .csv, .tsv, .parquet, webdataset .tar, or a folder of shards.",
)
@click.option("--columns", metavar="PART=COLUMN,...", help="Parts: image, caption, identity, field, name, value.")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="Folder that paths of pictures begin in.")
@click.option("--name", metavar="NAME", help="An identity, or a name whose words stand in the name or the caption.")
@click.option("--text", metavar="WORDS", help="Words in the caption or the value; numbers in whatever way they are written.")
@click.option(
    "--face", type=click.Path(path_type=Path), metavar="PICTURE", help="The nearest pictures to this one; needs --model."
)
@click.option("--model", help="The model, whose image encoder says what is near; as for `salmu forget`.")
@click.option(
    "--architecture", metavar="NAME", help="open_clip's name, for weights without open_clip_config.json beside them."
)
@click.option("--most", type=click.IntRange(min=1), default=20, show_default=True, help="Rows by --face, at most.")
@click.option("--at-least", type=FiniteRange(-1, 1), metavar="COSINE", help="Leave out rows by --face that are less alike.")
@click.option("--no-same-identity", is_flag=True, help="Do not add the other rows of people who were found by words.")
@click.option("--drop", metavar="ROW,...", help="Rows that do not belong, by their numbers.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="CSV", help="Write the rows as --forget of `salmu forget` takes them."
)
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with the pictures.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is an accelerator.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def find_command(
    place: Path,
    columns: str | None,
    images: Path | None,
    name: str | None,
    text: str | None,
    face: Path | None,
    model: str | None,
    architecture: str | None,
    most: int,
    at_least: float | None,
    no_same_identity: bool,
    drop: str | None,
    out: Path | None,
    page: Path | None,
    overwrite: bool,
    cpu: bool,
    as_json: bool,
) -> int:
    """Search a table for the rows that a request to forget is about.

    What is found are candidates: look at them, leave out what does not belong with --drop, and give the CSV to `salmu forget`.
    Pictures that are near a face need not show the same person, and people may be shown in rows that no search finds. What is
    printed is personal data.

    Exit code 1 when nothing was found.
    """
    from salmu_core.cli import render
    from salmu_core.errors import BadOptions, OutputError
    from salmu_core.files.writing import write_text
    from salmu_deletion.own_data.columns import parse_columns
    from salmu_deletion.own_data.find import find_by_words, joined, write_candidates
    from salmu_deletion.own_data.tables import align, read_table

    if not any(word and word.strip() for word in (name, text)) and face is None:
        raise BadOptions("Say what to look for.", "--name, --text, --face, or several of them.")
    if (face is None) != (model is None):
        raise BadOptions("--face and --model belong together: the model says which pictures are near.", "Give both.")
    if out is not None and out.suffix.lower() != ".csv":
        raise BadOptions(f"--out writes CSV, and '{out}' does not end so.", "Name it e.g. request.csv.")
    for path in filter(None, (out, page)):
        if path.exists() and not overwrite:
            raise OutputError(f"'{path}' is there already.", "Choose another name, or --overwrite to replace it.")
        if any(path.exists() and other is not None and other.exists() and path.samefile(other) for other in (place, face)):
            raise OutputError(f"'{path}' is what is searched.", "Choose another name.")
    dropped = _numbers(drop)
    [table] = align([read_table(place, parse_columns(columns or ""), images).require_good()])
    by_words = find_by_words(table, name, text, whole_person=not no_same_identity)
    by_face: list[Candidate] = []
    if face is not None:
        by_face = _faces(table, str(model), architecture, face, most, at_least, cpu=cpu, quiet=as_json)
    everything = joined(by_words, by_face)
    unknown = sorted(dropped - {item.row for item in everything})
    if unknown:
        raise BadOptions(f"--drop names rows that were not found: {', '.join(map(str, unknown))}.", "Leave them out.")
    found = [item for item in everything if item.row not in dropped]
    if out is not None and found:
        write_candidates(out, table, found)
    if page is not None:
        from salmu_deletion.own_data.find_page import render_candidates

        asked = {"name": name, "text": text, "face": None if face is None else face.name}
        write_text(page, render_candidates(table, found, asked, face))
    if as_json:
        render.print_json({"rows": [_as_json(table, item) for item in found], "dropped": sorted(dropped)})
    else:
        _show(table, found)
        for path in filter(None, (out if found else None, page)):
            render.out.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
        if out is not None and found:
            render.out.print(
                f"Look at the rows first. Then: salmu forget --forget {out} ...",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    return 0 if found else 1


def _numbers(text: str | None) -> set[int]:
    from salmu_core.errors import BadOptions

    try:
        return {int(part) for part in (text or "").split(",") if part.strip()}
    except ValueError:
        raise BadOptions(f"--drop takes row numbers separated by commas, got '{text}'.") from None


def _faces(
    table: Table,
    model: str,
    architecture: str | None,
    face: Path,
    most: int,
    at_least: float | None,
    *,
    cpu: bool,
    quiet: bool,
) -> list[Candidate]:
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.models.dual_encoder import ModelConfig
    from salmu_core.models.loading import load_model
    from salmu_core.runner.accelerate_setup import open_accelerator
    from salmu_core.runner.progress import Progress
    from salmu_deletion.own_data.find import find_by_face

    loaded = load_model(model, like=None if architecture is None else ModelConfig.named(architecture))
    with ProgressDisplay(quiet=quiet) as display, open_accelerator("no", cpu=cpu) as accelerator:

        def tell(stage: str, done: int, total: int) -> None:
            display.run_progress(Progress("find", stage, done, total))

        return find_by_face(table, loaded.to(accelerator.device), face, most, at_least, tell)


def _as_json(table: Table, item: Candidate) -> dict[str, Any]:
    return {
        "row": item.row,
        "file_name": table.file_names[item.row],
        "identity": None if table.identities is None else table.identities[item.row],
        "caption": table.captions[item.row],
        "why": list(item.why),
        "similarity": item.similarity,
    }


def _show(table: Table, found: Sequence[Candidate]) -> None:
    """Who and what was found; the page has the pictures."""
    from rich.text import Text

    from salmu_core.cli import render
    from salmu_core.files.names import visible

    if not found:
        render.out.print("Nothing was found. Try fewer words, another way to write the name, or --face.", highlight=False)
        return
    rows = [
        (
            str(item.row),
            (table.identities[item.row] if table.identities is not None else None) or "–",
            "; ".join(item.why),
            "–" if item.similarity is None else f"{item.similarity:.3f}",
            _short(table.captions[item.row], 32),
        )
        for item in found[:_SHOWN]
    ]
    render.out.print(render.make_table(("Row", "Identity", "Why", "Cosine", "Caption"), rows))
    people = Counter(
        who for item in found if table.identities is not None and (who := table.identities[item.row]) is not None
    )
    more = f" The first {_SHOWN} are shown." if len(found) > _SHOWN else ""
    count = f"{len(found)} row{'s' if len(found) > 1 else ''} of {len(people)} known identit{'ies' if len(people) != 1 else 'y'}."
    render.out.print(f"{count}{more}", highlight=False)
    if len(people) > 1:
        each = ", ".join(f"{who} ({rows})" for who, rows in people.most_common(5)) + (", ..." if len(people) > 5 else "")
        text = (
            f"More than one person: {each}. --name IDENTITY finds one of them and rows that name it, --drop leaves rows out."
        )
        render.out.print(Text(visible(text, one_line=True)))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


__all__ = ["find_command"]
