"""Decoded pixels of one image source in a memory-mapped file that all models and processes share."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from salmu_core.errors import OutputError
from salmu_core.files import atomic_path

_PAGE = 4096
_MAP_UNIT = 65536  # offsets of a mapping must be multiples of this on every system


def stride_bytes(shape: tuple[int, int, int]) -> int:
    """Bytes that a row takes in a file: whole pages, so that no two writers share one."""
    return -(-int(np.prod(shape)) // _PAGE) * _PAGE


@runtime_checkable
class PixelRows(Protocol):
    """Pixels by row, of which some are there."""

    def has(self, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of these rows are there?"""
        ...

    def read(self, rows: Int[np.ndarray, " n"], out: UInt8[np.ndarray, "n 3 height width"]) -> None:
        """Copy rows that are there."""
        ...

    def write(self, rows: Int[np.ndarray, " n"], pixels: UInt8[np.ndarray, "n 3 height width"]) -> None:
        """Keep rows."""
        ...


class MemoryPixels:
    """Pixels kept for the life of the object. Pages of rows that nobody wrote take no memory."""

    def __init__(self, rows: int, shape: tuple[int, int, int]) -> None:
        self._filled = np.zeros(rows, dtype=np.bool_)
        self._pixels = np.zeros((rows, *shape), dtype=np.uint8)

    def has(self, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        found: np.ndarray = self._filled[rows]
        return found

    def read(self, rows: Int[np.ndarray, " n"], out: UInt8[np.ndarray, "n 3 height width"]) -> None:
        np.take(self._pixels, rows, axis=0, out=out, mode="clip")  # other modes copy twice

    def write(self, rows: Int[np.ndarray, " n"], pixels: UInt8[np.ndarray, "n 3 height width"]) -> None:
        self._pixels[rows] = pixels
        self._filled[rows] = True


class PixelFile:
    """Pixels of one source in one sparse file: a byte per row that says whether it is there, then the rows.

    A row is marked after its pixels have reached the disk, so nothing is lost or wrong when a process is killed. Two
    processes that write the same row write the same bytes, so there are no locks. Marks and pixels are one file: whoever
    holds it sees marks of those very pixels, whatever happens to the name.

    Args:
        path: made when it is missing, and made anew when its size is not that of `rows` rows.

    Raises:
        OutputError: the place cannot be written.
    """

    def __init__(self, path: Path, rows: int, shape: tuple[int, int, int]) -> None:
        self.path = path
        self.shape = shape
        self.stride = stride_bytes(shape)
        self._start = max(1, -(-rows // _MAP_UNIT)) * _MAP_UNIT
        self._lock = threading.Lock()
        size = self._start + rows * self.stride
        try:
            if not path.is_file() or path.stat().st_size != size:
                _make_sparse(path, size)
            self._file = path.open("r+b", buffering=0)
            self._filled = np.memmap(self._file, np.uint8, "r+", 0, (rows,)) if rows else np.zeros(0, np.uint8)
            length = rows * self.stride
            self._map = mmap.mmap(self._file.fileno(), length, access=mmap.ACCESS_READ, offset=self._start) if rows else None
        except OSError as error:
            raise _no_place(path, error) from error
        self._rows = np.frombuffer(self._map or b"", dtype=np.uint8).reshape(rows, self.stride)

    def has(self, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        found: np.ndarray = self._filled[rows] == 1
        return found

    def read(self, rows: Int[np.ndarray, " n"], out: UInt8[np.ndarray, "n 3 height width"]) -> None:
        """Copy rows, and give the pages back: they stay in the system's cache and do not count as this process's memory."""
        flat = out.reshape(len(rows), -1)
        for position, row in enumerate(rows.tolist()):
            flat[position] = self._rows[row, : flat.shape[1]]
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def write(self, rows: Int[np.ndarray, " n"], pixels: UInt8[np.ndarray, "n 3 height width"]) -> None:
        """Write rows, wait for the disk, mark them.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        # Written through the file and not through the map: a full disk is then an error, not a signal that kills.
        try:
            with self._lock:
                for row, row_pixels in zip(rows.tolist(), pixels, strict=True):
                    self._file.seek(self._start + row * self.stride)
                    data = memoryview(row_pixels.tobytes())
                    while data:
                        data = data[self._file.write(data) or 0 :]
            getattr(os, "fdatasync", os.fsync)(self._file.fileno())
        except OSError as error:
            raise _no_place(self.path, error) from error
        self._filled[rows] = 1


def _make_sparse(path: Path, size: int) -> None:
    with atomic_path(path) as temporary:
        os.truncate(temporary, size)


def _no_place(path: Path, error: OSError) -> OutputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return OutputError(
        f"Decoded images cannot be kept in '{path}': {error.strerror or error}.",
        f"{'Free some space there, or' if full else 'Either'} choose another place with SALMU_CACHE, or pass --no-cache.",
    )
