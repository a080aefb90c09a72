"""Which rows of a table a request is about: by name, by words, or by the nearest pictures to a face."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import DataCache
from salmu_core.data.pairs import View
from salmu_core.data.splits import Split
from salmu_core.errors import BadData, OutputError
from salmu_core.evaluation.embed import Tell, embed_views
from salmu_core.files.writing import atomic_path, write_text
from salmu_core.models.dual_encoder import DualEncoder
from salmu_deletion.own_data.cells import loose
from salmu_deletion.own_data.columns import FOUND_COLUMNS
from salmu_deletion.own_data.images import PathImages
from salmu_deletion.own_data.spelling import folded, stands_in
from salmu_deletion.own_data.tables import Table

_KINDS = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


@dataclass(frozen=True)
class Candidate:
    """A row that may belong to the request.

    Attributes:
        row: of the table, from 0.
        why: in words, e.g. "name", "same identity", "face".
        similarity: cosine of its picture with the face; None where no face was asked for.
    """

    row: int
    why: tuple[str, ...]
    similarity: float | None = None


def find_by_words(
    table: Table, name: str | None = None, text: str | None = None, *, whole_person: bool = True
) -> list[Candidate]:
    """Rows by what stands in them; case, accents, runs of spaces and kinds of apostrophes do not count.

    Args:
        name: rows whose identity is this (also `7` for `007` or `7.0`), or in whose name or caption all its words stand as words of
            their own. Where a script puts no spaces between words (Chinese, Thai, ...) it is enough that they stand there.
        text: rows in whose caption or value this stands. Where it has digits, spaces and punctuation do not count: telephone
            numbers are written in many ways.
        whole_person: add the other rows of every identity that was found.

    Returns:
        In row order.
    """
    found: dict[int, list[str]] = {}
    identities = table.identities or [None] * len(table)
    names, values = table.names or [None] * len(table), table.values or [None] * len(table)
    for row, caption in enumerate(table.captions):
        if name is not None:
            if name.strip() and loose(identities[row] or "") == loose(name):
                found.setdefault(row, []).append("identity")
            for what, cell in (("name", names[row]), ("name in caption", caption)):
                if cell and stands_in(name, cell):
                    found.setdefault(row, []).append(what)
        if text is not None and text.strip():
            for what, cell in (("caption", caption), ("value", values[row])):
                if cell and _holds(cell, text):
                    found.setdefault(row, []).append(what)
    if whole_person:
        people = {identities[row] for row in found} - {None}
        for row, identity in enumerate(identities):
            if identity in people and row not in found:
                found[row] = ["same identity"]
    return [Candidate(row, tuple(found[row])) for row in sorted(found)]


def find_by_face(
    table: Table,
    model: DualEncoder,
    picture: Path,
    most: int,
    at_least: float | None = None,
    tell: Tell = lambda stage, done, total: None,
) -> list[Candidate]:
    """The rows whose pictures are nearest to a picture, by the model's own image encoder, nearest first. Nothing is kept.

    It finds what this model takes for alike, which need not be the same person: a person has to look at what it finds.

    Args:
        picture: a file.
        most: rows at most.
        at_least: leave out rows of a lower cosine.

    Raises:
        BadData: a picture that is not there or cannot be decoded.
    """
    if not picture.is_file():
        raise BadData(f"There is no picture '{picture}'.", "--face takes a file with a picture of the person.")
    splits = {"table": Split("table", table.images), "face": Split("face", PathImages([picture]))}
    views = {name: View(name, "image") for name in splits}
    vectors = embed_views(model, cast(Benchmark, _Rows(splits)), list(views.values()), None, tell, data=DataCache())
    cosines = (vectors[views["table"]].vectors @ vectors[views["face"]].vectors[0]).clamp(-1, 1)
    order = torch.argsort(cosines, descending=True, stable=True)[:most].tolist()
    found = [Candidate(row, ("face",), float(cosines[row])) for row in order]
    return [item for item in found if at_least is None or (item.similarity or 0.0) >= at_least]


class _Rows:
    """Splits by name, as the embedding pass asks a benchmark for them."""

    def __init__(self, splits: dict[str, Split]) -> None:
        self._splits = splits

    def split(self, name: str) -> Split:
        return self._splits[name]


def joined(*lists: Sequence[Candidate]) -> list[Candidate]:
    """Candidates of several searches, each row once, in the order of the first that found it."""
    found: dict[int, Candidate] = {}
    for item in (item for candidates in lists for item in candidates):
        before = found.get(item.row)
        if before is None:
            found[item.row] = item
        else:
            similarity = before.similarity if before.similarity is not None else item.similarity
            found[item.row] = replace(before, why=tuple(dict.fromkeys([*before.why, *item.why])), similarity=similarity)
    return list(found.values())


def write_candidates(path: Path, table: Table, candidates: Sequence[Candidate]) -> Path | None:
    """Write the CSV that `salmu forget --forget` takes; why a row is there stands beside it.

    Pictures that are files are named by their full path. Those inside a table (parquet, tar) are written beside the CSV.

    Returns:
        The folder of pictures; None where none was written.

    Raises:
        OutputError: the place cannot be written.
    """
    files = [_file_of(table, item.row) for item in candidates]
    folder = path.with_name(f"{path.stem}-pictures") if None in files else None
    places = []
    for item, file in zip(candidates, files, strict=True):
        if file is None:
            assert folder is not None
            content = table.images.read(item.row)
            ending = next((ending for start, ending in _KINDS.items() if content.startswith(start)), ".img")
            target = folder / f"{item.row:08d}{ending}"
            _write_bytes(target, content)
            places.append(f"{folder.name}/{target.name}")
        else:
            places.append(str(file.absolute()))
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(FOUND_COLUMNS)
    for item, place in zip(candidates, places, strict=True):
        cells = [column[item.row] if column is not None else None for column in _columns(table)]
        similarity = "" if item.similarity is None else f"{item.similarity:.4f}"
        row = [place, table.captions[item.row], *(cell or "" for cell in cells)]
        writer.writerow([*row, item.row, "; ".join(item.why), similarity])
    write_text(path, buffer.getvalue())
    return folder


def _columns(table: Table) -> tuple[Sequence[str | None] | None, ...]:
    return table.identities, table.fields, table.names, table.values


def _file_of(table: Table, row: int) -> Path | None:
    """The row's own picture file; None where it lies in a file with others."""
    from salmu_core.data.images import ImagePlaces

    places = ImagePlaces.of(table.images)
    source = places.sources[places.source[row]]
    return source.paths[int(places.row[row])] if isinstance(source, PathImages) else None


def _write_bytes(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            Path(temporary).write_bytes(content)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error.strerror or error}.", "Choose another place.") from error


def _holds(cell: str, text: str) -> bool:
    where, what = folded(cell), folded(text)
    if what in where:
        return True
    bare = re.sub(r"[\W_]+", "", what)
    return any(letter.isdigit() for letter in bare) and bare in re.sub(r"[\W_]+", "", where)
