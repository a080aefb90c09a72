"""What the runs of the head-to-head say: gaps, verdicts, intervals, paired tests. Pure functions of the stored results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np

from salmu_core.comparison.gaps import gaps_of
from salmu_core.comparison.overall import Parts, basis
from salmu_core.comparison.paired import OVERALL_NOISE, holm, mean_intervals, paired_tests
from salmu_core.comparison.verdict import RANKED, judge
from salmu_core.records.schema import RunRecord, RunSpec, ScoreRecord


@dataclass(frozen=True)
class Cell:
    """One run: a method on one instance of the benchmark with one training seed."""

    method: str
    instance: int
    seed: int
    budget: float
    status: str
    verdict: str
    overall: float
    scores: Mapping[str, float]
    gaps: Mapping[str, float]
    seconds: float
    parts: Parts | None = None


@dataclass(frozen=True)
class Summary:
    """A method at one budget over instances and seeds."""

    method: str
    budget: float
    cells: int
    overall: float
    low: float
    high: float
    over_instances: float
    over_seeds: float
    verdicts: Mapping[str, int]
    scores: Mapping[str, float]
    gaps: Mapping[str, float]
    seconds: float
    parts: Parts | None = None


@dataclass(frozen=True)
class Difference:
    """A method against the best one at its budget."""

    method: str
    best: str
    budget: float
    mean: float
    low: float
    high: float
    p: float
    corrected: float


def cells_of(stored: Mapping[str, Any]) -> list[Cell]:
    """Judge the stored runs of one instance against its own references.

    Args:
        stored: `instance`, `references` (score records of clean and compromised) and `runs`, as `head_to_head.py` keeps them.
    """
    references = {
        which: {name: ScoreRecord(**score) for name, score in scores.items()}
        for which, scores in stored["references"].items()
    }
    clean, compromised = references["clean"], references["compromised"]
    cells = []
    for run in stored["runs"]:
        scores = {name: compromised[name].model_copy(update={"value": value}) for name, value in run["scores"].items()}
        record = RunRecord(
            id=run["id"], status=run["status"], spec=RunSpec(method=run["method"]), scores=scores,
            weight_change=run["weight_change"], error=run["error"], created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )  # fmt: skip
        gaps = gaps_of(scores, clean, compromised)
        parts = basis(clean, compromised).of(scores)
        cells.append(
            Cell(
                run["method"],
                stored["instance"],
                run["seed"],
                run["budget"],
                run["status"],
                judge(record, clean, compromised).name,
                float("nan") if parts is None else float(parts.overall),
                run["scores"],
                gaps,
                run["seconds"],
                parts,
            )
        )
    return cells


def summarise(cells: Sequence[Cell]) -> list[Summary]:
    """Best first, budget by budget, those that hold no rank last. Cells without scores count in the verdicts and not in the means."""
    groups: dict[tuple[float, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.budget, cell.method), []).append(cell)
    overalls = {key: _by_instance(group) for key, group in groups.items()}
    intervals: dict[tuple[float, str], tuple[float, float]] = {}
    for at in {budget for budget, _ in groups}:  # methods of one budget lend each other what their variances have in common
        keys = [key for key, values in overalls.items() if key[0] == at and values]
        intervals |= zip(keys, mean_intervals([list(overalls[key].values()) for key in keys]), strict=True)
    found = []
    for (budget, method), group in groups.items():
        measured = [cell for cell in group if cell.scores]
        by_instance = overalls[budget, method]
        low, high = intervals.get((budget, method), (float("nan"),) * 2)
        instance_means = [float(np.mean(values)) for values in by_instance.values()]
        names = list(measured[0].scores) if measured else []
        found.append(
            Summary(
                method=method,
                budget=budget,
                cells=len(group),
                overall=float(np.mean(instance_means)) if instance_means else float("nan"),
                low=low,
                high=high,
                over_instances=_mean_sd([instance_means]),
                over_seeds=_mean_sd(by_instance.values()),
                verdicts=dict(Counter(cell.verdict for cell in group).most_common()),
                scores={name: float(np.mean([cell.scores[name] for cell in measured])) for name in names},
                # Not a number where an instance cannot tell the references apart by a metric.
                gaps={name: float(np.mean([cell.gaps.get(name, np.nan) for cell in measured])) for name in names},
                seconds=float(np.mean([cell.seconds for cell in group])),
                parts=mean_parts([cell.parts for cell in measured if cell.parts is not None]),
            )
        )
    # What was ruined or left as it was stands below, whatever it scores.
    return sorted(
        found,
        key=lambda item: (
            item.budget,
            worst_verdict(item.verdicts) not in RANKED,
            -np.nan_to_num(item.overall, nan=-1e9),
        ),
    )


def mean_parts(found: Sequence[Parts]) -> Parts | None:
    """The mean of each part, and of the overall scores: their product is another number."""
    if not found:
        return None
    names = ("forgotten", "kept", "general", "overall")
    return Parts(*(float(np.mean([getattr(parts, name) for parts in found])) for name in names))


def _mean_sd(groups: Iterable[Sequence[float]]) -> float:
    """Mean standard deviation of the groups that have one; no number where none has."""
    found = [float(np.std(values, ddof=1)) for values in groups if len(values) > 1]
    return float(np.mean(found)) if found else float("nan")


def _by_instance(group: Sequence[Cell]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for cell in group:
        if cell.scores:
            found.setdefault(cell.instance, []).append(cell.overall)
    return found


def alike(cells: Sequence[Cell]) -> dict[tuple[str, float], tuple[str, float]]:
    """(method, budget) of rows that are the same as an earlier one in every score of every run, and that earlier one: a method that
    does not use its budget, or another name for the same model. They are shown and tested once."""
    runs: dict[tuple[str, float], dict[tuple[int, int], tuple[tuple[str, float], ...]]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.budget, cell.method)):
        if cell.scores:
            own = runs.setdefault((cell.method, cell.budget), {})
            own[cell.instance, cell.seed] = (("overall", cell.overall), *sorted(cell.scores.items()))
    first: dict[tuple[Any, ...], tuple[str, float]] = {}
    found = {}
    for key, own in runs.items():
        known = first.setdefault(tuple(sorted(own.items())), key)
        if known != key:
            found[key] = known
    return found


def deterministic(cells: Sequence[Cell], method: str, budget: float) -> bool:
    """Do all training seeds of an instance give the same scores, wherever there are several?"""
    by_instance: dict[int, list[Mapping[str, float]]] = {}
    for cell in cells:
        if (cell.method, cell.budget) == (method, budget) and cell.scores:
            by_instance.setdefault(cell.instance, []).append(cell.scores)
    several = [scores for scores in by_instance.values() if len(scores) > 1]
    return bool(several) and all(scores == group[0] for group in several for scores in group)


def worst_verdict(verdicts: Mapping[str, int]) -> str:
    """The worst of a group's verdicts: a method is as good as its worst run."""
    order = ["failed", "diverged", "unknown", "no effect", "catastrophic", "ineffective", "over-generalised", "selective"]
    return min(verdicts, key=order.index)


def against_the_best(
    cells: Sequence[Cell], summaries: Sequence[Summary], budget: float, among: Collection[str] | None = None
) -> list[Difference]:
    """Paired differences of the overall score to the best method at a budget whose every verdict can hold a rank, tested as `salmu
    compare` does (`paired_tests`).

    Args:
        among: take the best of these, e.g. the published methods or the controls, and correct for the comparisons with it alone. None:
            the best of all, corrected for every two methods, because which one is the best is read from the same runs.
    """
    ranked = [s for s in summaries if s.budget == budget and worst_verdict(s.verdicts) in RANKED]
    ranked = [s for s in ranked if among is None or s.method in among]
    if not ranked:
        return []
    best = ranked[0].method
    values: dict[str, dict[int, dict[int, float]]] = {}
    same = {method for method, at in alike([cell for cell in cells if cell.budget == budget]) if method != best}
    for cell in cells:
        if cell.budget == budget and cell.scores and cell.method not in same:
            values.setdefault(cell.method, {}).setdefault(cell.instance, {})[cell.seed] = cell.overall
    pairs: dict[tuple[str, str], list[list[float]]] = {}
    for first, second in combinations(sorted(values), 2):
        units = [
            [values[first][place][seed] - values[second][place][seed] for seed in sorted(values[first][place].keys() & values[second][place].keys())]
            for place in sorted(values[first].keys() & values[second].keys())
        ]  # fmt: skip
        if units := [unit for unit in units if unit]:
            pairs[first, second] = units
    tests = dict(zip(pairs, paired_tests(list(pairs.values()), noise=OVERALL_NOISE), strict=True))
    counted = [pair for pair in tests if among is None or best in pair]
    corrected = dict(zip(counted, holm([tests[pair].p for pair in counted]), strict=True))
    found = []
    for (first, second), test in tests.items():
        if best in (first, second):
            sign = 1 if second == best else -1
            low, high = sorted((sign * test.low, sign * test.high))
            other = first if second == best else second
            found.append(Difference(other, best, budget, sign * test.mean, low, high, test.p, corrected[first, second]))
    return sorted(found, key=lambda item: -item.mean)


def pareto_front(points: Mapping[str, Sequence[float]]) -> set[str]:
    """Names of the points that no other point beats: at least as good in every coordinate and better in one."""
    front = set()
    for name, point in points.items():
        beaten = any(
            all(o >= p for o, p in zip(other, point, strict=True)) and any(o > p for o, p in zip(other, point, strict=True))
            for key, other in points.items()
            if key != name
        )
        if not beaten:
            front.add(name)
    return front
