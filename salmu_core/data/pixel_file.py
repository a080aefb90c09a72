"""Decoded pixels of one image source in a file that all models and processes share."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import xxhash
from jaxtyping import Bool, Int, UInt8

from salmu_core.errors import OutputError
from salmu_core.files.writing import atomic_path, elsewhere

_PAGE = 4096
_MARK = np.dtype("<u8")


def stride_bytes(shape: tuple[int, int, int]) -> int:
    """Bytes that a row takes in a file: whole pages, so that no two writers share one."""
    return -(-int(np.prod(shape)) // _PAGE) * _PAGE


@runtime_checkable
class PixelRows(Protocol):
    """Pixels by row, of which some are there."""

    def has(self, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which of these rows are there?"""
        ...

    def read(self, rows: Int[np.ndarray, " n"], out: UInt8[np.ndarray, "n 3 height width"]) -> Bool[np.ndarray, " n"]:
        """Copy rows that are there. Which of them are what was written? Others have to be made again."""
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

    def read(self, rows: Int[np.ndarray, " n"], out: UInt8[np.ndarray, "n 3 height width"]) -> Bool[np.ndarray, " n"]:
        np.take(self._pixels, rows, axis=0, out=out, mode="clip")  # other modes copy twice
        return np.ones(len(rows), dtype=np.bool_)

    def write(self, rows: Int[np.ndarray, " n"], pixels: UInt8[np.ndarray, "n 3 height width"]) -> None:
        self._pixels[rows] = pixels
        self._filled[rows] = True


class PixelFile:
    """Pixels of one source in one sparse file: eight bytes per row, then the rows. The eight bytes are 0 where a row is missing, and
    else its checksum, so that a byte that changed on the disk is noticed and the row made again.

    A row is marked after its pixels have reached the disk, so nothing is lost or wrong when a process is killed. Two
    processes that write the same row write the same bytes, so there are no locks. Marks and pixels are one file: whoever
    holds it sees marks of those very pixels, whatever happens to the name. Nothing is mapped into memory: a full disk, or a file
    that is cut short meanwhile, is then an error and not a signal that kills.

    Args:
        path: made when it is missing, and made again when its size is not that of `rows` rows.

    Raises:
        OutputError: the place cannot be written.
    """

    def __init__(self, path: Path, rows: int, shape: tuple[int, int, int]) -> None:
        self.path = path
        self.shape = shape
        self.stride = stride_bytes(shape)
        self._rows = rows
        self._start = -(-rows * _MARK.itemsize // _PAGE) * _PAGE
        self._lock = threading.Lock()
        size = self._start + rows * self.stride
        try:
            if not path.is_file() or path.stat().st_size != size:
                with atomic_path(path) as temporary:
                    os.truncate(temporary, size)
            self._file = path.open("r+b", buffering=0)
            weakref.finalize(self, self._file.close)
        except OSError as error:
            raise _no_place(path, error) from error

    def has(self, rows: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        found: np.ndarray = self._marks()[rows] != 0
        return found

    def read(self, rows: Int[np.ndarray, " n"], out: UInt8[np.ndarray, "n 3 height width"]) -> Bool[np.ndarray, " n"]:
        flat = out.reshape(len(rows), -1)
        marks = self._marks()
        good = np.zeros(len(rows), dtype=np.bool_)
        for position, row in enumerate(rows.tolist()):
            read = self._read_into(flat[position], self._start + row * self.stride)
            good[position] = read == flat.shape[1] and marks[row] == _mark(flat[position], row)
        return good

    def write(self, rows: Int[np.ndarray, " n"], pixels: UInt8[np.ndarray, "n 3 height width"]) -> None:
        """Write rows, wait for the disk, mark them.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        numbers = rows.tolist()
        try:
            for row, row_pixels in zip(numbers, pixels, strict=True):
                self._write_from(row_pixels.tobytes(), self._start + row * self.stride)
            getattr(os, "fdatasync", os.fsync)(self._file.fileno())
            for row, row_pixels in zip(numbers, pixels, strict=True):
                self._write_from(_mark(row_pixels, row).tobytes(), row * _MARK.itemsize)
        except OSError as error:
            raise _no_place(self.path, error) from error

    def _marks(self) -> np.ndarray:
        marks = np.zeros(self._rows, dtype=_MARK)
        self._read_into(marks.view(np.uint8), 0)
        return marks

    def _read_into(self, buffer: np.ndarray, offset: int) -> int:
        """Fill a buffer from a place in the file; returns the bytes that were there. What cannot be read counts as not there."""
        try:
            if hasattr(os, "preadv"):  # reads of several threads do not wait for each other
                return os.preadv(self._file.fileno(), [buffer.data], offset)
            with self._lock:
                self._file.seek(offset)
                return self._file.readinto(buffer.data)
        except OSError:
            return 0

    def _write_from(self, data: bytes, offset: int) -> None:
        left = memoryview(data)
        with self._lock:
            self._file.seek(offset)
            while left:
                left = left[self._file.write(left) or 0 :]


def _mark(pixels: np.ndarray, row: int) -> np.ndarray:
    """The checksum of a row, which is never 0. It depends on the row's place, so that a row at another's is noticed."""
    return np.array([xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data, seed=row) or 1], dtype=_MARK)


def _no_place(path: Path, error: OSError) -> OutputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return OutputError(
        f"Decoded images cannot be kept in '{path}': {error.strerror or error}.",
        f"{elsewhere(path, 'Free some space there' if full else '')[:-1]}, or pass --no-cache.",
    )
