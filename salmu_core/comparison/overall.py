"""One number for a leaderboard: forgotten x kept x general, each from 0 to 1.

A product, because what is asked for is all three at once. Compromised has forgotten nothing and Clean has kept nothing of the
holdouts, so both score 0; and a model on the way between them, which forgets everything sensitive alike, has forgotten t and kept
1 - t, so at most 1/4. What scores above that does something that indiscriminate forgetting cannot.

The worst metric of a part counts, not their mean. Metrics do not fall in step: with half of the similarity gone, a caption has lost
most of its rank among others. A mean of ranks and similarities would put a model that has lost half of everything at .67 forgotten
and .44 kept (measured, overwriting words), above 1/4, though it did nothing selective. The worst of the forgetting metrics is the one
that falls as the holdouts do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from salmu_core.comparison.gaps import Values, gap_between, informative
from salmu_core.records.schema import ScoreRecord

Scores = Mapping[str, ScoreRecord]
#: What a model on the line between Compromised and Clean cannot exceed.
INDISCRIMINATE = 0.25


@dataclass(frozen=True)
class Parts:
    """The overall score and what it is the product of, each from 0 to 1, or arrays of them.

    Attributes:
        forgotten: of the forgetting metrics the worst 1 - gap, not below 0: past Clean counts as far as short of it.
        kept: of the holdout metrics the worst 1 - gap, times of the retained metrics the worst share of their level.
        general: of the general metrics the worst share of their level.
        overall: their product.
    """

    forgotten: float | np.ndarray
    kept: float | np.ndarray
    general: float | np.ndarray
    overall: float | np.ndarray


@dataclass(frozen=True)
class Basis:
    """What a model is scored by on one instance of a benchmark.

    Attributes:
        kinds: metric -> its score of Compromised, of the metrics that count.
        clean, compromised: metric -> value.
        weights: metric -> 1, of the metrics that count.
        left_out: metric -> why it is not informative, in a sentence.
    """

    kinds: Scores
    clean: Mapping[str, float]
    compromised: Mapping[str, float]
    weights: Mapping[str, float]
    left_out: Mapping[str, str]

    def of(self, scores: Scores) -> Parts | None:
        """The score of a model; None where the benchmark cannot give one, or the model lacks a metric that counts."""
        found = parts_between(
            {name: score.value for name, score in scores.items()}, self.clean, self.compromised, self.kinds, self.weights
        )
        if found is None:
            return None
        return Parts(*(float(value) for value in (found.forgotten, found.kept, found.general, found.overall)))

    def missing(self, scores: Scores) -> list[str]:
        """The metrics that count and that a model lacks."""
        return [name for name in self.weights if name not in scores]


def _weight(score: ScoreRecord) -> float:
    """The benchmark's; where it names no metrics, all count that say they may."""
    return float(score.scored) if score.weight is None else score.weight


def part_of(score: ScoreRecord) -> str:
    """Which part of the overall score a metric counts in."""
    return {"forgetting": "forgotten", "general": "general"}.get(score.aspect, "kept")


def basis(
    clean: Scores, compromised: Scores, asked: Collection[str] = (), informative_in: Collection[str] | None = None
) -> Basis:
    """What the references make of a benchmark's metrics. Those count that the benchmark gives a weight (all of them where it names
    none, as before 0.2), and that are informative.

    Args:
        asked: metrics that count though the benchmark does not name them.
        informative_in: count no others than these, e.g. what is informative in every instance of a table.
    """
    names, left_out = informative(clean, compromised)
    given = {
        name: 1.0 if name in asked else _weight(compromised[name])
        for name in names
        if informative_in is None or name in informative_in
    }
    given = {name: weight for name, weight in given.items() if weight > 0}
    return Basis(
        {name: compromised[name] for name in given},
        {name: clean[name].value for name in given},
        {name: compromised[name].value for name in given},
        dict.fromkeys(given, 1.0),
        left_out,
    )


def overall_score(scores: Scores, clean: Scores, compromised: Scores) -> float | None:
    """The overall score of a model; None where it cannot be given."""
    found = basis(clean, compromised).of(scores)
    return None if found is None else float(found.overall)


def parts_between(
    values: Mapping[str, Values],
    clean: Mapping[str, Values],
    compromised: Mapping[str, Values],
    kinds: Scores,
    weights: Mapping[str, float],
) -> Parts | None:
    """The parts for values, or arrays of them. A part that no metric measures (a user's data may lack holdouts, say) is left
    out of the product. None where a metric that counts is missing, where nothing measures forgetting, or nothing what is kept.

    Args:
        kinds: metric -> a score of it, for aspect, target and chance.
        weights: the metrics that count.
    """
    if any(name not in values for name in weights):
        return None

    def near(name: str) -> Values:
        gap = gap_between(kinds[name], values[name], clean[name], compromised[name])
        return _from_0_to_1(1 - gap)

    def level(name: str) -> Values:
        chance = kinds[name].chance
        above: Values = np.maximum(compromised[name] - chance, np.finfo(float).tiny)
        return _from_0_to_1((values[name] - chance) / above)

    of: dict[str, list[str]] = {}
    for name in weights:
        of.setdefault(kinds[name].aspect, []).append(name)
    if "forgetting" not in of or len(of) == 1:
        return None
    forgotten = _worst([near(name) for name in of["forgetting"]])
    kept = _worst([near(name) for name in of.get("holdout", ())]) * _worst([level(name) for name in of.get("retained", ())])
    general = _worst([level(name) for name in of.get("general", ())])
    return Parts(forgotten, kept, general, forgotten * kept * general)


def _from_0_to_1(values: Values) -> Values:
    clipped: Values = np.clip(values, 0.0, 1.0)
    return clipped


def _worst(values: list[Values]) -> float | np.ndarray:
    return np.minimum.reduce(values) if values else 1.0
