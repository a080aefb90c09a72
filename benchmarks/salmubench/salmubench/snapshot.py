"""Reading a snapshot in SALMUBench's layout, row group by row group: no split has to fit in memory."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salmu_core.data import Split, join_images
from salmu_core.errors import BadData
from salmu_core.file_digests import file_stamp
from salmubench import layout

_REQUIRED = ("image", "text", "identity_id", "file_name")


_KEPT_BYTES = 256_000_000  # of row groups that are held; one is always held, whatever its size


@dataclass(eq=False)
class ParquetImages:
    """Encoded images of one shard, read when asked for. The row groups read last are held, up to 256 MB."""

    shard: Path
    column: str = "image"
    _held: OrderedDict[int, list[Any]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._stamp = file_stamp(self.shard)

    @cached_property
    def _file(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.shard)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadData(f"'{self.shard}' is no readable parquet file: {error}.", "Fetch it again.") from error

    @cached_property
    def _ends(self) -> np.ndarray:
        """Last row (exclusive) of every row group."""
        metadata = self._file.metadata
        return np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)], dtype=np.int64)

    @cached_property
    def _most_groups(self) -> int:
        """How many row groups fit into what may be held."""
        metadata = self._file.metadata
        largest = max((metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)), default=1)
        return max(1, _KEPT_BYTES // max(1, largest))

    def files(self) -> Sequence[Path]:
        return [self.shard]

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _locate(self, row: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._ends, row, side="right"))
        return group, row - (int(self._ends[group - 1]) if group else 0)

    def _group(self, group: int) -> list[Any]:
        if file_stamp(self.shard) != self._stamp:
            raise BadData(f"'{self.shard}' has changed since it was opened.", "Start again.")
        with self._lock:  # a parquet file is read by one thread at a time
            if group not in self._held:
                while len(self._held) >= self._most_groups:
                    self._held.popitem(last=False)
                try:
                    column = self._file.read_row_group(group, columns=[self.column]).column(self.column)
                except (pa.ArrowInvalid, OSError) as error:
                    raise BadData(f"'{self.shard}' cannot be read: {error}.", "Fetch it again.") from error
                self._held[group] = column.to_pylist()
            self._held.move_to_end(group)
            return self._held[group]

    def read(self, row: int) -> bytes:
        group, inner = self._locate(row)
        value = self._group(group)[inner]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise BadData(f"There are no image bytes in {self.where(row)}.", "Fetch or build the data again.")
        return data

    def where(self, row: int) -> str:
        place = f"{self.shard}, row {row}"
        if "file_name" not in self._file.schema_arrow.names:
            return place
        group, inner = self._locate(row)
        with self._lock:
            name = self._file.read_row_group(group, columns=["file_name"]).column("file_name")[inner].as_py()
        return f"{place} ({name})"


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
            images=join_images([ParquetImages(shard) for shard in shards]),
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
