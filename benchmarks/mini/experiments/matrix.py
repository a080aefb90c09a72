"""What the runs of the head-to-head say: gaps, verdicts, intervals, paired tests. Pure functions of the stored results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np

from salmu_core.records.gaps import gaps_of
from salmu_core.records.overall import overall_score
from salmu_core.records.paired import OVERALL_NOISE, PairedTest, hierarchical_interval, holm, paired_test
from salmu_core.records.schema import RunRecord, RunSpec, ScoreRecord
from salmu_core.records.verdict import RANKED, judge


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
        overall = overall_score(scores, clean, compromised)
        cells.append(
            Cell(
                run["method"],
                stored["instance"],
                run["seed"],
                run["budget"],
                run["status"],
                judge(record, clean, compromised).name,
                float("nan") if overall is None else overall,
                run["scores"],
                gaps,
                run["seconds"],
            )
        )
    return cells


def summarise(cells: Sequence[Cell]) -> list[Summary]:
    """Best first, budget by budget, those that hold no rank last. Cells without scores count in the verdicts and not in the means."""
    groups: dict[tuple[float, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.budget, cell.method), []).append(cell)
    found = []
    for (budget, method), group in groups.items():
        measured = [cell for cell in group if cell.scores]
        by_instance: dict[int, list[float]] = {}
        for cell in measured:
            by_instance.setdefault(cell.instance, []).append(cell.overall)
        low, high = hierarchical_interval(by_instance) if by_instance else (float("nan"),) * 2
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
                gaps={name: float(np.mean([cell.gaps[name] for cell in measured])) for name in names},
                seconds=float(np.mean([cell.seconds for cell in group])),
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


def _mean_sd(groups: Iterable[Sequence[float]]) -> float:
    """Mean standard deviation of the groups that have one; no number where none has."""
    found = [float(np.std(values, ddof=1)) for values in groups if len(values) > 1]
    return float(np.mean(found)) if found else float("nan")


def worst_verdict(verdicts: Mapping[str, int]) -> str:
    """The worst of a group's verdicts: a method is as good as its worst run."""
    order = ["failed", "diverged", "unknown", "no effect", "catastrophic", "ineffective", "over-generalised", "selective"]
    return min(verdicts, key=order.index)


def against_the_best(cells: Sequence[Cell], summaries: Sequence[Summary], budget: float) -> list[Difference]:
    """Paired differences of the overall score to the best method at a budget whose every verdict can hold a rank, tested as `salmu
    compare` does: over instances (of the means over seeds), or over seeds where there is one instance, and corrected for every two
    methods at that budget, because which one is the best is read from the same runs."""
    ranked = [s for s in summaries if s.budget == budget and worst_verdict(s.verdicts) in RANKED]
    if not ranked:
        return []
    best = ranked[0].method
    values: dict[str, dict[int, dict[int, float]]] = {}
    for cell in cells:
        if cell.budget == budget and cell.scores:
            values.setdefault(cell.method, {}).setdefault(cell.instance, {})[cell.seed] = cell.overall
    tests: dict[tuple[str, str], PairedTest] = {}
    for first, second in combinations(sorted(values), 2):
        units = [
            [values[first][place][seed] - values[second][place][seed] for seed in sorted(values[first][place].keys() & values[second][place].keys())]
            for place in sorted(values[first].keys() & values[second].keys())
        ]  # fmt: skip
        units = [unit for unit in units if unit]
        if units:
            differences = [float(np.mean(unit)) for unit in units] if len(units) > 1 else units[0]
            tests[first, second] = paired_test(differences, noise=OVERALL_NOISE)
    corrected = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
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
