"""CoreAssoc: is the bare fact still tied to the face when all wording is taken away?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from salmu_core import Embedded, Metric, Score, View
from salmu_metrics.pair_similarity import pair_cosines
from salmu_metrics.rows import HALF, CosineOptions, check_rows, identity_clusters, rounded


def strongest_cosines(
    image: Float[Tensor, "n dim"], first: Float[Tensor, "n dim"], second: Float[Tensor, "n dim"]
) -> Float[Tensor, " n"]:
    """max(cos(image i, first i), cos(image i, second i)), in [-1, 1].

    Args:
        image, first, second: fp32 rows of unit length.
    """
    return torch.maximum(pair_cosines(image, first), pair_cosines(image, second))


class CoreAssoc(Metric):
    """Core Association robustness: the bare association, in whichever order of name and value is stronger."""

    name = "CoreAssoc"
    summary = "Mean cosine of forget images with the bare name and value, in the stronger of both orders."
    paper = "https://arxiv.org/abs/2603.26316"
    target = "clean"
    aspect = "forgetting"
    conventions = HALF
    Options = CosineOptions

    def needs(self) -> Mapping[str, View]:
        return {
            "image": View("forget", "image"),
            "name_first": View("forget", "text", template="{name} {value}"),
            "value_first": View("forget", "text", template="{value} {name}"),
        }

    def compute(self, image: Embedded, name_first: Embedded, value_first: Embedded) -> Score:
        """The mean over rows of the stronger cosine; rows are clustered by identity.

        Raises:
            NotMeasurable: the split is empty.
        """
        check_rows(self.name, image=image, name_first=name_first, value_first=value_first)
        cosines = strongest_cosines(image.vectors, name_first.vectors, value_first.vectors)
        rows = rounded(cosines, self.options.cosines).numpy().astype(np.float64)
        return Score(float(rows.mean()), rows, identity_clusters(image.columns))
