"""An inspection in sentences, for a reader who decides on a deletion request and knows no metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from salmu_core.comparison.verdict import Thresholds
from salmu_deletion.wording import Outcome, kind_of_fact

if TYPE_CHECKING:
    from salmu_deletion.inspection.inspect import Inspection

MODEL_WORDS = {"compromised": "Before", "unlearned": "After", "clean": "Never learned"}
GROUP_WORDS = {
    "forget": "others that were to be forgotten too",
    "holdout": "associations that nobody asked to remove",
    "retain": "ordinary pairs",
}


def sentences(found: Inspection) -> list[str]:
    """What was asked, what the model does before, after and without ever having learned it, a conclusion, and who else moved."""
    pairs, summary = found.pairs, found.summary()
    facts = sorted(
        {kind_of_fact(pair.row.field) for pair in pairs if pair.row.field and not pair.row.field.startswith("fact-")}
    )
    who = found.title + (f" ({pairs[0].row.name})" if pairs[0].row.name and pairs[0].row.name != found.title else "")
    count = (
        f"{len(pairs)} picture{'s' if len(pairs) > 1 else ''} with {'their captions' if len(pairs) > 1 else 'its caption'}"
    )
    about = f", about {', '.join(facts[:6])}{' and more' if len(facts) > 6 else ''}" if facts else ""
    asked = {
        "forget": f"The model was asked to forget {count} of {who}{about}.",
        "holdout": f"Nobody asked to forget {who}: {count}{about}. They should be as before.",
        "retain": f"{who} is ordinary data: {count}. It should be as before.",
    }[found.group]
    lines = [asked]
    for which, words in (
        ("compromised", "Before"),
        ("unlearned", "After"),
        ("clean", "On pairs that were never learned" if found.stand_in else "A model that never learned them"),
    ):
        if which in summary and summary[which]["measured"]:
            facts_of = summary[which]
            lines.append(
                f"{words}: for {facts_of['of_person']:.0f} of {facts_of['measured']:.0f} pictures the most similar of"
                f" {found.gallery:,} captions tells of {'it' if pairs[0].row.identity is None else 'this person'}, for"
                f" {facts_of['first']:.0f} it is exactly the right one. The right one's median rank is"
                f" {facts_of['median_rank']:,.0f}."
            )
    lines.append(f"Conclusion: {_first_small(conclusion(found)[1])}")
    if found.attacks and found.group == "forget":
        lines.append(f"Does an attack bring back what was to be forgotten, of all people? {found.attacks}")
    for group, counts in found.affected.items():
        changed = counts["weaker"] + counts["stronger"]
        lines.append(
            f"Of {counts['associations']:,.0f} {GROUP_WORDS[group]}, {changed:,.0f} changed noticeably"
            f" ({counts['weaker']:,.0f} weaker, {counts['stronger']:,.0f} stronger)."
        )
    return lines


def conclusion(found: Inspection) -> tuple[Outcome, str]:
    """By mean reciprocal rank and similarity, with the thresholds of verdicts."""
    at, summary = Thresholds(), found.summary()
    before, after, never = summary["compromised"], summary["unlearned"], summary.get("clean")
    if never is None or never["mean_reciprocal_rank"] is None:
        return "unknown", "There is nothing to compare with, so whether this counts as forgotten cannot be said."
    left = _share(before["mean_reciprocal_rank"], after["mean_reciprocal_rank"], never["mean_reciprocal_rank"])
    closeness = _share(before["similarity"], after["similarity"], never["similarity"])
    if left is None:
        return "unknown", (
            "Before, the model found these captions no better than one that never learned them. There was little to forget, or this"
            " cannot show it."
        )
    share = f"{max(0.0, left):.0%} of what the model knew beyond one that never learned it is"
    if found.group != "forget":
        kept: tuple[Outcome, str] = ("good", "It is kept") if left >= 1 - at.holdout_gap else ("bad", "It is lost")
        kept = ("part", "It is damaged") if 0.5 <= left < 1 - at.holdout_gap else kept
        return kept[0], f"{kept[1]}. {share} there."
    if left > 0.9:
        return "bad", f"Not forgotten. {share} still there."
    if left > at.forgetting_gap:
        return "part", f"Forgotten in part only. {share} still there."
    found_no_better = "The captions are found no better than by a model that never learned them."
    if closeness is not None and closeness < -at.forgetting_gap:
        return "part", (
            f"Forgotten, and too much. {found_no_better} But picture and caption are pushed apart farther than there, which can be"
            " noticed from outside."
        )
    return "good", f"Forgotten. {found_no_better}"


def _first_small(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _share(before: float | None, after: float | None, never: float | None) -> float | None:
    """What is left of before, 0 at never learned; None where before and never are alike."""
    if before is None or after is None or never is None or abs(before - never) < 1e-3:
        return None
    return (after - never) / (before - never)
