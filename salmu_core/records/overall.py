"""One number for a leaderboard: how far a model has come from Compromised to the ideal point (efficacy at Clean, utility at
Compromised)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from salmu_core.records.gaps import Values
from salmu_core.records.schema import ScoreRecord


def metric_weights(scores: Mapping[str, ScoreRecord]) -> dict[str, float]:
    """Half for the forgetting metrics, half for all others, equal inside each half; they sum to 1. Where one half has no metric
    the other has all the weight. Metrics that are only shown have none."""
    halves: list[list[str]] = [
        [name for name, score in scores.items() if score.scored and score.aspect == "forgetting"],
        [name for name, score in scores.items() if score.scored and score.aspect != "forgetting"],
    ]
    present = [half for half in halves if half]
    return {name: 1 / len(present) / len(half) for half in present for name in half}


def overall_score(gaps: Mapping[str, float], start: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """`1 - D(model) / D(Compromised)` with `D = sqrt(sum_m w_m gap_m^2)`: 0 at Compromised, 1 at the ideal point, negative when
    farther from it than the start. Metrics that are missing in `gaps` are left out of both distances."""
    return float(overall_between(gaps, start, weights))


def overall_between(gaps: Mapping[str, Values], start: Mapping[str, Values], weights: Mapping[str, float]) -> Values:
    """`overall_score` for gaps, or arrays of them. Where Compromised is at the ideal point there is nothing to gain: 0."""
    before = np.asarray(_distance(start, weights, gaps))
    share = np.asarray(_distance(gaps, weights, gaps)) / np.where(before == 0, 1.0, before)
    return np.where(before == 0, 0.0, 1 - share)  # type: ignore[return-value]


def _distance(gaps: Mapping[str, Values], weights: Mapping[str, float], names: Iterable[str]) -> Values:
    terms = [weights[name] * gaps[name] ** 2 for name in names if name in weights]
    distance: Values = np.sqrt(sum(terms[1:], start=terms[0]) if terms else 0.0)
    return distance
