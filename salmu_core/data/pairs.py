"""Data as it flows: splits of a benchmark, batches of pairs that a method sees, embeddings that a metric sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core.errors import BadData, SalmuError

if TYPE_CHECKING:
    from salmu_core.data.pixels import PairStore

Role = Literal["forget", "retain"]
Side = Literal["image", "text"]


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
    """Encoded images held in memory, with the names that error messages use."""

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
class Split:
    """Rows of a benchmark. A split may have images, texts, or both, and any number of columns of the same length.

    Columns every SALMU-style split carries: `identity_id` (None where there is none), `file_name`; on sensitive splits also
    `data_field`, `name`, `value`. An association is the pair (identity_id, data_field).
    """

    name: str
    images: ImageRows | None = None
    texts: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {"images": self.images, "texts": self.texts, **self.columns}
        lengths = {key: len(value) for key, value in sizes.items() if value is not None}
        if len(set(lengths.values())) > 1:
            raise BadData(f"Split '{self.name}' has columns of different lengths: {lengths}.")

    def __len__(self) -> int:
        if self.images is not None:
            return len(self.images)
        if self.texts is not None:
            return len(self.texts)
        return next((len(values) for values in self.columns.values()), 0)

    @cached_property
    def image_keys(self) -> list[str]:
        """Content hash (BLAKE2b, 128 bits, hex) of every encoded image: equal bytes are encoded once."""
        if self.images is None:
            raise BadData(f"Split '{self.name}' has no images.")
        return [content_key(read_encoded(self.images, row, self.name)).hex() for row in range(len(self))]

    def render(self, template: str | None) -> list[str]:
        """The split's captions, or `template` filled from its columns, one text per row.

        Raises:
            BadData: no captions, or a column that the template names is missing.
        """
        if template is None:
            if self.texts is None:
                raise BadData(f"Split '{self.name}' has no captions.")
            texts = list(self.texts)
            if len(texts) != len(self):
                raise BadData(f"Split '{self.name}' says that it has {len(self)} captions and gives {len(texts)}.", _LIES)
            return texts
        try:
            return [
                template.format(**{name: values[row] for name, values in self.columns.items()}) for row in range(len(self))
            ]
        except KeyError as missing:
            raise BadData(
                f"Split '{self.name}' has no column {missing} for the text template '{template}'.",
                f"Its columns: {', '.join(self.columns) or 'none'}.",
            ) from None

    def take(self, rows: Sequence[int], name: str | None = None) -> Split:
        """A split of the given rows, in that order."""
        chosen = list(rows)
        return Split(
            name=name or self.name,
            images=None if self.images is None else _TakenImages(self.images, chosen),
            texts=None if self.texts is None else [self.texts[row] for row in chosen],
            columns={key: [values[row] for row in chosen] for key, values in self.columns.items()},
        )


@dataclass(frozen=True)
class _TakenImages:
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


def join_splits(name: str, splits: Sequence[Split]) -> Split:
    """Rows of several splits one after another. Columns that one of them lacks are filled with None."""
    columns: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for split in splits for key in split.columns):
        columns[key] = [value for split in splits for value in split.columns.get(key, [None] * len(split))]
    images = [split.images for split in splits if split.images is not None]
    texts = [split.texts for split in splits if split.texts is not None]
    if len(images) not in (0, len(splits)) or len(texts) not in (0, len(splits)):
        raise BadData(f"Cannot join {[split.name for split in splits]}: some have images or captions and some have not.")
    return Split(
        name=name,
        images=join_images(images) if images else None,
        texts=[text for part in texts for text in part] if texts else None,
        columns=columns,
    )


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
        if isinstance(images, _TakenImages):
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


_LIES = "The fault is in the benchmark that made the split."


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
            f"{where} cannot be read, though there are said to be {len(images)}: {type(error).__name__}: {error}.", _LIES
        ) from error
    if not isinstance(encoded, bytes | bytearray | memoryview):
        raise BadData(f"{where} is no encoded image but a {type(encoded).__name__}.", _LIES)
    return bytes(encoded)


def content_key(encoded: bytes) -> bytes:
    """Hash of an encoded image: BLAKE2b, 128 bits."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


class Features(NamedTuple):
    """Unit-length embeddings of a global batch and the model's logit scale (already exponentiated)."""

    image: Float[Tensor, "batch dim"]
    text: Float[Tensor, "batch dim"]
    scale: Float[Tensor, ""]


@dataclass(frozen=True)
class Pairs:
    """A global batch of image-text pairs: the same rows on every process.

    Pixels and tokens are read when asked for. `model(pairs)` reads and encodes only this process's share and gathers the
    embeddings, so a loss written for one process is right on several.
    """

    store: PairStore
    index: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return int(self.index.numel())

    @property
    def image(self) -> Float[Tensor, "batch 3 height width"]:
        """Preprocessed images on the run's device."""
        return self.store.pixels(self.index)

    @property
    def text(self) -> Int[Tensor, "batch context"]:
        """Tokenised captions on the run's device."""
        return self.store.tokens(self.index)

    @property
    def captions(self) -> list[str]:
        """The captions as text."""
        return [self.store.captions[row] for row in self.index.tolist()]

    @property
    def columns(self) -> Mapping[str, Int[Tensor, " batch"]]:
        """Integer codes per row: `identity`, `association` (identity and field; -1 where there is none), `caption`.

        Rows that share a code share the thing: two paraphrases of one association have the same `association`.
        """
        return _Codes(self.store, self.index)

    def take(self, rows: Int[Tensor, " rows"]) -> Pairs:
        """The pairs at the given positions of this batch."""
        return Pairs(self.store, self.index[rows.to(self.index.device)])


class _Codes(Mapping[str, "Int[Tensor, ' batch']"]):
    """Codes of a batch by name. Reading one is reading the metadata that it is made of, and the store notes it."""

    def __init__(self, store: PairStore, index: Int[Tensor, " batch"]) -> None:
        self._store, self._index = store, index

    def __getitem__(self, name: str) -> Int[Tensor, " batch"]:
        codes = self._store.codes[name]
        self._store.columns_read.update(CODED.get(name, ()))
        return codes[self._index.to(codes.device)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.codes)

    def __len__(self) -> int:
        return len(self._store.codes)


#: The metadata columns that codes are made of. `caption` is made of captions, which a batch holds anyway.
CODED: Mapping[str, tuple[str, ...]] = {"identity": ("identity_id",), "association": ("identity_id", "data_field")}


class NotedColumns(Mapping[str, Sequence[Any]]):
    """Columns of a split by name; those that are read are noted.

    Args:
        noted: names are added here.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], noted: set[str]) -> None:
        self._columns, self._noted = columns, noted

    def __getitem__(self, name: str) -> Sequence[Any]:
        values = self._columns[name]
        self._noted.add(name)
        return tuple(values)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


@dataclass(frozen=True)
class Batch:
    """What a loss is given per step. A role that the method did not declare is an error to read, not a silent None.

    Attributes:
        step: steps of this fit before this one. A loss that draws seeds by it, so that a resumed run and every process draw
            alike, and that the same rows are not always drawn for alike.
    """

    parts: Mapping[str, Pairs]
    step: int = 0

    def _role(self, role: str) -> Pairs:
        if role not in self.parts:
            raise BadData(
                f"This step has no {role} pairs.", f"Declare it: data = (..., '{role}') on the method, or pass splits=."
            )
        return self.parts[role]

    @property
    def forget(self) -> Pairs:
        return self._role("forget")

    @property
    def retain(self) -> Pairs:
        return self._role("retain")


def code_values(values: Iterable[Any]) -> Int[Tensor, " n"]:
    """Integer codes in order of first appearance; None becomes -1."""
    seen: dict[Any, int] = {}
    return torch.tensor([-1 if v is None else seen.setdefault(v, len(seen)) for v in values], dtype=torch.long)


@dataclass(frozen=True)
class View:
    """What a metric asks for: one side of one split. `template` renders texts from columns, e.g. "{name} {value}"."""

    split: str
    side: Side
    template: str | None = None


@dataclass(frozen=True)
class Embedded:
    """A view of one model: one unit-length fp32 row per row of the split, on the CPU, and the split's columns."""

    vectors: Float[Tensor, "n dim"]
    columns: Mapping[str, Sequence[Any]]
    texts: Sequence[str] | None = None

    def __len__(self) -> int:
        return self.vectors.shape[0]
