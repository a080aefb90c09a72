"""SALMUBench's published table beside the stored runs: readings, the two holdouts, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from matrix import Summary
from scipy import stats

from salmu_core.benchmark import PublishedRow
from salmu_core.comparison.gaps import gaps_of
from salmu_core.comparison.verdict import judge
from salmu_core.records.schema import RunRecord, RunSpec, ScoreRecord
from salmubench.published import published_rows

#: Methods that SALMUBench's table has, by its name for them. Its DELETE and CLIPErase are taken to be those of its authors' code.
IN_THE_PAPER = {
    "CLIPErase": "cliperase-salmubench",
    "DELETE": "delete-salmubench",
    "VLUnlearn": "multidelete",
    "Finetuning": "retain-finetuning",
    "Negative gradient": "gradient-ascent",
    "Shuffled captions": "shuffled-captions",
    "Direct similarity minimisation": "direct-similarity-minimisation",
}
#: Named with a reading, and in no table that could be read.
WITHOUT_NUMBERS = {"generic-captions": "ineffective"}
#: What a metric of the table looks at; the rule of verdicts needs to know.
_KINDS: dict[str, dict[str, Any]] = {
    "RetFail": {"aspect": "forgetting", "target": "clean", "primary": True},
    "GenKnow": {"aspect": "general", "target": "compromised", "primary": True},
    "InterIdSim": {"aspect": "holdout", "target": "compromised"},
    "IntraIdSim": {"aspect": "holdout", "target": "compromised"},
}


@dataclass(frozen=True)
class Baseline:
    """One of the paper's baselines.

    Attributes:
        method: its name here.
        reading: what SALMUBench calls its outcome.
        verdict: the failure mode: that of salmu's rule on the published row, or the reading where no row is known.
        gaps: metric -> gap of the published row, between the Clean and Compromised of its own table.
    """

    method: str
    reading: str
    verdict: str
    gaps: Mapping[str, float]


def table_rows() -> dict[str, PublishedRow]:
    """The paper's 5x table: title -> row, Clean and Compromised among them."""
    return {row.title.removesuffix(" 5x"): row for row in published_rows("salmubench") if {*_KINDS} <= row.scores.keys()}


def baselines() -> list[Baseline]:
    """The paper's baselines that salmu has."""
    rows = table_rows()
    clean, compromised = _records(rows["Clean"].scores), _records(rows["Compromised"].scores)
    found = []
    for title, method in IN_THE_PAPER.items():
        scores = _records(rows[title].scores)
        record = RunRecord(
            id="published", status="ok", spec=RunSpec(method=method), scores=scores, created_at=datetime(2026, 1, 1, tzinfo=UTC)
        )  # fmt: skip
        reading = rows[title].note.removeprefix("Reading: ").removesuffix(".")
        gaps = gaps_of(scores, clean, compromised)
        found.append(Baseline(method, reading, judge(record, clean, compromised).name, gaps))
    return [*found, *(Baseline(method, reading, reading, {}) for method, reading in WITHOUT_NUMBERS.items())]


def _records(scores: Mapping[str, float]) -> dict[str, ScoreRecord]:
    return {name: ScoreRecord.model_validate({"value": scores[name], **kind}) for name, kind in _KINDS.items()}


def agreement(verdict: str, here: Mapping[str, int]) -> str:
    """Do the verdicts of the runs here agree with the paper's?"""
    return "yes" if set(here) == {verdict} else "in part" if verdict in here else "no"


def holdout_distance(gaps: Mapping[str, float]) -> float:
    """How far apart the gaps of InterIdSim and IntraIdSim are."""
    return abs(gaps["InterIdSim"] - gaps["IntraIdSim"])


def baseline_rows(summaries: Sequence[Summary], budget: float) -> list[list[str]]:
    """Each baseline of the paper: its reading and holdouts there, verdicts and holdouts here."""
    own = {s.method: s for s in summaries if s.budget == budget and s.scores}
    rows = []
    for item in baselines():
        if item.method in own:
            here = own[item.method]
            listed = ", ".join(f"{name} {count}" for name, count in here.verdicts.items())
            there = f"{holdout_distance(item.gaps):.2f}" if item.gaps else "–"
            agrees = agreement(item.verdict, here.verdicts)
            rows.append(
                [item.method, item.reading, item.verdict, listed, agrees, there, f"{holdout_distance(here.gaps):.2f}"]
            )
    return rows


def rank_correlations(
    summaries: Sequence[Summary], published: Mapping[str, Mapping[str, float]], budget: float
) -> dict[str, tuple[float, int]]:
    """Spearman's correlation with the paper's table, per metric, and how many methods both have.

    Args:
        published: the paper's name of a method -> metric -> value.
    """
    own = {s.method: s for s in summaries if s.budget == budget}
    found = {}
    names = {metric for scores in published.values() for metric in scores}
    for metric in sorted(names):
        pairs = [
            (scores[metric], own[IN_THE_PAPER[title]].scores[metric])
            for title, scores in published.items()
            if title in IN_THE_PAPER and metric in scores and metric in getattr(own.get(IN_THE_PAPER[title]), "scores", {})
        ]
        if len(pairs) >= 3:
            theirs, ours = zip(*pairs, strict=True)
            found[metric] = (float(stats.spearmanr(theirs, ours).statistic), len(pairs))
    return found
