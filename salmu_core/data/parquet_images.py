"""Encoded images in parquet files, read row group by row group: no table has to fit in memory. Needs pyarrow."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from salmu_core.errors import BadData
from salmu_core.files.digests import file_stamp
from salmu_core.files.first_bytes import refuse_other_content

_HELD_BYTES = 256_000_000  # of row groups that are held over all files
_HELD_FEWEST = 2  # whatever their size: threads that read on stand on both sides of where a group ends


class HeldGroups:
    """The row groups read last, of all files together: a table has dozens of shards, and each with an allowance of its own
    would end with the whole table in memory.

    Args:
        most_bytes: held at most, but for the last two groups.
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
            while self._bytes > self._most and len(self._groups) > _HELD_FEWEST:
                _, (_, freed) = self._groups.popitem(last=False)
                self._bytes -= freed


_held = HeldGroups(_HELD_BYTES)
_numbers = itertools.count()


@dataclass(eq=False)
class ParquetImages:
    """A column of encoded images, bytes or the struct of Hugging Face datasets, read when asked for. The row groups read last are
    held, up to 256 MB over all files.

    Args:
        shard: a parquet file.
        column: with the images.
        again: what to do when the file cannot be read, for error messages.

    Raises:
        BadData: the file cannot be read, changed since it was opened, or has no bytes in a row.
    """

    shard: Path
    column: str = "image"
    again: str = "Fetch or build the data again."
    _number: int = field(default_factory=lambda: next(_numbers), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._stamp = file_stamp(self.shard)

    @cached_property
    def _file(self) -> Any:
        return open_parquet(self.shard, self.again)

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
                import pyarrow as pa

                try:
                    column = self._file.read_row_group(group, columns=[self.column]).column(self.column)
                except (pa.ArrowException, OSError) as error:
                    raise BadData(f"'{self.shard}' cannot be read: {error}.", self.again) from error
                values = column.to_pylist()
                _held.add((self._number, group), values, column.nbytes)
        return values

    def read(self, row: int) -> bytes:
        group, inner = self._locate(row)
        value = self._group(group)[inner]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise BadData(f"There are no image bytes in {self.where(row)}.", self.again)
        return data

    def where(self, row: int) -> str:
        place = f"{self.shard}, row {row}"
        if "file_name" not in self._file.schema_arrow.names:
            return place
        group, inner = self._locate(row)
        with self._lock:
            name = self._file.read_row_group(group, columns=["file_name"]).column("file_name")[inner].as_py()
        return f"{place} ({name})"


def open_parquet(path: Path, again: str = "Fetch or build the data again.") -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        BadData: it is a Git LFS pointer or no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    refuse_other_content(path)
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"'{path}' is not a readable parquet file: {str(error).rstrip('.')}.", again) from error
