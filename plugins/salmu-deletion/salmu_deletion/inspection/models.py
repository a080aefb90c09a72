"""Embeddings of the rows under the model before, after, and one that never learned them: through the one embedding pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import DataCache
from salmu_core.data.pairs import View
from salmu_core.evaluation.embed import EmbeddingCache, embed_views
from salmu_core.models.dual_encoder import DualEncoder
from salmu_deletion.inspection.rows import Row

Which = Literal["compromised", "unlearned", "clean"]
_CHUNK = 256


@dataclass(frozen=True)
class Embedding:
    """Rows under one model.

    Attributes:
        images, captions: unit-length rows, fp32.
        there: which rows could be measured (of a twin benchmark some rows are missing).
        gallery: one vector for every distinct caption of all rows.
        own: which caption of the gallery is each row's.
        pictures: one vector for every distinct picture.
        shown: which picture of those is each row's.
    """

    images: Float[Tensor, "n dim"]
    captions: Float[Tensor, "n dim"]
    there: Tensor
    gallery: Float[Tensor, "texts dim"]
    own: Int[Tensor, " n"]
    pictures: Float[Tensor, "files dim"]
    shown: Int[Tensor, " n"]

    def similarity(self) -> Float[Tensor, " n"]:
        """Cosine of picture and caption of every row; NaN where a row was not measured."""
        cosine = (self.images * self.captions).sum(dim=-1).clamp(-1, 1)
        return torch.where(self.there, cosine, torch.nan)

    def caption_ranks(self, rows: Sequence[int]) -> list[int | None]:
        """Place of each row's own caption among all distinct captions, by similarity to its picture: 1 + the number of captions
        that are strictly more similar."""
        return self._ranks(rows, self.images, self.gallery, self.own)

    def picture_ranks(self, rows: Sequence[int]) -> list[int | None]:
        """Place of each row's own picture among all distinct pictures, by similarity to its caption."""
        return self._ranks(rows, self.captions, self.pictures, self.shown)

    def nearest_captions(self, rows: Sequence[int]) -> list[int | None]:
        """A row whose caption is the most similar one to each row's picture."""
        first = {number: row for row, number in reversed(list(enumerate(self.own.tolist()))) if bool(self.there[row])}
        found: list[int | None] = []
        for start in range(0, len(rows), _CHUNK):
            part = torch.tensor(rows[start : start + _CHUNK], dtype=torch.long)
            nearest = (self.images[part] @ self.gallery.T).argmax(dim=1).tolist()
            there = self.there[part].tolist()
            found += [first[number] if known else None for number, known in zip(nearest, there, strict=True)]
        return found

    def _ranks(self, rows: Sequence[int], asking: Tensor, among: Tensor, own: Tensor) -> list[int | None]:
        ranks: list[int | None] = []
        for start in range(0, len(rows), _CHUNK):
            part = torch.tensor(rows[start : start + _CHUNK], dtype=torch.long)
            similarity = asking[part] @ among.T
            mine = similarity[torch.arange(len(part)), own[part]]
            found = (1 + (similarity > mine[:, None]).sum(dim=1)).tolist()
            ranks += [rank if there else None for rank, there in zip(found, self.there[part].tolist(), strict=True)]
        return ranks


def embed_rows(
    model: DualEncoder,
    benchmark: Benchmark,
    rows: Sequence[Row],
    views: Sequence[View],
    cache: EmbeddingCache | None,
    data: DataCache,
    tell: Callable[[str, int, int], None],
) -> Embedding:
    """Embed all rows with one model.

    Args:
        benchmark: that the rows are read from, or a twin of it with other pictures beside the same captions; rows are then
            found again by file name and caption.
        views: everything that an evaluation embeds: the same views find what it left in the cache.
    """
    splits = list(dict.fromkeys(row.split for row in rows))
    wanted = [View(split, side) for split in splits for side in ("image", "text")]
    embedded = embed_views(model, benchmark, list(dict.fromkeys([*views, *wanted])), cache, tell, data=data)
    dim = int(model.config.model_cfg["embed_dim"])
    images, captions = torch.zeros(len(rows), dim), torch.zeros(len(rows), dim)
    there = torch.zeros(len(rows), dtype=torch.bool)
    places: dict[str, dict[tuple[str, str], int]] = {}
    for number, row in enumerate(rows):
        image, text = embedded[View(row.split, "image")], embedded[View(row.split, "text")]
        if row.split not in places:
            files = image.columns.get("file_name", [str(place) for place in range(len(image))])
            places[row.split] = {
                (str(file), caption): place
                for place, (file, caption) in enumerate(zip(files, text.texts or (), strict=True))
            }
        place = places[row.split].get((row.file_name, row.caption))
        if place is not None:
            images[number], captions[number], there[number] = image.vectors[place], text.vectors[place], True
    own, gallery = _distinct([row.caption for row in rows], captions, there)
    # Forget and retain may be tables of two folders, whose files are called alike.
    shown, pictures = _distinct([f"{row.group == 'forget'} {row.file_name}" for row in rows], images, there)
    return Embedding(images, captions, there, gallery, own, pictures, shown)


def _distinct(keys: Sequence[str], vectors: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Number of each key among the distinct ones that were measured, and one vector for each of those."""
    numbers: dict[str, int] = {}
    first: list[int] = []
    for row, (key, known) in enumerate(zip(keys, there.tolist(), strict=True)):
        if known and key not in numbers:
            numbers[key] = len(first)
            first.append(row)
    return torch.tensor([numbers.get(key, 0) for key in keys], dtype=torch.long), vectors[
        torch.tensor(first, dtype=torch.long)
    ]


def means(values: Mapping[str, Sequence[float | None]]) -> dict[str, float | None]:
    """Mean of what was measured, by model."""
    found = {}
    for which, items in values.items():
        known = [item for item in items if item is not None and item == item]
        found[which] = sum(known) / len(known) if known else None
    return found
