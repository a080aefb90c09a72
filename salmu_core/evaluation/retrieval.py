"""Retrieval among retain pairs that were set aside: what a model knows of ordinary data, without evaluation data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from salmu_core.data.pairs import Embedded, View
from salmu_core.metric import Metric, NotMeasurable, Score
from salmu_core.records.schema import Aspect, Target


class RetainRetrieval(Metric):
    """What a model knows of ordinary data, in the place of a zero-shot metric, whose classes are evaluation data."""

    name = "RetainMRR"
    summary = "Mean reciprocal rank of the captions of retain pairs that the method did not see, among each other."
    target: ClassVar[Target] = "compromised"
    aspect: ClassVar[Aspect] = "general"
    primary = True
    bounds = (0.0, 1.0)
    #: Retrieval among all kinds of ordinary captions falls several times as fast as zero-shot accuracy: hinge-negative-pairs with its
    #: defaults costs .05 of it on the validation part of mini (seed 3) and .01 of GenKnow on mini.
    tolerance: ClassVar[float | None] = 0.1
    split: ClassVar[str] = "retain_validation"

    def needs(self) -> Mapping[str, View]:
        return {"image": View(self.split, "image"), "text": View(self.split, "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        """Equal captions are one candidate."""
        better, count = better_captions(image, text, self.split)
        rows = 1.0 / (1 + better)
        return Score(float(rows.mean()), rows, chance=float((1.0 / np.arange(1, count + 1)).mean()))


def better_captions(image: Embedded, text: Embedded, split: str) -> tuple[np.ndarray, int]:
    """How many captions are nearer to each picture than its own, int [n], and how many different ones there are.

    Raises:
        NotMeasurable: there are fewer than two.
    """
    words = list(text.texts or ())
    first = {caption: row for row, caption in reversed(list(enumerate(words)))}
    if len(first) < 2:
        raise NotMeasurable(f"the pairs of {split} have fewer than two captions")
    number = {caption: place for place, caption in enumerate(first)}
    similarity = (image.vectors @ text.vectors[list(first.values())].T).numpy()
    own = similarity[np.arange(len(words)), [number[caption] for caption in words]]
    return (similarity > own[:, None]).sum(axis=1), len(first)
