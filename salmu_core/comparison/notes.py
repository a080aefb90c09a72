"""Sentences that a leaderboard's reader must know."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from salmu_core.comparison.differences import PairedDifference
from salmu_core.comparison.leaderboard import Row
from salmu_core.comparison.overall import INDISCRIMINATE
from salmu_core.comparison.paired import OVERALL_NOISE
from salmu_core.comparison.pairing import Instance, JudgedRun
from salmu_core.comparison.ranks import section
from salmu_core.comparison.verdict import RANKED
from salmu_core.files.names import some
from salmu_core.records.schema import RunRecord

#: A note names methods that encoded more captions than so many times the pairs of their budget: only runs of versions that did not
#: limit it can (`runner/budget.py`).
MANY_CAPTIONS = 5


def work_notes(rows: Sequence[tuple[Row, Sequence[JudgedRun]]]) -> list[str]:
    """Who did more with captions than the budget, which counts pairs, lets one think."""
    notes = []
    for row, judged in rows:
        texts = row.encoded.get("text", 0)
        pairs = max(sum(run.record.cost.allowed.values()) for run in judged)
        if texts > MANY_CAPTIONS * pairs > 0:
            notes.append(
                f"{row.title} put {texts:,} captions through an encoder, {texts / pairs:.0f} times as many as the pairs that its"
                " budget allows: captions that are read on their own are shown and not charged."
            )
    return notes


def attack_notes(rows: Sequence[Row], judged: Sequence[JudgedRun]) -> list[str]:
    """What a reader must know of the column of what attacks got back."""
    notes = [run.attacked.problem for run in judged if run.attacked.problem]
    tried = {row.title: frozenset(row.attacks) for row in rows if row.attacked_runs}
    if len(set(tried.values())) > 1:
        every = frozenset.union(*tried.values())
        fewer = [title for title, names in tried.items() if names != every]
        notes.append(
            f"Not every row was attacked in the same ways: {', '.join(fewer)} had fewer of the {len(every)} attacks, and more attacks"
            " find more. `salmu compare` with --audits runs those that are missing."
        )
    partly = [row.title for row in rows if 0 < row.attacked_runs < row.runs]
    if partly:
        notes.append(f"Only some runs were attacked: {', '.join(partly)}.")
    return notes


def score_notes(instances: Sequence[Instance], records: Sequence[RunRecord], score_with: Collection[str]) -> list[str]:
    """What a reader must know of how these rows are scored."""
    found = instances[0].basis
    notes = list(found.left_out.values())
    compromised = instances[0].scores("compromised")
    packages = instances[0].references["compromised"].provenance.metric_packages if compromised else {}
    several = len({packages[name].name for name in compromised if name in packages}) > 1
    if several and all(score.weight is None for score in compromised.values()):
        notes.append("The benchmark does not name the metrics that count here, so all that were measured count.")
    unnamed = [name for name, score in compromised.items() if score.weight == 0 and name not in score_with]
    if unnamed:
        notes.append(
            f"Shown and not counted, since the benchmark does not name {'it' if len(unnamed) == 1 else 'them'}: {', '.join(unnamed)}."
            f" --score-with {unnamed[0]} counts it."
        )
    if score_with:
        notes.append(f"Asked to count beside the benchmark's metrics: {', '.join(score_with)}.")
    lacking = {
        name for record in records if record.kind != "reference" and record.scores for name in found.missing(record.scores)
    }
    if lacking:
        notes.append(
            f"Some runs lack {', '.join(sorted(lacking))} and have no overall score: `salmu rescore` on this folder measures it."
        )
    return notes


def control_notes(rows: Sequence[Row]) -> list[str]:
    """How the methods stand beside the best control; a warning where a control does what none should."""
    controls = [row for row in rows if row.control and not row.oracle and row.verdict in RANKED and row.overall is not None]
    methods = [row for row in rows if section(row) == 0 and row.overall is not None]
    if not controls:
        return []
    best = max(controls, key=lambda row: row.overall or 0.0)
    above = sum((row.overall or 0.0) > (best.overall or 0.0) for row in methods)
    words = (
        f"The best control, {best.title}, scores {best.overall:.3f}; {above} of {len(methods)} ranked methods score more."
    )
    if (best.overall or 0.0) > INDISCRIMINATE or any(row.verdict == "selective" for row in controls):
        words += " A control should read neither selective nor above 0.25: scores on this data say little."
    return [words]


def testing_note(differences: Sequence[PairedDifference]) -> str:
    """What stands behind the ranks, and what does not, for whoever reads the table."""
    if not differences:
        return ""
    drawn = [found for found in differences if found.unit != "deterministic"]
    weakest = min(drawn or differences, key=lambda found: (found.unit != "single run", found.units))
    identities = "" if all(d.identity_low is not None for d in differences) else (
        " Some runs kept no rows by identity (made by salmu 0.1), so what other people would change is not covered."
    )  # fmt: skip
    counted = f"{len(differences)} comparison{'s' if len(differences) > 1 else ''}"
    if weakest.unit == "deterministic":
        return f"Every seed gives the same models, so a difference is judged by identities alone; corrected for {counted}.{identities}"
    if weakest.unit == "single run":
        return (
            "One run of a method: training-seed noise is not covered by data. A difference counts only where it exceeds noise that is"
            f" assumed to be large (standard deviation {OVERALL_NOISE:g} in the overall score of a run); corrected for {counted}."
            f" --seeds 0,1,2,3,4 measures it.{identities}"
        )
    pairs = f"{weakest.units} {weakest.unit}{'s' if weakest.units > 1 else ''}"
    few = "" if weakest.units > 4 else " So few tell only large differences; more of them tell smaller ones."
    return f"Paired over {pairs} (at least), corrected for {counted} by Holm's method.{few}{identities}"


def fault_notes(records: Sequence[RunRecord]) -> list[str]:
    """What went wrong in metrics, and what plugins did that they should not have, each with the runs that it is of."""
    found: dict[str, list[str]] = {}
    for record in records:
        title = record.spec.start if record.kind == "reference" else f"{record.spec.method} seed {record.spec.seed}"
        for name, why in record.broken.items():
            found.setdefault(f"The metric {name} failed: {why}.", []).append(title)
        for warning in record.warnings:
            found.setdefault(warning, []).append(title)
    return [f"{sentence} ({some(titles)})" for sentence, titles in found.items()]


def undeclared_notes(ordered: Sequence[tuple[Row, Sequence[JudgedRun]]]) -> list[str]:
    """Which methods read metadata that they do not declare."""
    return [
        f"{row.title} reads metadata that it does not declare: {', '.join(undeclared)}."
        for row, judged in ordered
        if (undeclared := sorted({name for run in judged for name in run.record.undeclared}))
    ]
