"""The failure mode of a run, from documented thresholds. Built on what metrics look at, never on their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from salmu_core.comparison.falls import Fall
from salmu_core.comparison.gaps import gaps_of, informative, left_of
from salmu_core.comparison.overall import basis
from salmu_core.records.attacks import Attacked
from salmu_core.records.schema import Aspect, RunRecord, ScoreRecord

#: Verdicts that can hold a rank. A model that was not changed or was destroyed never can.
RANKED = ("selective", "superficial", "over-generalised", "ineffective")
Scores = Mapping[str, ScoreRecord]


@dataclass(frozen=True)
class Thresholds:
    """Where one failure mode ends and the next begins.

    Attributes:
        moved: no metric's gap changed by more than this: no effect.
        general_drop: a general metric fell by more than this share of its level (Compromised less chance), and a paired test over
            its rows says that it fell: catastrophic. SALMUBench calls direct similarity minimisation (.615 of .638, a share of .036)
            catastrophic and negative gradient (.630, .013) not. A metric may have a `tolerance` of its own, an absolute fall.
        general_ruin: a fall by more than this share of the level needs no test: a few rows cannot prove what anybody sees.
        forgetting_gap: of the primary forgetting metric, more than this share of the way from Clean to Compromised is left:
            ineffective. Any forgetting metric of which more is left keeps a run from being selective.
        forgetting_mean: the mean share that is left over all forgetting metrics is above this: ineffective.
        holdout_gap: a holdout metric moved from Compromised by more than this share of the way to Clean: over-generalised.
        recovered: an attack on the model alone gets more than this share of what the same attack gets from Compromised, beyond
            what it gets from Clean: superficial. As much as the share that a forgetting metric may leave; docs/concepts.md says
            why, and how to see what models that never saw the pairs recover.
    """

    moved: float = 0.01
    general_drop: float = 0.03
    general_ruin: float = 0.3
    forgetting_gap: float = 0.2
    forgetting_mean: float = 1 / 3
    holdout_gap: float = 0.1
    recovered: float = 0.2

    def largest_drop(self, compromised: ScoreRecord) -> float:
        """The fall of a general metric that is accepted, from Compromised's score of it."""
        if compromised.tolerance is not None:
            return compromised.tolerance
        return self.general_drop * max(0.0, compromised.value - compromised.chance)


@dataclass(frozen=True)
class Verdict:
    """A failure mode in a word, and why in a sentence."""

    name: str
    reason: str

    @property
    def ranked(self) -> bool:
        """May a row with this verdict hold a rank?"""
        return self.name in RANKED


def judge(
    record: RunRecord,
    clean: Scores,
    compromised: Scores,
    at: Thresholds = Thresholds(),
    *,
    falls: Mapping[str, Fall] | None = None,
    counted: Collection[str] | None = None,
) -> Verdict:
    """The verdict of one run. Checked in this order: failed or diverged, no effect, catastrophic, ineffective (the primary forgetting
    metric, or the mean of all), over-generalised, ineffective (any forgetting metric), selective. Only metrics are looked at that
    count in the overall score and are informative.

    Args:
        falls: paired tests of general metrics; without one the fall itself decides.
        counted: the metrics that are looked at; default: those that count on these references.
    """
    if record.status != "ok":
        return Verdict(record.status, (record.error or "").splitlines()[0] if record.error else record.status)
    if counted is None:
        counted = basis(clean, compromised).weights
    start = gaps_of(compromised, clean, compromised)
    gaps = {name: gap for name, gap in gaps_of(record.scores, clean, compromised).items() if name in counted}
    if not gaps:
        return Verdict("unknown", _nothing(record.scores, clean, compromised))
    largest = max(abs(gap - start[name]) for name, gap in gaps.items())
    if record.weight_change == 0 or largest <= at.moved:
        moved = "" if record.weight_change is None else f"; weights changed by {record.weight_change:.2g}"
        return Verdict("no effect", f"No metric's gap moved by more than {largest:.3f}{moved}.")
    of: dict[Aspect, dict[str, ScoreRecord]] = {"general": {}, "forgetting": {}, "holdout": {}}
    for name in gaps:
        of.setdefault(record.scores[name].aspect, {})[name] = record.scores[name]
    lacking = [aspect for aspect, found in of.items() if aspect != "retained" and not found]
    if lacking:
        words = f"No {' and no '.join(lacking)} metric that counts was measured on this model and both references"
        _, left_out = informative(clean, compromised)
        return Verdict("unknown", f"{words}, or is informative there." if left_out else f"{words}.")
    for name, score in of["general"].items():
        drop, accepted = compromised[name].value - score.value, at.largest_drop(compromised[name])
        fall = (falls or {}).get(name)
        level = compromised[name].value - compromised[name].chance
        if drop > accepted and (fall is None or fall.real or drop > at.general_ruin * level):
            tested = "" if fall is None or not fall.real else f" (paired test: p {fall.in_words})"
            share = f", {drop / level:.1%} of its level" if level > 0 and compromised[name].tolerance is None else ""
            return Verdict(
                "catastrophic",
                f"{name} fell by {drop:.3f}{share} (more than {accepted:.2g}) to {score.value:.3f}{tested}.",
            )
    left = {name: left_of(score, clean[name], compromised[name]) for name, score in of["forgetting"].items()}
    found = primary(of["forgetting"], "forgetting")
    assert found is not None
    name, score = found
    looked = f"{name} *" if len(left) == 1 else f"{name} * and {len(left) - 1} more"
    if left[name] > at.forgetting_gap:
        return Verdict(
            "ineffective",
            f"{name} is {score.value:.3f}: {left[name]:.0%} of the way from Clean ({clean[name].value:.3f}) to Compromised"
            f" ({compromised[name].value:.3f}) is left, more than {at.forgetting_gap:.0%}.",
        )
    mean = sum(left.values()) / len(left)
    if mean > at.forgetting_mean:
        return Verdict(
            "ineffective",
            f"{mean:.0%} of the way from Clean to Compromised is left on average over {len(left)} forgetting metrics"
            f" ({_most(left)}), more than {at.forgetting_mean:.0%}, though {name} is near Clean.",
        )
    name = max(of["holdout"], key=lambda holdout: gaps[holdout])
    if gaps[name] > at.holdout_gap:
        return Verdict(
            "over-generalised",
            f"{name} moved {gaps[name]:.0%} of the way from Compromised to Clean, more than {at.holdout_gap:.0%}, and nobody asked.",
        )
    most = max(left, key=lambda metric: left[metric])
    if left[most] > at.forgetting_gap:
        return Verdict(
            "ineffective",
            f"Kept the rest, and of {most} {left[most]:.0%} of the way from Clean to Compromised is left, more than"
            f" {at.forgetting_gap:.0%}.",
        )
    return Verdict(
        "selective",
        f"Forgot the requested associations ({looked}: at most {left[most]:.0%} left); {name} kept within {gaps[name]:.0%}.",
    )


def _most(left: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {left[name]:.0%}" for name in sorted(left, key=lambda name: -left[name])[:3])


def _nothing(scores: Scores, clean: Scores, compromised: Scores) -> str:
    _, left_out = informative(clean, compromised)
    if any(name in scores for name in left_out):
        return "No metric that counts is informative here: Clean and Compromised cannot be told apart by any."
    return "No metric that counts was measured on this model and on both reference rows."


def with_attacks(verdict: Verdict, attacked: Attacked, at: Thresholds = Thresholds()) -> Verdict:
    """The verdict once attacks are known: what reads selective and gives the facts back to a cheap attack is superficial. Without
    attacks it stays as it is."""
    most = attacked.most
    if verdict.name != "selective" or most is None or most.recovered is None or most.recovered <= at.recovered:
        return verdict
    return Verdict(
        "superficial",
        f"{most.audit} brings {most.recovered:.0%} back, more than {at.recovered:.0%} of what it gets from Compromised"
        f" ({most.value:.3f}; Clean {most.clean:.3f}, Compromised {most.compromised:.3f}). Without an attack: {verdict.reason}",
    )


def primary(scores: Scores, aspect: Aspect) -> tuple[str, ScoreRecord] | None:
    """The primary metric of an aspect; the first one where none is marked."""
    of_aspect = [(name, score) for name, score in scores.items() if score.aspect == aspect]
    marked = [item for item in of_aspect if item[1].primary]
    return next(iter(marked or of_aspect), None)


def recovered_words(attacked: Attacked) -> str:
    """What attacks brought back, in a sentence."""
    at = Thresholds()
    most = attacked.most
    if most is None:
        tried = len(attacked.results)
        return (
            "Nothing was attacked: whether an attack brings the data back was not tried."
            if not tried
            else f"{tried} attacks were run; none of them needs the model alone and tells what was learned from what never was."
        )
    counted = sum(item.counts for item in attacked.results)
    word = "Yes" if (most.recovered or 0.0) > at.recovered else "No"
    return (
        f"{word}: of {counted} attacks on the model alone, {most.audit} brings most back, {most.recovered:.0%} of what it gets from"
        f" the model before beyond one that never learned it (at most {at.recovered:.0%} is accepted)."
    )
