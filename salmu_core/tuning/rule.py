"""What a trial is worth: of those that do no harm to ordinary knowledge, the one that forgets most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from salmu_core.records.gaps import gap_of
from salmu_core.records.schema import ScoreRecord

#: The share of the ordinary knowledge above chance that a trial may lose on any instance. docs/tune.md shows what it means in a
#: benchmark's own general metric.
LARGEST_LOSS = 0.05
#: Of trials that forget alike, the one that keeps more of what nobody asked to forget: all of it is worth this much forgetting.
KEPT = 0.1
LOST = -2.0  # of a trial without scores; no other is worth less
RULE = (
    f"a trial that loses more than {LARGEST_LOSS:.0%} of the general knowledge above chance on any instance cannot be chosen; among"
    f" the others the one that forgets most (mean over forgetting metrics of 1 - gap), plus {KEPT:g} times what it keeps of"
    " associations that were set aside"
)
Scores = Mapping[str, ScoreRecord]


@dataclass(frozen=True)
class Worth:
    """What a trial did on the validation part of one instance, or of several.

    Attributes:
        forgotten: from 0 (as Compromised) to 1 (as if never learned), mean over the forgetting metrics; past the target counts as
            far as short of it.
        kept: the worst of the holdout and retained metrics, from 0 to 1.
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
    names = [name for name in scores if name in never_learned and name in compromised]

    def of(*aspects: str) -> list[str]:
        return [name for name in names if scores[name].aspect in aspects]

    def near(name: str) -> float:
        # A gap of more than 1 is no worse than not having moved: 0.
        return max(0.0, 1 - gap_of(scores[name], never_learned[name], compromised[name]))

    def level(name: str) -> float:
        above = compromised[name].value - scores[name].chance
        return 1.0 if above <= 0 else (scores[name].value - scores[name].chance) / above

    forgetting, general = of("forgetting"), of("general")
    if not forgetting or not general:
        return None
    return Worth(
        forgotten=math.fsum(map(near, forgetting)) / len(forgetting),
        kept=min(map(near, of("holdout", "retained")), default=1.0),
        lost=min(1.0, max(0.0, 1 - min(map(level, general)))),
    )


def mean_worth(found: Sequence[Worth]) -> Worth:
    """Over instances: mean forgetting and keeping, and the largest loss."""
    count = len(found)
    return Worth(
        math.fsum(one.forgotten for one in found) / count,
        math.fsum(one.kept for one in found) / count,
        max(one.lost for one in found),
    )
