"""RetFail: can a forgotten caption still be found by its picture?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core import Embedded, Field, Metric, NotMeasurable, Score, View
from salmu_metrics.rows import HALF, CosineOptions, NumberType, check_rows, identity_clusters, rounded, texts_of

_CHUNK = 256  # images ranked at once: bounds memory, and is fixed because another size may round differently


def draw_distractors(forget: int, retain: int, count: int, seed: int) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Rows of the distractor captions in `forget` and in `retain_disjoint`.

    The official draw is `rng = numpy.random.RandomState(42)`, then `rng.choice(texts, min(1000, len(texts)), replace=False)`
    on the captions of `forget`, then on those of `retain_disjoint`. Drawing rows instead of texts takes the same numbers
    from the generator and gives the same captions.

    Args:
        forget, retain: number of captions of each split, duplicates included; at least one.
        count: how many to draw from each, or all of a split that has fewer.
        seed: 0 to 2**32 - 1.

    Returns:
        Row numbers, in the order drawn, a = min(count, forget) and b = min(count, retain) of them.
    """
    rng = np.random.RandomState(seed)
    of_forget = rng.choice(forget, min(count, forget), replace=False)
    of_retain = rng.choice(retain, min(count, retain), replace=False)
    return of_forget, of_retain


def retrieval_ranks(
    images: Float[Tensor, "n dim"],
    captions: Float[Tensor, "texts dim"],
    own: Int[Tensor, " n"],
    distractors: Int[Tensor, " gallery"],
) -> Int[Tensor, " n"]:
    """Rank of each image's own caption: 1 + the number of distractors that are strictly more similar.

    Args:
        images: fp32 rows of unit length.
        captions: fp32 rows of unit length, one for each distinct text. The product of an image with a text is then taken
            once, and a text ties with itself to the last bit wherever it appears.
        own: row of `captions` that belongs to each image.
        distractors: rows of `captions`, with repetition: a text that was drawn twice counts twice. An image's own caption
            may be among them.

    Returns:
        Integers from 1 to gallery + 1.
    """
    return ranks_and_ties(images, captions, own, distractors)[0]


def ranks_and_ties(
    images: Float[Tensor, "n dim"],
    captions: Float[Tensor, "texts dim"],
    own: Int[Tensor, " n"],
    distractors: Int[Tensor, " gallery"],
    cosines: NumberType = "float32",
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """`retrieval_ranks`, and the number of distractors with another text that are exactly as similar as the own caption.

    Ranks leave ties out, so they are the best that an image can have; `ranks + ties` are the worst.

    Args:
        images, captions, own, distractors: see `retrieval_ranks`.
        cosines: `float16`: rounded before they are compared, which makes ties common.
    """
    gallery = len(distractors)
    listed = torch.isin(own, distractors)
    # The gallery's vectors, then those of a chunk's own captions: one product gives both kinds of similarity, so captions
    # with equal vectors tie whichever of both they are.
    columns = torch.empty(gallery + _CHUNK, images.shape[1])
    columns[:gallery] = captions[distractors]
    products = torch.empty(_CHUNK, len(columns))
    ranks = torch.ones(len(images), dtype=torch.long)
    ties = torch.zeros(len(images), dtype=torch.long)
    for start in range(0, len(images), _CHUNK):
        rows = slice(start, start + _CHUNK)
        mine = own[rows]
        columns[gallery : gallery + len(mine)] = captions[mine]
        used = gallery + len(mine)
        similarity = rounded(torch.mm(images[rows], columns[:used].T, out=products[: len(mine), :used]), cosines)
        of_own = similarity[:, gallery:].diagonal()[:, None]
        higher, equal = similarity[:, :gallery] > of_own, similarity[:, :gallery] == of_own
        among = listed[rows]
        other = distractors != mine[among, None]
        higher[among] &= other  # never above itself, however its two columns were rounded
        equal[among] &= other
        ranks[rows] += higher.sum(dim=1, dtype=torch.int32)
        ties[rows] = equal.sum(dim=1)
    return ranks, ties


class RetFailOptions(CosineOptions):
    """Options of RetFail."""

    seed: int = Field(42, ge=0, lt=2**32, description="seed of the distractors")
    distractors: int = Field(1000, ge=1, description="captions drawn from forget, and again from retain_disjoint")


class RetFail(Metric):
    """Retrieval Failure: reciprocal rank of the true caption of a forget image among other captions."""

    name = "RetFail"
    summary = "Mean reciprocal rank of a forget image's own caption among other captions."
    paper = "https://arxiv.org/abs/2603.26316"
    target = "clean"
    aspect = "forgetting"
    primary = True
    bounds = (0.0, 1.0)
    conventions = {**HALF, "official": {"seed": 42, "distractors": 1000}}
    Options = RetFailOptions

    def needs(self) -> Mapping[str, View]:
        return {
            "image": View("forget", "image"),
            "text": View("forget", "text"),
            "retain_text": View("retain_disjoint", "text"),
        }

    def compute(self, image: Embedded, text: Embedded, retain_text: Embedded) -> Score:
        """The mean reciprocal rank, with R@1 beside it; rows are reciprocal ranks, clustered by identity.

        A caption that is exactly as similar as the own one does not count against it. Among cosines in float16 that happens, so
        what the score would be if all of them did stands beside it, and how many images it concerns.

        Raises:
            NotMeasurable: one of both splits is empty.
        """
        check_rows(self.name, image=image, text=text)
        if len(retain_text) == 0:
            raise NotMeasurable("there are no captions in retain_disjoint to draw distractors from")
        texts = [*texts_of(self.name, text), *texts_of(self.name, retain_text)]
        codes: dict[str, int] = {}
        code_of = torch.tensor([codes.setdefault(words, len(codes)) for words in texts])
        first = {words: row for row, words in reversed(list(enumerate(texts)))}
        vectors = torch.cat([text.vectors, retain_text.vectors])[torch.tensor([first[words] for words in codes])]

        of_forget, of_retain = draw_distractors(len(text), len(retain_text), self.options.distractors, self.options.seed)
        drawn = torch.from_numpy(np.concatenate([of_forget, len(text) + of_retain]))
        own = code_of[: len(text)]
        ranks, ties = (
            found.numpy() for found in ranks_and_ties(image.vectors, vectors, own, code_of[drawn], self.options.cosines)
        )
        rows = 1.0 / ranks
        gallery = len(drawn) + 1
        return Score(
            float(rows.mean()),
            rows,
            identity_clusters(image.columns),
            extras={"R@1": float((ranks == 1).mean()), **(_if_ties_count(ranks, ties) if self._half else {})},
            details={"rank": ranks, **({"ties": ties} if self._half else {})},
            chance=float((1.0 / np.arange(1, gallery + 1)).mean()),  # every rank equally likely
        )

    @property
    def _half(self) -> bool:
        return bool(self.options.cosines == "float16")


def _if_ties_count(ranks: Int[np.ndarray, " n"], ties: Int[np.ndarray, " n"]) -> dict[str, float]:
    """What ties could change."""
    worst = ranks + ties
    return {
        "images with ties": float((ties > 0).mean()),
        "MRR, ties against": float((1.0 / worst).mean()),
        "R@1, ties against": float((worst == 1).mean()),
    }
