"""Writing tables in SALMUBench's layout, a row group at a time: no split has to fit in memory."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from salmu_core.errors import OutputError
from salmu_core.files.writing import atomic_path, elsewhere, write_json
from salmubench import layout
from salmubench.tables import Metadata, Row, Tables

_COLUMNS = {
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "text": pa.string(),
    "identity_id": pa.string(),
    "file_name": pa.string(),
}


def write_snapshot(folder: Path, tables: Tables, rows_per_shard: int = 4096) -> None:
    """Write every table and metadata file below `folder`. Equal tables give equal bytes."""
    for split, rows in sorted(tables.splits.items()):
        write_split(folder, split, rows, rows_per_shard)
    write_metadata(folder, tables)


def write_split(
    folder: Path, split: str, rows: Iterable[Row], rows_per_shard: int = 4096, rows_per_group: int = 256
) -> list[Path]:
    """Write one table; `rows` may be a generator, of which one row group at a time is held in memory.

    Shards get their names, which tell how many there are, when all of them are written: a reader never sees part of a
    split. Shards of that split that were there before are removed.

    Args:
        rows_per_shard: rows of a file.
        rows_per_group: rows that a reader has to read to get at one of them.

    Returns:
        The shards, in row order.

    Raises:
        OutputError: the place cannot be written or is full.
    """
    target = folder / layout.DATA
    source = iter(rows)
    ahead = next(source, None)  # the first row of the next shard
    schema = _schema(labelled=ahead is not None and ahead.label is not None)
    parts: list[Path] = []
    try:
        while ahead is not None or not parts:
            head = [] if ahead is None else [ahead]
            parts.append(target / f".{split}-{len(parts):05d}.part")
            shard = itertools.chain(head, itertools.islice(source, rows_per_shard - len(head)))
            _write_shard(parts[-1], shard, schema, rows_per_group)
            ahead = next(source, None)
        for old in target.glob(f"{split}-*.parquet"):
            old.unlink()
        named = [target / f"{split}-{number:05d}-of-{len(parts):05d}.parquet" for number in range(len(parts))]
        for part, name in zip(parts, named, strict=True):
            part.replace(name)
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written: {error.strerror or error}.", elsewhere(target)) from error
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return named


def write_metadata(folder: Path, metadata: Metadata) -> list[Path]:
    """Write the five metadata files, and the prompts of the zero-shot classes where there are any."""
    contents = metadata_contents(metadata)
    for name, content in contents.items():
        write_json(folder / name, content)
    return [folder / name for name in contents]


def metadata_contents(metadata: Metadata) -> dict[str, Any]:
    """The content of each metadata file, by name."""
    contents: dict[str, Any] = {
        layout.IDENTITIES: metadata.identities,
        layout.CAPTIONS: {
            name: {"caption": text, "data_field": field} for name, (text, field) in metadata.caption_fields.items()
        },
        layout.GENERIC_CAPTIONS: metadata.generic_captions,
        layout.FRAGILE_IDS: metadata.fragile_ids,
        layout.FRAGILE_SIMILARITIES: metadata.fragile_similarities,
    }
    if metadata.prompts:
        contents[layout.PROMPTS] = [{"label": label, "text": text} for label, text in metadata.prompts]
    return contents


def _schema(*, labelled: bool) -> pa.Schema:
    """Columns of a table, and what the `datasets` library needs to show the first of them as pictures."""
    columns = {**_COLUMNS, "label": pa.int64()} if labelled else _COLUMNS
    features = {
        name: {"_type": "Image"} if name == "image" else {"dtype": str(kind), "_type": "Value"}
        for name, kind in columns.items()
    }
    return pa.schema(list(columns.items()), {"huggingface": json.dumps({"info": {"features": features}})})


def _write_shard(path: Path, rows: Iterator[Row], schema: pa.Schema, rows_per_group: int) -> None:
    with (
        atomic_path(path) as temporary,
        # Pictures are compressed already.
        pq.ParquetWriter(temporary, schema, compression="none") as writer,
    ):
        while group := list(itertools.islice(rows, rows_per_group)):
            writer.write_table(_table(group, schema))


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    columns = {
        "image": [{"bytes": row.image, "path": row.file_name} for row in rows],
        **{name: [getattr(row, name) for row in rows] for name in schema.names if name != "image"},
    }
    return pa.Table.from_pydict(columns, schema)
