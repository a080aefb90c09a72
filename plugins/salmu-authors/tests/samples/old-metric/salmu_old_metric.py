"""OldMetric: how much closer forget images are to their own captions than to the captions on average."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from salmu_core import Embedded, Metric, NotMeasurable, Options, Score, View, hookimpl
from torch import Tensor


def margins(image: Tensor, text: Tensor) -> Tensor:
    """Cosine with the own caption minus the mean cosine with all captions, one number per image [n], in [-2, 2].

    Args:
        image, text: unit-length embeddings [n, dim].
    """
    return (image * text).sum(dim=-1) - image @ text.mean(dim=0)


class OldMetricOptions(Options):
    """None. A metric that draws has an option `seed`, and makes its generator from it inside `compute`."""


class OldMetric(Metric):
    """Margin of the own caption over all captions, on forget pairs."""

    name = "OldMetric"
    summary = "How much closer forget images are to their own captions than to all captions on average."
    paper = None  # https://arxiv.org/abs/...
    target = "clean"
    aspect = "forgetting"
    bounds = (-2.0, 2.0)
    chance = 0.0
    Options = OldMetricOptions

    def needs(self) -> Mapping[str, View]:
        """Both sides of the forget split."""
        return {"image": View("forget", "image"), "text": View("forget", "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        """The mean margin; rows are the margins, clustered by identity.

        Raises:
            NotMeasurable: the split is empty.
        """
        if not len(image):
            raise NotMeasurable("The forget split is empty.")
        rows = margins(image.vectors, text.vectors).numpy().astype(np.float64)
        return Score(float(rows.mean()), rows, image.columns["identity_id"])


@hookimpl
def register_metrics() -> list[type[Metric]]:
    """What this package offers."""
    return [OldMetric]
