"""A row's failure mode in words: what the verdict means, what it is called elsewhere, and what in the numbers says so."""

from __future__ import annotations

from salmu_core.comparison.leaderboard import Comparison, Row
from salmu_core.records.schema import Aspect

VERDICTS = {
    "selective": "The requested associations are gone and nothing else changed. The goal.",
    "superficial": "The requested associations are gone and nothing else changed, as long as nobody attacks: a cheap attack on"
    " the model brings them back.",
    "over-generalised": "The requested associations are gone, general knowledge stays, but associations nobody asked to remove are"
    " erased too.",
    "ineffective": "The requested associations survive, all of them or some of what is measured of them.",
    "catastrophic": "General knowledge fell: the model is damaged. Holds no rank.",
    "no effect": "The model is as it was. Holds no rank.",
    "diverged": "The loss stopped being finite. Holds no rank.",
    "failed": "The run ended with an error. Holds no rank.",
    "unknown": "A metric or a reference row that the verdict needs is missing. Holds no rank.",
}
#: What papers call it. The first three are SALMUBench's failure modes.
ELSEWHERE = {
    "over-generalised": "SALMUBench calls this over-generalised forgetting; elsewhere it is over-forgetting or over-unlearning.",
    "ineffective": "SALMUBench calls this ineffective; elsewhere it is under-forgetting or under-unlearning.",
    "catastrophic": "SALMUBench calls this catastrophic; elsewhere it is catastrophic forgetting, or catastrophic collapse where"
    " an unbounded loss is climbed.",
}
PAST_CLEAN = 0.1  # of the way from Compromised to Clean: farther behind Clean than this is worth a sentence
_KEPT: dict[Aspect, str] = {
    "holdout": "Associations nobody asked to remove",
    "general": "General knowledge",
    "retained": "Ordinary pictures near the forgotten people",
}


def explain(row: Row, comparison: Comparison) -> list[str]:
    """Sentences for a reader, the most general one first; none for a row without a verdict."""
    if not row.verdict:
        return []
    words = [VERDICTS.get(row.verdict, row.verdict)]
    if row.reason:
        words.append(row.reason)
    if len(row.verdicts) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in row.verdicts.items())
        words.append(f"Over seeds: {counted}; the worst one is shown.")
    if read := reading(row):
        words.append(read)
    return words + _forgotten(row, comparison) + _recovered(row) + _kept(row, comparison) + _against_others(row)


def _recovered(row: Row) -> list[str]:
    """What attacks brought back; nothing for a row that was never attacked."""
    if row.recovered is None:
        return []
    others = sorted(row.attacks.items(), key=lambda item: -item[1])[1:4]
    words = f"Of {len(row.attacks)} attacks on the model alone, {row.recovered_by} brings most back: {row.recovered:.0%}"
    return [words + (f" ({', '.join(f'{name} {share:.0%}' for name, share in others)})." if others else ".")]


def reading(row: Row) -> str:
    """What was read beside batches of pairs and how much was encoded, in a sentence; empty where nothing is known."""
    parts = []
    if row.captions:
        parts.append(f"captions read: {', '.join(f'{role} {count}' for role, count in row.captions.items())}")
    if row.columns:
        parts.append("columns read: " + ", ".join(f"{role} {' '.join(names)}" for role, names in row.columns.items()))
    if any(row.encoded.values()):
        parts.append(
            f"encoded while it unlearned: {row.encoded.get('image', 0):,} pictures, {row.encoded.get('text', 0):,} captions"
        )
    words = "; ".join(parts)
    return f"{words[0].upper()}{words[1:]}." if words else ""


def _forgotten(row: Row, comparison: Comparison) -> list[str]:
    """How many forgetting metrics have come to Clean, and which went past it."""
    words = []
    measured = [m for m in comparison.metrics if m.aspect == "forgetting" and _gap(row, m.name) is not None]
    limit = comparison.thresholds.get("forgetting_gap")
    if measured and limit is not None:
        near = [m.name for m in measured if (_gap(row, m.name) or 0.0) <= limit]
        words.append(f"{len(near)} of {len(measured)} forgetting metrics came within {limit:.0%} of Clean{_listed(near)}.")
    past = []
    for metric in measured:
        if metric.clean is None or metric.compromised is None or metric.clean == metric.compromised:
            continue
        behind = (metric.clean - row.cells[metric.name].value) / (metric.compromised - metric.clean)
        if behind > PAST_CLEAN:
            past.append(f"{metric.name} by {behind:.0%} of the way")
    if past:
        words.append(
            f"Went past Clean ({', '.join(past)}): these pairs now fit worse than in a model that never saw them. That can give"
            " away what was removed (the Streisand effect) and often takes neighbours along."
        )
    return words


def _kept(row: Row, comparison: Comparison) -> list[str]:
    """The metric of each other aspect that moved farthest."""
    words = []
    for aspect, what in _KEPT.items():
        gaps = {m.name: _gap(row, m.name) for m in comparison.metrics if m.aspect == aspect}
        moved = {name: gap for name, gap in gaps.items() if gap is not None}
        if moved:
            worst = max(moved, key=lambda name: moved[name])
            words.append(f"{what}: {worst} is farthest from Compromised, at a distance of {moved[worst]:.2f}.")
    return words


def _against_others(row: Row) -> list[str]:
    """What paired tests say, where the comparison has made them."""
    wins, ties, losses = (row.wins, row.ties, row.losses)
    if not wins + ties + losses:
        return []
    return [f"Overall, by paired tests: better than {wins} other rows, not to be told from {ties}, worse than {losses}."]


def _gap(row: Row, metric: str) -> float | None:
    return row.cells[metric].gap if metric in row.cells else None


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
