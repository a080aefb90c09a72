"""Mean cosine of image-caption pairs: one definition, five splits, five questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from salmu_core import Embedded, Metric, Score, View
from salmu_metrics.rows import HALF, CosineOptions, check_rows, identity_clusters, rounded


def pair_cosines(image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """Cosine of image i and text i, in [-1, 1].

    Args:
        image, text: fp32 rows of unit length.
    """
    # The cosine of a vector with itself may round to just above one.
    return (image * text).sum(dim=-1).clamp(-1.0, 1.0)


class _PairSimilarity(Metric):
    """Mean cosine of the pairs of `split`."""

    paper = "https://arxiv.org/abs/2603.26316"
    conventions = HALF
    Options = CosineOptions
    split: ClassVar[str]

    def needs(self) -> Mapping[str, View]:
        return {"image": View(self.split, "image"), "text": View(self.split, "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        """The mean cosine; rows are the cosines, clustered by identity.

        Raises:
            NotMeasurable: the split is empty.
        """
        check_rows(self.name, image=image, text=text)
        cosines = rounded(pair_cosines(image.vectors, text.vectors), self.options.cosines)
        rows = cosines.numpy().astype(np.float64)
        return Score(float(rows.mean()), rows, identity_clusters(image.columns))


class AssocStr(_PairSimilarity):
    """Association Strength: how close the forgotten pairs still are."""

    name = "AssocStr"
    summary = "Mean cosine of the forget pairs."
    target = "clean"
    aspect = "forgetting"
    split = "forget"


class InterIdSim(_PairSimilarity):
    """Inter-Identity similarity: what is left of associations of people nobody asked to forget."""

    name = "InterIdSim"
    summary = "Mean cosine of pairs of people whom nobody asked to forget."
    target = "compromised"
    aspect = "holdout"
    primary = True
    split = "holdout_identity"


class IntraIdSim(_PairSimilarity):
    """Intra-Identity similarity: what is left of the other associations of people who are forgotten in part."""

    name = "IntraIdSim"
    summary = "Mean cosine of the other pairs of people in forget."
    target = "compromised"
    aspect = "holdout"
    split = "holdout_association"


class VisIdInt(_PairSimilarity):
    """Visual Identity Integrity: do ordinary captions still fit portraits of people in forget?"""

    name = "VisIdInt"
    summary = "Mean cosine of people in forget with ordinary captions."
    target = "compromised"
    aspect = "retained"
    primary = True
    split = "retain_joint"


class FragSim(_PairSimilarity):
    """Fragile knowledge: do ordinary captions still fit the strangers' portraits nearest to the sensitive ones?"""

    name = "FragSim"
    summary = "Mean cosine of ordinary pairs that lie nearest to the sensitive ones."
    target = "compromised"
    aspect = "retained"
    split = "fragile_set"
