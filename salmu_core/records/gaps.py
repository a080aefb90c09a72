"""How far a score is from its target, in units that make metrics comparable."""

from __future__ import annotations

from collections.abc import Mapping

from salmu_core.records.schema import ScoreRecord

SMALLEST_SCALE = 1e-3  # below this the references tell nothing apart


def scale_of(clean: ScoreRecord, compromised: ScoreRecord) -> float:
    """The unit of a metric's gap: |Compromised - Clean| for forgetting and holdout, |Compromised - chance| for general and
    retained, where Clean and Compromised are meant to agree and their difference cannot be a unit."""
    if compromised.aspect in ("forgetting", "holdout"):
        scale = abs(compromised.value - clean.value)
    else:
        scale = abs(compromised.value - compromised.chance)
    return max(scale, SMALLEST_SCALE)


def gap_of(score: ScoreRecord, clean: ScoreRecord, compromised: ScoreRecord) -> float:
    """`|value - target| / scale`: 0 at the target; for forgetting 1 where Compromised is."""
    target = clean if score.target == "clean" else compromised
    return abs(score.value - target.value) / scale_of(clean, compromised)


def gaps_of(
    scores: Mapping[str, ScoreRecord], clean: Mapping[str, ScoreRecord], compromised: Mapping[str, ScoreRecord]
) -> dict[str, float]:
    """The gap of every metric that all three models have."""
    return {
        name: gap_of(score, clean[name], compromised[name])
        for name, score in scores.items()
        if name in clean and name in compromised
    }
