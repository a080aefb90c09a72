"""How far a score is from its target, in units that make metrics comparable, and whether there is such a unit at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from salmu_core.records.schema import ScoreRecord

#: References that differ by less than this tell nothing apart, however sure they are.
SMALLEST_SCALE = 1e-2
#: A score, or one for each resample of the identities: float [resamples].
Values = TypeVar("Values", float, np.ndarray)


def not_informative(name: str, clean: ScoreRecord, compromised: ScoreRecord) -> str | None:
    """Why a metric says nothing here, in a sentence; None where it does.

    A metric is informative where the two ends of its unit are apart: by at least `SMALLEST_SCALE`, and by more than chance, which
    is read from their 95 % intervals (they must not overlap). Everything that divides by the unit leaves the others out: the
    overall score, verdicts, paired tests, certificates.
    """
    if _between_references(compromised):
        ends = f"Clean ({clean.value:.3f}) and Compromised ({compromised.value:.3f})"
        apart, overlap = abs(compromised.value - clean.value), _overlap(clean, compromised)
    else:
        ends = f"Compromised ({compromised.value:.3f}) and chance ({compromised.chance:.3f})"
        apart, overlap = compromised.value - compromised.chance, _holds(compromised, compromised.chance)
    if apart < 0:  # of chance alone
        why = f"Compromised ({compromised.value:.3f}) does no better than chance ({compromised.chance:.3f})"
    elif apart < SMALLEST_SCALE:
        why = f"{ends} are {apart:.3f} apart, less than {SMALLEST_SCALE:g}"
    elif overlap:
        why = f"the 95 % intervals of {ends} overlap" if _between_references(compromised) else f"{ends} cannot be told apart"
    else:
        return None
    return f"{name} is not informative here and is left out of scores, verdicts and tests: {why}."


def informative(
    clean: Mapping[str, ScoreRecord], compromised: Mapping[str, ScoreRecord]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The metrics that both references have and that tell them apart, and of the others that both have, why not."""
    why = {name: not_informative(name, clean[name], score) for name, score in compromised.items() if name in clean}
    return tuple(name for name, words in why.items() if words is None), {n: words for n, words in why.items() if words}


def gap_of(score: ScoreRecord, clean: ScoreRecord, compromised: ScoreRecord) -> float:
    """`|value - target| / scale`: 0 at the target; for forgetting 1 where Compromised is. Only for informative metrics."""
    return float(gap_between(score, score.value, clean.value, compromised.value))


def gap_between(kind: ScoreRecord, value: Values, clean: Values, compromised: Values) -> Values:
    """`gap_of` for values, or arrays of them, of the metric that `kind` is a score of."""
    target = clean if kind.target == "clean" else compromised
    gap: Values = abs(value - target) / _scale(kind, clean, compromised)
    return gap


def left_of(score: ScoreRecord, clean: ScoreRecord, compromised: ScoreRecord) -> float:
    """The share of the way from Clean to Compromised that is left, of a forgetting metric: 0 at Clean and behind it."""
    return max(0.0, (score.value - clean.value) / (compromised.value - clean.value))


def _between_references(kind: ScoreRecord) -> bool:
    return kind.aspect in ("forgetting", "holdout")


def _scale(kind: ScoreRecord, clean: Values, compromised: Values) -> Values:
    other = clean if _between_references(kind) else kind.chance
    scale: Values = np.maximum(abs(compromised - other), SMALLEST_SCALE)
    return scale


def _overlap(one: ScoreRecord, other: ScoreRecord) -> bool:
    """Say whether the intervals meet. Without intervals the answer is no."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def _holds(score: ScoreRecord, value: float) -> bool:
    return score.low is not None and score.low <= value


def gaps_of(
    scores: Mapping[str, ScoreRecord], clean: Mapping[str, ScoreRecord], compromised: Mapping[str, ScoreRecord]
) -> dict[str, float]:
    """The gap of every metric that all three models have and that is informative."""
    names, _ = informative(clean, compromised)
    return {name: gap_of(scores[name], clean[name], compromised[name]) for name in scores if name in names}
