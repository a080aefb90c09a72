"""The failure mode of a run, from documented thresholds. Built on what metrics look at, never on their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from salmu_core.records.gaps import gap_of, gaps_of
from salmu_core.records.schema import Aspect, RunRecord, ScoreRecord

#: Verdicts that can hold a rank. A model that was not changed or was destroyed never can.
RANKED = ("selective", "over-generalised", "ineffective")
Scores = Mapping[str, ScoreRecord]


@dataclass(frozen=True)
class Thresholds:
    """Where one failure mode ends and the next begins.

    Attributes:
        moved: no metric's gap changed by more than this: no effect.
        general_drop: the primary general metric fell by more than this (absolute): catastrophic. SALMUBench calls direct
            similarity minimisation (.615 against .638) catastrophic and negative gradient (.630) not. A metric may have a
            `tolerance` of its own, which counts instead.
        forgetting_gap: the primary forgetting metric is farther from Clean than this share of the way from Compromised:
            ineffective.
        holdout_gap: a holdout metric moved from Compromised by more than this share of the way to Clean: over-generalised.
    """

    moved: float = 0.01
    general_drop: float = 0.02
    forgetting_gap: float = 0.2
    holdout_gap: float = 0.1

    def largest_drop(self, general: ScoreRecord) -> float:
        """The fall of a general metric that is accepted."""
        return self.general_drop if general.tolerance is None else general.tolerance


@dataclass(frozen=True)
class Verdict:
    """A failure mode in a word, and why in a sentence."""

    name: str
    reason: str

    @property
    def ranked(self) -> bool:
        """May a row with this verdict hold a rank?"""
        return self.name in RANKED


def judge(record: RunRecord, clean: Scores, compromised: Scores, at: Thresholds = Thresholds()) -> Verdict:
    """The verdict of one run. Checked in this order: failed or diverged, no effect, catastrophic, ineffective, over-generalised,
    selective."""
    if record.status != "ok":
        return Verdict(record.status, (record.error or "").splitlines()[0] if record.error else record.status)
    start = gaps_of(compromised, clean, compromised)
    gaps = gaps_of(record.scores, clean, compromised)
    if not gaps:
        return Verdict("unknown", "No metric was measured on this model and on both reference rows.")
    largest = max(abs(gap - start[name]) for name, gap in gaps.items())
    if record.weight_change == 0 or largest <= at.moved:
        return Verdict(
            "no effect", f"No metric's gap moved by more than {largest:.3f}; weights changed by {record.weight_change}."
        )
    general = primary(record.scores, "general")
    forgetting = primary(record.scores, "forgetting")
    holdouts = {name: score for name, score in record.scores.items() if score.aspect == "holdout" and name in gaps}
    lacking = [
        words
        for words, found in (("general", general), ("forgetting", forgetting), ("holdout", holdouts))
        if not found or (isinstance(found, tuple) and found[0] not in gaps)
    ]
    if lacking:
        return Verdict("unknown", f"No {' and no '.join(lacking)} metric was measured on this model and both references.")
    assert general is not None
    assert forgetting is not None
    name, score = general
    drop = compromised[name].value - score.value
    largest = at.largest_drop(score)
    if drop > largest:
        return Verdict("catastrophic", f"{name} fell by {drop:.3f} (more than {largest:g}) to {score.value:.3f}.")
    name, score = forgetting
    gap = gap_of(score, clean[name], compromised[name])
    if gap > at.forgetting_gap:
        return Verdict(
            "ineffective",
            f"{name} is {score.value:.3f}: {gap:.0%} of the way from Clean ({clean[name].value:.3f}) to Compromised"
            f" ({compromised[name].value:.3f}) is left, more than {at.forgetting_gap:.0%}.",
        )
    name = max(holdouts, key=lambda holdout: gaps[holdout])
    if gaps[name] > at.holdout_gap:
        return Verdict(
            "over-generalised",
            f"{name} moved {gaps[name]:.0%} of the way from Compromised to Clean, more than {at.holdout_gap:.0%}, and nobody asked.",
        )
    return Verdict("selective", f"Forgot the requested associations; {name} kept within {gaps[name]:.0%}.")


def primary(scores: Scores, aspect: Aspect) -> tuple[str, ScoreRecord] | None:
    """The primary metric of an aspect; the first one where none is marked."""
    of_aspect = [(name, score) for name, score in scores.items() if score.aspect == aspect]
    marked = [item for item in of_aspect if item[1].primary]
    return next(iter(marked or of_aspect), None)
