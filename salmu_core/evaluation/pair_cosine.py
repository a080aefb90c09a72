"""The one metric of core: what a comparison rests on where no package of metrics is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from salmu_core.data.pairs import Embedded, View
from salmu_core.metric import Metric, Score
from salmu_core.records.schema import Aspect, Target


class PairCosine(Metric):
    """Mean cosine of forget images and their captions. It says nothing of what else was lost."""

    name = "PairCosine"
    summary = (
        "Mean cosine of forget images and their own captions; the only metric here, as no package of metrics is installed."
    )
    target: ClassVar[Target] = "clean"
    aspect: ClassVar[Aspect] = "forgetting"
    primary = True

    def needs(self) -> Mapping[str, View]:
        """Both sides of the forget split."""
        return {"image": View("forget", "image"), "text": View("forget", "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        """The mean over rows, which are resampled by identity."""
        rows = (image.vectors * text.vectors).sum(dim=1).double().numpy()
        return Score(float(rows.mean()), rows, image.columns.get("identity_id"))
