"""Reading a snapshot in SALMUBench's layout, row group by row group: no split has to fit in memory."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salmu_core.data import Split
from salmu_core.errors import BadData
from salmubench import layout

_REQUIRED = ("image", "text", "identity_id", "file_name")


@dataclass
class ParquetImages:
    """Encoded images of a split, read from its shards when asked for; a few row groups are kept."""

    shards: Sequence[Path]
    kept_groups: int = 8
    _cache: OrderedDict[tuple[int, int], list[Any]] = field(default_factory=OrderedDict, repr=False)

    @cached_property
    def _groups(self) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Last row (exclusive) of every row group over all shards, and (shard, group) of each."""
        sizes, places = [], []
        for number, shard in enumerate(self.shards):
            metadata = pq.read_metadata(shard)
            for group in range(metadata.num_row_groups):
                sizes.append(metadata.row_group(group).num_rows)
                places.append((number, group))
        return np.cumsum(sizes, dtype=np.int64), places

    def __len__(self) -> int:
        ends, _ = self._groups
        return int(ends[-1]) if len(ends) else 0

    def _locate(self, row: int) -> tuple[tuple[int, int], int]:
        ends, places = self._groups
        group = int(np.searchsorted(ends, row, side="right"))
        return places[group], row - (int(ends[group - 1]) if group else 0)

    def read(self, row: int) -> bytes:
        place, inner = self._locate(row)
        if place not in self._cache:
            shard, group = place
            column = pq.ParquetFile(self.shards[shard]).read_row_group(group, columns=["image"]).column("image")
            self._cache[place] = column.to_pylist()
            if len(self._cache) > self.kept_groups:
                self._cache.popitem(last=False)
        value = self._cache[place][inner]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise BadData(f"There are no image bytes in {self.where(row)}.", "Fetch or build the data again.")
        return data

    def where(self, row: int) -> str:
        (shard, group), inner = self._locate(row)
        path = self.shards[shard]
        file = pq.ParquetFile(path)
        before = sum(file.metadata.row_group(g).num_rows for g in range(group))
        name = file.read_row_group(group, columns=["file_name"]).column("file_name")[inner].as_py()
        return f"{path}, row {before + inner} ({name})"


@dataclass(frozen=True)
class Snapshot:
    """A folder in SALMUBench's layout."""

    folder: Path

    def shards(self, split: str) -> list[Path]:
        """The parquet files of a split, sorted: row order is theirs."""
        return sorted((self.folder / layout.DATA).glob(f"{split}-*.parquet"))

    def has(self, split: str) -> bool:
        """Is that split's table here?"""
        return bool(self.shards(split))

    def metadata(self, name: str) -> Any:
        """Content of a metadata file.

        Raises:
            BadData: it is missing or is not JSON.
        """
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadData(f"The metadata file '{path}' is missing.", "The snapshot is incomplete: fetch it again.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BadData(f"The metadata file '{path}' is not JSON: {error}.", "Fetch it again.") from error

    def table(self, split: str) -> Split:
        """One table as a split with its own columns.

        Raises:
            BadData: no shard, a shard that is no parquet file, or a column missing.
        """
        shards = self.shards(split)
        if not shards:
            raise BadData(
                f"The split '{split}' has no file {self.folder / layout.DATA}/{split}-*.parquet.",
                "The snapshot is incomplete.",
            )
        columns: dict[str, list[Any]] = {}
        for shard in shards:
            try:
                file = pq.ParquetFile(shard)
            except (pa.ArrowInvalid, OSError) as error:
                raise BadData(
                    f"'{shard}' of split '{split}' is no readable parquet file: {error}.", "Fetch it again."
                ) from error
            names = file.schema_arrow.names
            missing = [name for name in _REQUIRED if name not in names]
            if missing:
                raise BadData(
                    f"'{shard}' of split '{split}' lacks the column {', '.join(missing)}.", f"It has: {', '.join(names)}."
                )
            wanted = [name for name in names if name != "image"]
            for name, values in file.read(columns=wanted).to_pydict().items():
                columns.setdefault(name, []).extend(values)
        texts = columns.pop("text")
        return Split(
            name=split,
            images=ParquetImages(shards),
            texts=None if any(text is None for text in texts) else texts,
            columns=columns,
        )

    def sensitive(self, split: str) -> Split:
        """A sensitive table with the columns `data_field`, `name`, `value` and `generic_caption` from the metadata.

        Raises:
            BadData: a row without identity or metadata, or an unknown data field; split, row and file are named.
        """
        table = self.table(split)
        captions = self.metadata(layout.CAPTIONS)
        identities = self.metadata(layout.IDENTITIES)
        generic = self.metadata(layout.GENERIC_CAPTIONS)
        assert table.texts is not None
        added: dict[str, list[Any]] = {"data_field": [], "name": [], "value": [], "generic_caption": []}
        rows = zip(table.columns["identity_id"], table.columns["file_name"], table.texts, strict=True)
        for row, (identity, file_name, text) in enumerate(rows):
            where = f"split '{split}', row {row} ({file_name})"
            if identity is None:
                raise BadData(f"{where}: identity_id is null, and a sensitive row must have one.")
            if file_name not in captions:
                raise BadData(f"{where}: {layout.CAPTIONS} has no entry for this file.")
            if identity not in identities:
                raise BadData(f"{where}: {layout.IDENTITIES} has no entry for identity {identity}.")
            chosen = captions[file_name]["data_field"]
            if chosen not in layout.FIELDS:
                raise BadData(f"{where}: unknown data_field '{chosen}'.", f"Known: {', '.join(layout.FIELDS)}.")
            person = identities[identity]
            if "name" not in person or chosen not in person:
                raise BadData(f"{where}: {layout.IDENTITIES} has no '{chosen}' for identity {identity}.")
            values = person[chosen] if isinstance(person[chosen], list) else [person[chosen]]
            added["data_field"].append(chosen)
            added["name"].append(person["name"])
            added["value"].append(next((value for value in values if value in text), values[0]))
            added["generic_caption"].append(generic.get(file_name))
        return Split(table.name, table.images, table.texts, {**table.columns, **added})
