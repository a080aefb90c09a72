"""What can be measured of any model on any pairs, beside the installed metrics whose splits are there."""

from __future__ import annotations

from typing import ClassVar

from salmu_core.evaluation.retrieval import RetainRetrieval
from salmu_core.records.schema import Aspect, Target


class ForgetRetrieval(RetainRetrieval):
    """Whether a forget caption is still found by its picture, where there are no retain captions for a gallery as RetFail's."""

    name = "ForgetMRR"
    summary = "Mean reciprocal rank of the captions of forget pairs, among each other."
    target: ClassVar[Target] = "clean"
    aspect: ClassVar[Aspect] = "forgetting"
    split: ClassVar[str] = "forget"
