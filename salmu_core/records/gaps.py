"""How far a score is from its target, in units that make metrics comparable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from salmu_core.records.schema import ScoreRecord

SMALLEST_SCALE = 1e-3  # below this the references tell nothing apart
#: A score, or one for each resample of the identities: float [resamples].
Values = TypeVar("Values", float, np.ndarray)


def scale_of(clean: ScoreRecord, compromised: ScoreRecord) -> float:
    """The unit of a metric's gap: |Compromised - Clean| for forgetting and holdout, |Compromised - chance| for general and
    retained, where Clean and Compromised are meant to agree and their difference cannot be a unit."""
    return float(_scale(compromised, clean.value, compromised.value))


def gap_of(score: ScoreRecord, clean: ScoreRecord, compromised: ScoreRecord) -> float:
    """`|value - target| / scale`: 0 at the target; for forgetting 1 where Compromised is."""
    return float(gap_between(score, score.value, clean.value, compromised.value))


def gap_between(kind: ScoreRecord, value: Values, clean: Values, compromised: Values) -> Values:
    """`gap_of` for values, or arrays of them, of the metric that `kind` is a score of."""
    target = clean if kind.target == "clean" else compromised
    gap: Values = abs(value - target) / _scale(kind, clean, compromised)
    return gap


def _scale(kind: ScoreRecord, clean: Values, compromised: Values) -> Values:
    other = clean if kind.aspect in ("forgetting", "holdout") else kind.chance
    scale: Values = np.maximum(abs(compromised - other), SMALLEST_SCALE)
    return scale


def gaps_of(
    scores: Mapping[str, ScoreRecord], clean: Mapping[str, ScoreRecord], compromised: Mapping[str, ScoreRecord]
) -> dict[str, float]:
    """The gap of every metric that all three models have."""
    return {
        name: gap_of(score, clean[name], compromised[name])
        for name, score in scores.items()
        if name in clean and name in compromised
    }
