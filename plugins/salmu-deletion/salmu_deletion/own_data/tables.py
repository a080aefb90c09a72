"""Reading pairs from CSV, TSV, parquet and webdataset tar files, into one shape."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salmu_core.data.pairs import ImageRows, join_images
from salmu_core.errors import BadData, SalmuError
from salmu_deletion.own_data.columns import PARTS, Columns, match_columns
from salmu_deletion.own_data.images import ParquetCells, PathImages, TarImages

_PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
_KINDS = "a .csv, .tsv, .parquet or .tar file, or a folder of .parquet or .tar files"


@dataclass(frozen=True)
class Table:
    """Rows of somebody's table.

    Attributes:
        images: one per row.
        captions: one per row, as they stand; empty where there is none.
        identities, fields, names, values: None where the table has no such column, else one entry per row, None where empty.
        file_names: how a person finds the row again.
    """

    source: Path
    images: ImageRows
    captions: Sequence[str]
    file_names: Sequence[str]
    identities: Sequence[str | None] | None = None
    fields: Sequence[str | None] | None = None
    names: Sequence[str | None] | None = None
    values: Sequence[str | None] | None = None

    def __len__(self) -> int:
        return len(self.captions)


def table_files(path: Path) -> list[Path]:
    """The files that make up a table: the file itself, or the shards in a folder, sorted.

    Raises:
        BadData: nothing there, or a kind of file that is not read.
    """
    if path.is_dir():
        for ending in ("*.parquet", "*.tar"):
            if found := sorted(path.glob(ending)):
                return found
        raise BadData(f"The folder '{path}' holds no .parquet or .tar file.", f"A table is {_KINDS}.")
    if not path.is_file():
        raise BadData(f"There is no table '{path}'.", f"A table is {_KINDS}.")
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet", ".tar"):
        raise BadData(f"'{path}' is of a kind that is not read.", f"A table is {_KINDS}.")
    return [path]


def read_table(
    path: Path, columns: Mapping[str, str], images: Path | None = None, optional: frozenset[str] = frozenset()
) -> Table:
    """Read a table; pictures are read when they are needed.

    Args:
        columns: part -> column, see `columns.parse_columns`.
        images: folder that relative paths of pictures begin in; default: the folder of the table.
        optional: see `columns.match_columns`.

    Raises:
        BadData: nothing there, no such columns, or a file that is not what its name says; file and row are named.
    """
    parts = [_read_one(file, columns, images, optional) for file in table_files(path)]
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for attribute in ("identities", "fields", "names", "values"):
        found = [getattr(part, attribute) for part in parts]
        known = any(values is not None for values in found)
        joined[attribute] = (
            [v for p, vs in zip(parts, found, strict=True) for v in (vs or [None] * len(p))] if known else None
        )
    return Table(
        path,
        join_images([part.images for part in parts]),
        [caption for part in parts for caption in part.captions],
        [name for part in parts for name in part.file_names],
        **joined,
    )


def _read_one(path: Path, columns: Mapping[str, str], images: Path | None, optional: frozenset[str]) -> Table:
    match path.suffix.lower():
        case ".parquet":
            return _read_parquet(path, columns, images, optional)
        case ".tar":
            return _read_tar(path, columns, optional)
        case suffix:
            return _read_csv(path, "\t" if suffix == ".tsv" else ",", columns, images, optional)


def _read_csv(
    path: Path, delimiter: str, columns: Mapping[str, str], images: Path | None, optional: frozenset[str]
) -> Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            rows = list(reader)
            names = list(reader.fieldnames or ())
    except UnicodeDecodeError as error:
        raise BadData(f"'{path}' is not UTF-8: {error.reason} at byte {error.start}.", "Save it as UTF-8.") from None
    except csv.Error as error:
        raise BadData(f"'{path}' is no readable CSV: {error}, line {reader.line_num}.") from None
    uneven = next((number for number, row in enumerate(rows, 2) if None in row or None in row.values()), None)
    if uneven is not None:
        raise BadData(
            f"'{path}' has more or fewer cells than headings near line {uneven}.", "Put captions that hold commas in quotes."
        )
    found = match_columns(names, columns, str(path), optional)
    return _from_values(path, found, {name: [row[name] for row in rows] for name in names}, images)


def _read_parquet(path: Path, columns: Mapping[str, str], images: Path | None, optional: frozenset[str]) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise SalmuError(
            "Reading parquet takes pyarrow, which is not installed.", "pip install 'salmu-deletion[parquet]'"
        ) from None
    try:
        file = pq.ParquetFile(path)
        found = match_columns(file.schema_arrow.names, columns, str(path), optional)
        kind = file.schema_arrow.field(found.of["image"]).type
        cells = not (pa.types.is_string(kind) or pa.types.is_large_string(kind))
        wanted = [column for part, column in found.of.items() if part != "image" or not cells]
        values = file.read(columns=wanted).to_pydict()
    except (pa.ArrowInvalid, OSError) as error:
        raise BadData(f"'{path}' is no readable parquet file: {error}.") from None
    return _from_values(path, found, values, images, ParquetCells(path, found.of["image"]) if cells else None)


def _from_values(
    path: Path, columns: Columns, values: Mapping[str, Sequence[Any]], folder: Path | None, cells: ImageRows | None = None
) -> Table:
    captions = [_text(value) or "" for value in values[columns.of["caption"]]]
    if cells is None:
        given = [_text(value) or "" for value in values[columns.of["image"]]]
        images: ImageRows = PathImages([(folder or path.parent) / name for name in given])
    else:
        images, given = cells, [f"{path.name}#{row}" for row in range(len(captions))]

    def column(part: str) -> list[str | None] | None:
        name = columns.get(part)
        return None if name is None else [_text(value) for value in values[name]]

    return Table(path, images, captions, given, column("identity"), column("field"), column("name"), column("value"))


def _read_tar(path: Path, columns: Mapping[str, str], optional: frozenset[str]) -> Table:
    """A webdataset shard: members that share a name up to its first dot are one sample."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # no compression: rows are read by where they begin
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key, dot, ending = name.partition(".")
                if member.isfile() and dot and key:
                    samples.setdefault(f"{folder}/{key}" if folder else key, {})[ending.lower()] = member
            facts = [_facts(tar, path, key, sample) for key, sample in samples.items()]
    except (tarfile.TarError, OSError) as error:
        raise BadData(f"'{path}' is no readable tar file: {error}.", "A compressed tar has to be unpacked first.") from None
    pictures = [
        next((sample[end] for end in (*filter(None, [columns.get("image")]), *_PICTURES) if end in sample), None)
        for sample in samples.values()
    ]
    missing = next((key for key, picture in zip(samples, pictures, strict=True) if picture is None), None)
    if missing is not None or not samples:
        what = f"the sample '{missing}' has no picture" if samples else "it holds no samples"
        raise BadData(f"'{path}' is no webdataset shard: {what}.", f"Endings of pictures: {', '.join(_PICTURES)}.")
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    found = match_columns(["image", *names], {**columns, "image": "image"}, str(path), optional)
    chosen = [picture for picture in pictures if picture is not None]
    values = {name: [fact.get(name) for fact in facts] for name in names}
    places = TarImages(path, [(m.offset_data, m.size) for m in chosen], [m.name for m in chosen])
    table = _from_values(path, found, values, None, places)
    return Table(**{**vars(table), "file_names": places.names})


def _facts(tar: tarfile.TarFile, path: Path, key: str, sample: Mapping[str, tarfile.TarInfo]) -> dict[str, Any]:
    """Texts of one sample: its .txt as caption, and what its .json says."""
    facts: dict[str, Any] = {}
    for ending in ("json", "txt"):
        if ending not in sample:
            continue
        stream = tar.extractfile(sample[ending])
        assert stream is not None
        try:
            text = stream.read().decode("utf-8")
            content = json.loads(text) if ending == "json" else text.strip()
        except ValueError as error:
            raise BadData(f"'{path}': {key}.{ending} cannot be read: {error}.") from None
        if ending == "json":
            facts |= content if isinstance(content, dict) else {}
        else:
            facts["txt"] = content
    return facts


def _text(value: Any) -> str | None:
    """A cell as text; None where it is empty."""
    text = "" if value is None else str(value).strip()
    return text or None


__all__ = ["PARTS", "Table", "read_table", "table_files"]
