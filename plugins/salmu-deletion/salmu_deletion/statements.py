"""Sentences that say what a run did to readers who know no metrics. From records alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from salmu_core.comparison.gaps import gap_of, left_of, not_informative
from salmu_core.comparison.verdict import Thresholds, Verdict, judge, primary, with_attacks
from salmu_core.records.attacks import Attacked
from salmu_core.records.schema import Aspect, RunRecord, ScoreRecord

Scores = Mapping[str, ScoreRecord]
_QUESTIONS: Mapping[Aspect, str] = {
    "forgetting": "Is it forgotten?",
    "holdout": "Is what the model knows of others still there?",
    "retained": "Do ordinary pictures near the forgotten ones still fit their captions?",
    "general": "Is what the model knows in general still there?",
}


@dataclass(frozen=True)
class Statement:
    """A question that a reader has, and the answer."""

    aspect: Aspect
    question: str
    answer: str
    measured: bool


def statements(record: RunRecord, clean: Scores, compromised: Scores) -> list[Statement]:
    """One for each aspect, by its primary metric; what was not measured is said.

    Args:
        clean, compromised: scores of the reference rows; empty where the reference is missing.
    """
    found = []
    at = Thresholds()
    for aspect, question in _QUESTIONS.items():
        measured = primary(record.scores, aspect)
        if measured is None:
            found.append(Statement(aspect, question, "Not measured: no data for it was given.", False))
            continue
        name, score = measured
        before, never = compromised.get(name), clean.get(name)
        if before is None:
            found.append(
                Statement(aspect, question, f"{name} is {score.value:.3f}. What it was before is not known.", False)
            )
            continue
        change = f"{name} was {before.value:.3f} and is {score.value:.3f}"
        if never is not None and (why := not_informative(name, never, before)) is not None:
            found.append(Statement(aspect, question, f"{change}. {why}", False))
            continue
        if aspect == "forgetting":
            answer = _forgotten(score, before, never, change, at)
        elif aspect == "general":
            drop = before.value - score.value
            largest = at.largest_drop(before)
            answer = f"{'Yes' if drop <= largest else 'No'}: {change} (at most {largest:.3f} less is accepted)."
        elif never is None:
            answer = f"{change}. Without a reference that never learned it, this cannot be judged."
        else:
            gap = gap_of(score, never, before)
            answer = f"{'Yes' if gap <= at.holdout_gap else 'Not all of it'}: {change}"
            way = f", {gap:.0%} of the way to never learned" if aspect == "holdout" else ""
            answer += f"{way} (at most {at.holdout_gap:.0%} of it is accepted)." if way else "."
        found.append(Statement(aspect, question, answer, True))
    return found


def _forgotten(score: ScoreRecord, before: ScoreRecord, never: ScoreRecord | None, change: str, at: Thresholds) -> str:
    if never is None:
        return f"{change}. What it is for pairs that were never learned is not known, so this cannot be judged."
    change += f"; for pairs that were never learned it is {never.value:.3f}"
    if before.low is not None and before.high is not None and before.low <= never.value <= before.high:
        return f"{change}. Before, these pairs could hardly be told from pairs never learned: there was little to forget."
    gap = gap_of(score, never, before)
    if (score.value - never.value) * (before.value - never.value) < 0 and gap > at.forgetting_gap:
        return f"Yes, and too much: {change}. That is {gap:.0%} of the way beyond it, which can be seen from outside, too."
    gap = left_of(score, never, before)
    word = "Yes" if gap <= at.forgetting_gap else "No" if gap > 0.9 else "In part"
    return f"{word}: {change}. {gap:.0%} of the way is left."


def verdict_of(record: RunRecord, clean: Scores, compromised: Scores, attacked: Attacked | None = None) -> Verdict:
    """The run's verdict, attacks included where there are some; "unknown" where a reference is missing."""
    if not clean or not compromised:
        lacking = " and no ".join(which for which, row in (("Clean", clean), ("Compromised", compromised)) if not row)
        return Verdict("unknown", f"There is no {lacking} row measured on the same data to judge by.")
    return with_attacks(judge(record, clean, compromised), attacked or Attacked())
