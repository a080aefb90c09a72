"""Data as it flows: splits of a benchmark, batches of pairs that a method sees, embeddings that a metric sees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core.errors import BadData
from salmu_core.options import check_word

if TYPE_CHECKING:
    from salmu_core.data.pixels import PairStore

from salmu_core.data.images import EncodedImages as EncodedImages
from salmu_core.data.images import FileImages as FileImages
from salmu_core.data.images import ImagePlaces as ImagePlaces
from salmu_core.data.images import ImageRows as ImageRows
from salmu_core.data.images import content_key as content_key
from salmu_core.data.images import join_images as join_images
from salmu_core.data.images import read_encoded as read_encoded
from salmu_core.data.splits import Split as Split
from salmu_core.data.splits import join_splits as join_splits

Role = Literal["forget", "retain"]
Side = Literal["image", "text"]


class Features(NamedTuple):
    """What a model gives for a global batch.

    Attributes:
        image: unit-length embeddings of the pictures.
        text: unit-length embeddings of the captions.
        scale: the model's logit scale, already exponentiated.
    """

    image: Float[Tensor, "batch dim"]
    text: Float[Tensor, "batch dim"]
    scale: Float[Tensor, ""]


@dataclass(frozen=True)
class Pairs:
    """A global batch of image-text pairs: the same rows on every process.

    Pixels and tokens are read when asked for. `model(pairs)` reads and encodes only this process's share and gathers the
    embeddings, so a loss written for one process is right on several.

    Attributes:
        store: where pixels, tokens and codes are read from.
        index: rows of the split.
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
        """Integer codes per row: `identity`, `association` (identity and field; -1 where either is unknown), `caption`.

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
        parts: pairs by role; read them as `batch.forget` and `batch.retain`.
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
    """What a metric asks for: one side of one split.

    Args:
        split: its name; a benchmark without it leaves the metric out.
        side: its pictures, or its captions.
        template: texts made from columns instead of captions, e.g. "{name} {value}".
    """

    split: str
    side: Side
    template: str | None = None

    def __post_init__(self) -> None:
        check_word("A view", "side", self.side, get_args(Side))


@dataclass(frozen=True)
class Embedded:
    """A view of one model, on the CPU.

    Attributes:
        vectors: unit-length fp32 embeddings, one for each row of the split.
        columns: the split's metadata, by name.
        texts: what was embedded, where it was text.
    """

    vectors: Float[Tensor, "n dim"]
    columns: Mapping[str, Sequence[Any]]
    texts: Sequence[str] | None = None

    def __len__(self) -> int:
        return self.vectors.shape[0]
