"""Images where people keep them: files of their own, members of tar files, cells of parquet files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from salmu_core.errors import BadData
from salmu_core.files.digests import Stamp, file_stamp

_AGAIN = "Start again: the files must stay as they are while a run goes on."


@dataclass(eq=False)
class PathImages:
    """One image file per row. A file that is not there is no error until it is read: the validation report tells all at once."""

    paths: Sequence[Path]

    def __post_init__(self) -> None:
        self._stamps: dict[Path, Stamp] = {path: file_stamp(path) for path in set(self.paths) if path.is_file()}

    def __len__(self) -> int:
        return len(self.paths)

    def files(self) -> Sequence[Path]:
        return list(self.paths)

    def exists(self, row: int) -> bool:
        """Was the file there when the table was read?"""
        return self.paths[row] in self._stamps

    def read(self, row: int) -> bytes:
        path = self.paths[row]
        if path not in self._stamps:
            raise BadData(f"There is no image '{path}'.", "Give the folder that paths begin in with --images.")
        if file_stamp(path) != self._stamps[path]:
            raise BadData(f"'{path}' has changed since it was opened.", _AGAIN)
        return path.read_bytes()

    def where(self, row: int) -> str:
        return str(self.paths[row])


@dataclass(eq=False)
class TarImages:
    """Members of one tar file, found again by where they begin.

    Args:
        tar: an uncompressed tar file.
        places: where each image begins, and its bytes.
        names: of the members.
    """

    tar: Path
    places: Sequence[tuple[int, int]]
    names: Sequence[str]

    def __post_init__(self) -> None:
        self._stamp = file_stamp(self.tar)

    def __len__(self) -> int:
        return len(self.places)

    def files(self) -> Sequence[Path]:
        return [self.tar]

    def read(self, row: int) -> bytes:
        if file_stamp(self.tar) != self._stamp:
            raise BadData(f"'{self.tar}' has changed since it was opened.", _AGAIN)
        start, size = self.places[row]
        with self.tar.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def where(self, row: int) -> str:
        return f"{self.tar}, {self.names[row]}"


@dataclass(eq=False)
class ParquetCells:
    """A column of encoded images in a parquet file, bytes or the struct of Hugging Face datasets. One row group is held."""

    path: Path
    column: str
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _held: tuple[int, list[Any]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._stamp = file_stamp(self.path)

    @cached_property
    def _file(self) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path)

    @cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for group in range(self._file.metadata.num_row_groups):
            starts.append(starts[-1] + self._file.metadata.row_group(group).num_rows)
        return starts

    def __len__(self) -> int:
        return self._starts[-1]

    def files(self) -> Sequence[Path]:
        return [self.path]

    def read(self, row: int) -> bytes:
        with self._lock:  # a parquet file is read by one thread at a time
            if file_stamp(self.path) != self._stamp:
                raise BadData(f"'{self.path}' has changed since it was opened.", _AGAIN)
            group = next(number for number, end in enumerate(self._starts[1:]) if row < end)
            if self._held is None or self._held[0] != group:
                self._held = group, self._file.read_row_group(group, columns=[self.column]).column(self.column).to_pylist()
            cell = self._held[1][row - self._starts[group]]
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise BadData(f"There are no image bytes in {self.where(row)}.")
        return data

    def where(self, row: int) -> str:
        return f"{self.path}, row {row}"
