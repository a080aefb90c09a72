"""Writing tables in SALMUBench's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from salmu_core.files import atomic_path, write_json
from salmubench import layout
from salmubench.tables import Row, Tables

# What the `datasets` library needs to show the column as pictures.
_FEATURES = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "text": {"dtype": "string", "_type": "Value"},
            "identity_id": {"dtype": "string", "_type": "Value"},
            "file_name": {"dtype": "string", "_type": "Value"},
        }
    }
}


def write_snapshot(folder: Path, tables: Tables, rows_per_shard: int = 4096) -> None:
    """Write every table and metadata file below `folder`. Equal tables give equal bytes."""
    for split, rows in sorted(tables.splits.items()):
        shards = [rows[start : start + rows_per_shard] for start in range(0, len(rows), rows_per_shard)] or [[]]
        for number, shard in enumerate(shards):
            name = f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            _write_shard(folder / layout.DATA / name, shard, labelled=split == "genknow")
    write_json(folder / layout.IDENTITIES, tables.identities)
    captions = {name: {"caption": text, "data_field": field} for name, (text, field) in tables.caption_fields.items()}
    write_json(folder / layout.CAPTIONS, captions)
    write_json(folder / layout.GENERIC_CAPTIONS, tables.generic_captions)
    write_json(folder / layout.FRAGILE_IDS, tables.fragile_ids)
    write_json(folder / layout.FRAGILE_SIMILARITIES, tables.fragile_similarities)
    if tables.prompts:
        write_json(folder / layout.PROMPTS, [{"label": label, "text": text} for label, text in tables.prompts])


def _write_shard(path: Path, rows: Sequence[Row], *, labelled: bool) -> None:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array([{"bytes": row.image, "path": row.file_name} for row in rows], picture),
        "text": pa.array([row.text for row in rows], pa.string()),
        "identity_id": pa.array([row.identity_id for row in rows], pa.string()),
        "file_name": pa.array([row.file_name for row in rows], pa.string()),
    }
    if labelled:
        columns["label"] = pa.array([row.label for row in rows], pa.int64())
    table = pa.table(columns)
    if not labelled:
        table = table.replace_schema_metadata({"huggingface": json.dumps(_FEATURES)})
    with atomic_path(path) as temporary:
        # Small row groups: a reader takes one picture without decompressing thousands.
        pq.write_table(table, temporary, row_group_size=256, compression="none")
