"""What a trial is worth: of those that do no harm to ordinary knowledge, the one that forgets most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from salmu_core.comparison.gaps import gap_between
from salmu_core.comparison.overall import Basis, basis
from salmu_core.comparison.verdict import Thresholds
from salmu_core.records.schema import ScoreRecord

#: The share of the ordinary knowledge above chance that a trial may lose on any instance: two thirds of where a verdict says
#: catastrophic, for the same options lose more on one instance than on another.
LARGEST_LOSS = Thresholds.general_drop * 2 / 3
#: Of trials that forget alike, the one that keeps more of what nobody asked to forget: all of it is worth this much forgetting.
KEPT = 0.1
LOST = -2.0  # of a trial without scores; no other is worth less
RULE = (
    f"a trial that loses more than {LARGEST_LOSS:.0%} of the general knowledge above chance on any instance cannot be chosen; among"
    f" the others the one that forgets most (half of it by the worst metric, as in the overall score, half by the mean of all), plus"
    f" {KEPT:g} times what it keeps of associations that were set aside; it is then run with nothing set aside, on every instance, and"
    " where that loses more than the same limit, the next best is taken"
)
Scores = Mapping[str, ScoreRecord]


@dataclass(frozen=True)
class Worth:
    """What a trial did on the validation part of one instance, or of several.

    Attributes:
        forgotten: the mean of two shares: of the worst forgetting metric, as in the overall score, and of all of them on average. The
            worst alone is 0 for most settings of a small budget, and the search would take the one that does least.
        kept: as in the overall score. In both, "as if never learned" stands in the place of Clean.
        lost: share of the general level above chance that is gone, of the worst general metric; 0 where it rose.
    """

    forgotten: float
    kept: float
    lost: float

    @property
    def allowed(self) -> bool:
        """May it be chosen?"""
        return self.lost <= LARGEST_LOSS

    @property
    def value(self) -> float:
        """What the search maximises: below 0 where the trial cannot be chosen, the lower the more is lost."""
        return self.forgotten + KEPT * self.kept if self.allowed else -self.lost


def worth_of(scores: Scores, never_learned: Scores, compromised: Scores) -> Worth | None:
    """What a run is worth; None where nothing, no forgetting or no general knowledge was measured.

    Args:
        never_learned: scores of the Compromised model on mismatched pairs, where the Clean model's would stand.
        compromised: its scores on the pairs themselves.
    """
    against = basis(never_learned, compromised)
    measured = {compromised[name].aspect for name in against.weights}
    parts = against.of(scores)
    if parts is None or not measured >= {"forgetting", "general"}:
        return None
    return Worth(
        (float(parts.forgotten) + _mean_forgotten(against, scores)) / 2, float(parts.kept), 1 - float(parts.general)
    )


def _mean_forgotten(against: Basis, scores: Scores) -> float:
    """Each forgetting metric's share of the way to "never learned", from 0 to 1, on average."""
    shares = [
        1 - gap_between(kind, scores[name].value, against.clean[name], against.compromised[name])
        for name, kind in against.kinds.items()
        if kind.aspect == "forgetting"
    ]
    return fmean(min(max(share, 0.0), 1.0) for share in shares)


def lost_of(scores: Scores, never_learned: Scores, compromised: Scores) -> float | None:
    """Share of the general level above chance that a run lost, of the worst general metric that counts, whatever else was measured.

    Returns:
        0 where all rose; None where the run has none of them.

    Example:
        >>> from salmu_core.records.schema import ScoreRecord
        >>> def one(value):
        ...     return {"G": ScoreRecord(value=value, target="compromised", aspect="general", primary=True, chance=0.1)}
        >>> round(lost_of(one(0.7), one(0.9), one(0.9)), 3)
        0.25
    """
    against = basis(never_learned, compromised)
    lost = [
        1 - (scores[name].value - kind.chance) / (against.compromised[name] - kind.chance)
        for name, kind in against.kinds.items()
        if kind.aspect == "general" and name in scores
    ]
    return max(0.0, *lost) if lost else None


def mean_worth(found: Sequence[Worth]) -> Worth:
    """Over instances: mean forgetting and keeping, and the largest loss."""
    count = len(found)
    return Worth(
        math.fsum(one.forgotten for one in found) / count,
        math.fsum(one.kept for one in found) / count,
        max(one.lost for one in found),
    )
