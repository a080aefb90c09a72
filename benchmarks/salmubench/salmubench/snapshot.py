"""Reading a snapshot in SALMUBench's layout, row group by row group: no split has to fit in memory."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from salmu_core.data.pairs import Split, join_images
from salmu_core.errors import BadData
from salmu_core.files.digests import file_stamp
from salmubench import layout, rules

_REQUIRED = ("image", "text", "identity_id", "file_name")
_SHARD = re.compile(r"(?P<split>[^-]+)-(?P<number>\d+)-of-(?P<count>\d+)\.parquet")


_HELD_BYTES = 256_000_000  # of row groups that are held over all shards; one is always held, whatever its size


class _HeldGroups:
    """The row groups read last, of all shards together: a snapshot has dozens of shards, and each with an allowance of its own
    would end with the whole snapshot in memory.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._groups: OrderedDict[tuple[int, int], tuple[list[Any], int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int]) -> list[Any] | None:
        """The values of a group that is held."""
        with self._lock:
            if key not in self._groups:
                return None
            self._groups.move_to_end(key)
            return self._groups[key][0]

    def add(self, key: tuple[int, int], values: list[Any], size: int) -> None:
        """Hold a group and let go of those not read for longest."""
        with self._lock:
            if key in self._groups:
                return
            self._groups[key] = values, size
            self._bytes += size
            while self._bytes > self._most and len(self._groups) > 1:
                _, (_, freed) = self._groups.popitem(last=False)
                self._bytes -= freed


_held = _HeldGroups(_HELD_BYTES)
_numbers = itertools.count()


@dataclass(eq=False)
class ParquetImages:
    """Encoded images of one shard, read when asked for. The row groups read last are held, up to 256 MB over all shards."""

    shard: Path
    column: str = "image"
    _number: int = field(default_factory=lambda: next(_numbers), repr=False)
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
        values = _held.get((self._number, group))
        if values is not None:
            return values
        with self._lock:  # a parquet file is read by one thread at a time
            values = _held.get((self._number, group))  # by the thread before this one
            if values is None:
                try:
                    column = self._file.read_row_group(group, columns=[self.column]).column(self.column)
                except (pa.ArrowInvalid, OSError) as error:
                    raise BadData(f"'{self.shard}' cannot be read: {error}.", "Fetch it again.") from error
                values = column.to_pylist()
                _held.add((self._number, group), values, column.nbytes)
        return values

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
        shards = (self.folder / layout.DATA).glob(f"{split}-*.parquet")
        return sorted(shard for shard in shards if split_of(shard) == split)

    def has(self, split: str) -> bool:
        """Is that split's table here?"""
        return bool(self.shards(split))

    def rows(self, split: str) -> int:
        """Rows of a table, from the ends of its files.

        Raises:
            BadData: a shard that is no parquet file.
        """
        return sum(len(ParquetImages(shard)) for shard in self.shards(split))

    def is_complete(self) -> bool:
        """Are all files here that a benchmark needs? By their names; nothing is read."""
        return all((self.folder / name).is_file() for name in layout.REQUIRED_METADATA) and all(
            self.has(split) and not missing_shards(self.shards(split)) for split in layout.SPLITS
        )

    def metadata(self, name: str) -> Any:
        """Content of a metadata file.

        Raises:
            BadData: it is missing, is not JSON, or has another shape.
        """
        path = self.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadData(f"The metadata file '{path}' is missing.", "The snapshot is incomplete: fetch it again.") from None
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BadData(f"The metadata file '{path}' is not JSON: {error}.", "Fetch it again.") from error
        fault = rules.metadata_fault(name, content)
        if fault is not None:
            raise BadData(f"The metadata file '{path}' is not what it should be: {fault}.", "Fetch it again.")
        return content

    def has_generic_captions(self) -> bool:
        """Is the file of captions without private data here? It may be missing."""
        return (self.folder / layout.GENERIC_CAPTIONS).is_file()

    def columns(self, split: str) -> dict[str, list[Any]]:
        """Every column of a table but the pictures. Identities are texts, also where the table holds numbers.

        Raises:
            BadData: no shard or some missing, a shard that is no parquet file, or a column missing.
        """
        shards = self.shards(split)
        if not shards:
            raise BadData(
                f"The split '{split}' has no file {self.folder / layout.DATA}/{split}-*.parquet.",
                "The snapshot is incomplete.",
            )
        absent = missing_shards(shards)
        if absent:
            raise BadData(
                f"The split '{split}' lacks {len(absent)} of its shards: {', '.join(absent[:3])}.",
                "The snapshot is incomplete: fetch it again.",
            )
        columns: dict[str, list[Any]] = {}
        for shard in shards:
            before = len(columns.get("file_name", ()))
            for name, values in _read_columns(shard, split).items():
                columns.setdefault(name, [None] * before).extend(values)
            rows = len(columns["file_name"])
            for values in columns.values():  # a column that this shard lacks
                values.extend([None] * (rows - len(values)))
        columns["identity_id"] = [_identity(value) for value in columns["identity_id"]]
        return columns

    def table(self, split: str) -> Split:
        """One table as a split with its own columns.

        Raises:
            BadData: as `columns`; or a row without caption, file name or (on sensitive splits) identity, or with the file
                name of another row; split, row and file are named.
        """
        columns = self.columns(split)
        texts = columns.pop("text")
        rules.raise_first_error(rules.table_findings(split, texts, columns))
        return Split(
            name=split,
            images=join_images([ParquetImages(shard) for shard in self.shards(split)]),
            texts=None if any(text is None for text in texts) else texts,
            columns=columns,
        )

    def sensitive(self, split: str) -> Split:
        """A sensitive table with the columns `data_field`, `name`, `value` and, where there is a file of them, `generic_caption` from
        the metadata.

        Raises:
            BadData: as `table`; or a row without metadata, an unknown data field, or a person of whom the name or the
                caption's field is not known; split, row and file are named.
        """
        table = self.table(split)
        metadata = {name: self.metadata(name) for name in (layout.CAPTIONS, layout.IDENTITIES)}
        if self.has_generic_captions():
            metadata[layout.GENERIC_CAPTIONS] = self.metadata(layout.GENERIC_CAPTIONS)
        texts = table.texts or []
        metadata[layout.IDENTITIES] = with_identities(metadata[layout.IDENTITIES], table.columns["identity_id"])
        rules.raise_first_error(rules.sensitive_findings(split, texts, table.columns, metadata))
        added: dict[str, list[Any]] = {"data_field": [], "name": [], "value": []}
        for identity, file_name, text in zip(table.columns["identity_id"], table.columns["file_name"], texts, strict=True):
            person = metadata[layout.IDENTITIES][identity]
            chosen = metadata[layout.CAPTIONS][file_name]["data_field"]
            values = rules.values_of(person, chosen)
            added["data_field"].append(chosen)
            added["name"].append(rules.values_of(person, "name")[0])
            added["value"].append(next((value for value in values if value in text), values[0]))
        if (generic := metadata.get(layout.GENERIC_CAPTIONS)) is not None:
            added["generic_caption"] = [generic.get(file_name) for file_name in table.columns["file_name"]]
        return Split(table.name, table.images, table.texts, {**table.columns, **added})


def split_of(shard: Path) -> str:
    """The split that a parquet file belongs to, by its name: `forget-00000-of-00008.parquet`."""
    return shard.name.removesuffix(".parquet").split("-")[0]


def missing_shards(shards: Sequence[Path]) -> list[str]:
    """Shards that are not there although the names of the others say that they exist."""
    numbered = [match for match in (_SHARD.fullmatch(shard.name) for shard in shards) if match]
    found = {match.group(0) for match in numbered}
    expected = {
        f"{match['split']}-{number:0{len(match['number'])}d}-of-{match['count']}.parquet"
        for match in numbered
        for number in range(int(match["count"]))
    }
    return sorted(expected - found)


def with_identities(identities: Mapping[str, Any], used: Iterable[str | None]) -> Mapping[str, Any]:
    """`identities`, found also under the identities as tables write them: where those are numbers, keys may lack zeros."""
    added = {}
    for identity in used:
        short = (identity or "").lstrip("0") or "0"
        if identity is not None and identity not in identities and short in identities:
            added[identity] = identities[short]
    return {**identities, **added} if added else identities


def _read_columns(shard: Path, split: str) -> dict[str, list[Any]]:
    try:
        file = pq.ParquetFile(shard)
        names = file.schema_arrow.names
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise BadData(
                f"'{shard}' of split '{split}' lacks the column {', '.join(missing)}.", f"It has: {', '.join(names)}."
            )
        columns: dict[str, list[Any]] = file.read(columns=[name for name in names if name != "image"]).to_pydict()
        return columns
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise BadData(f"'{shard}' of split '{split}' is no readable parquet file: {error}.", "Fetch it again.") from error


def _identity(value: Any) -> Any:
    """An identity as text. Numbers get the eight digits that they have in the official file names."""
    if isinstance(value, float) and value.is_integer():  # a column with gaps may have become one of floats
        value = int(value)
    return f"{value:08d}" if isinstance(value, int) and not isinstance(value, bool) else value
