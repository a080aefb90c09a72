"""Encoded pictures, read row by row so that no split has to fit in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from salmu_core.errors import BadData, SalmuError

if TYPE_CHECKING:
    pass


@runtime_checkable
class ImageRows(Protocol):
    """Encoded images (PNG, JPEG) of a split, read row by row so that no split has to fit in memory."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> bytes:
        """The encoded bytes of one row. Called from several threads at once."""
        ...

    def where(self, row: int) -> str:
        """File and row in words, for error messages."""
        ...


@runtime_checkable
class FileImages(ImageRows, Protocol):
    """Images that lie in files. What is derived from them (content keys, decoded pixels) can be kept between programs."""

    def files(self) -> Sequence[Path]:
        """The files whose content, in this order and read by this class, decides the bytes of every row.

        `read` must refuse a file that changed since the object was made (see `file_digests.file_stamp`): what is derived
        would be kept under the digest of another content.
        """
        ...


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images held in memory.

    Args:
        encoded: the content of each file: JPEG, PNG, ...
        names: what error messages call them.
        source: where they are from, for error messages.
    """

    encoded: Sequence[bytes]
    names: Sequence[str]
    source: str = "memory"

    def __len__(self) -> int:
        return len(self.encoded)

    def read(self, row: int) -> bytes:
        return self.encoded[row]

    def where(self, row: int) -> str:
        return f"{self.source}, row {row} ({self.names[row]})"


@dataclass(frozen=True)
class TakenImages:
    base: ImageRows
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> bytes:
        return self.base.read(self.rows[row])

    def where(self, row: int) -> str:
        return self.base.where(self.rows[row])


def join_images(parts: Sequence[ImageRows]) -> ImageRows:
    """Images of several sources one after another."""
    return parts[0] if len(parts) == 1 else _JoinedImages(parts)


@dataclass(frozen=True)
class _JoinedImages:
    parts: Sequence[ImageRows]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _locate(self, row: int) -> tuple[ImageRows, int]:
        part = int(np.searchsorted(self._ends, row, side="right"))
        return self.parts[part], row - (int(self._ends[part - 1]) if part else 0)

    def read(self, row: int) -> bytes:
        part, inner = self._locate(row)
        return part.read(inner)

    def where(self, row: int) -> str:
        part, inner = self._locate(row)
        return part.where(inner)


@dataclass(frozen=True)
class ImagePlaces:
    """Where images lie: rows of sources that are neither taken from others nor joined of others.

    Attributes:
        sources: each at most once.
        source, row: of every image, the number of its source and its row there.
    """

    sources: Sequence[ImageRows]
    source: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, images: ImageRows) -> ImagePlaces:
        """The places of all rows of `images`."""
        if isinstance(images, TakenImages):
            return cls.of(images.base).take(np.asarray(images.rows, dtype=np.int64))
        if isinstance(images, _JoinedImages):
            return cls.join([cls.of(part) for part in images.parts])
        rows = np.arange(len(images), dtype=np.int64)
        return cls([images], np.zeros_like(rows), rows)

    @classmethod
    def join(cls, parts: Sequence[ImagePlaces]) -> ImagePlaces:
        """Places one after another."""
        numbers: dict[int, int] = {}
        sources: list[ImageRows] = []
        for part in parts:
            for source in part.sources:
                if id(source) not in numbers:
                    numbers[id(source)] = len(sources)
                    sources.append(source)
        renumbered = [np.array([numbers[id(s)] for s in part.sources], dtype=np.int64)[part.source] for part in parts]
        none = np.zeros(0, dtype=np.int64)
        return cls(sources, np.concatenate([none, *renumbered]), np.concatenate([none, *(part.row for part in parts)]))

    def take(self, positions: Int[np.ndarray, " m"]) -> ImagePlaces:
        """The places at the given positions."""
        return ImagePlaces(self.sources, self.source[positions], self.row[positions])

    def by_source(self, positions: Int[np.ndarray, " m"]) -> Iterator[tuple[int, Int[np.ndarray, " part"]]]:
        """Number of a source and which of `positions` (as indices into it) lie there, for each source that has some."""
        numbers = self.source[positions]
        if len(numbers) and (numbers == numbers[0]).all():
            yield int(numbers[0]), np.arange(len(numbers))
            return
        for number in np.unique(numbers):
            yield int(number), np.flatnonzero(numbers == number)


WHERE_IT_LIES = "The fault is in the benchmark that made the split."


def read_encoded(images: ImageRows, row: int, split: str = "") -> bytes:
    """`images.read(row)`, which a benchmark may have written badly: a split may say that it is longer than it is.

    Raises:
        BadData: reading raised something else than salmu's errors, or gave no bytes; names split and row.
    """
    where = f"Row {row} of split '{split}'" if split else f"Row {row} of the images"
    try:
        encoded = images.read(row)
    except (SalmuError, OSError):
        raise
    except Exception as error:
        raise BadData(
            f"{where} cannot be read, though there are said to be {len(images)}: {type(error).__name__}: {error}.",
            WHERE_IT_LIES,
        ) from error
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise BadData(f"{where} is not an encoded image but a {type(encoded).__name__}.", WHERE_IT_LIES)
    return bytes(encoded)


def content_key(encoded: bytes) -> bytes:
    """Hash of an encoded image: BLAKE2b, 128 bits."""
    return hashlib.blake2b(encoded, digest_size=16).digest()
