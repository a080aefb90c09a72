"""Which runs of two rows are compared, and what another draw of identities would change in their difference. Read without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from salmu_core.comparison.gaps import gap_between
from salmu_core.comparison.overall import Basis, Parts, parts_between
from salmu_core.comparison.steady import is_deterministic, weights_of
from salmu_core.comparison.verdict import Verdict
from salmu_core.records.attacks import Attacked
from salmu_core.records.rows import ClusterSums, resampled_scores
from salmu_core.records.schema import RunRecord, ScoreRecord, Target

#: Reads the per-row values of a run when they are needed; empty where they are missing.
Clusters = Callable[[], Mapping[str, ClusterSums]]
#: The runs of one row that are compared with those of another, those of one instance together.
Runs = tuple[tuple[int, ...], ...]
_BLOCK = 64  # pairs whose draws are in memory at a time
_SIDES = 512  # means of a row's draws that are kept for the next pair


@dataclass(frozen=True)
class Instance:
    """One instance of a benchmark: its reference rows, against which its runs are judged.

    Attributes:
        general: metric -> Compromised's rows, float [n], of the general metrics, against which falls are tested.
    """

    name: str
    references: Mapping[Target, RunRecord]
    clusters: Mapping[Target, Clusters]
    basis: Basis
    general: Mapping[str, np.ndarray] = field(default_factory=dict)

    def scores(self, which: Target) -> dict[str, ScoreRecord]:
        """Of a reference row; empty where it is missing."""
        return self.references[which].scores if which in self.references else {}


@dataclass(frozen=True, eq=False)
class JudgedRun:
    """A run with what its instance's references make of it.

    Attributes:
        gaps: metric -> distance to the target, of the metrics that count.
        parts: the overall score and its factors; None where it cannot be given.
    """

    record: RunRecord
    clusters: Clusters
    instance: Instance
    gaps: Mapping[str, float]
    parts: Parts | None
    verdict: Verdict
    attacked: Attacked = field(default_factory=Attacked)

    @property
    def overall(self) -> float | None:
        """The overall score."""
        return None if self.parts is None else float(self.parts.overall)


@dataclass(frozen=True)
class RunTable:
    """All runs that are compared, in arrays.

    Attributes:
        metrics: every metric that some run has a distance of.
        values: float [runs, 1 + metrics], the overall score, then each metric's distance with its sign turned, so that more is better
            throughout; NaN where a run lacks it.
        rows: for each row of the leaderboard, instance -> seed -> number of the run.
        weights: of each run, what tells its model from others; None where that is not known.
        steady: of each row, does every training seed give the same weights?
        resampled: run -> the same on resampled identities, float [1 + metrics, resamples]. Runs without rows are left out.
    """

    metrics: tuple[str, ...]
    values: np.ndarray
    rows: Sequence[Mapping[int, Mapping[int, int]]]
    weights: Sequence[object]
    steady: Sequence[bool]
    resampled: Mapping[int, np.ndarray]

    @classmethod
    def of(cls, groups: Sequence[Sequence[JudgedRun]]) -> RunTable:
        ordered = [sorted(group, key=lambda run: run.record.spec.seed) for group in groups]
        runs = [run for group in ordered for run in group]
        metrics = tuple(dict.fromkeys(name for run in runs for name in run.gaps))
        values = np.full((len(runs), 1 + len(metrics)), np.nan)
        place = {name: 1 + number for number, name in enumerate(metrics)}
        for number, run in enumerate(runs):
            values[number, 0] = run.overall
            for name, gap in run.gaps.items():
                values[number, place[name]] = -gap
        numbers: dict[str, int] = {}
        rows: list[dict[int, dict[int, int]]] = [{} for _ in groups]
        for number, (row, run) in enumerate((row, run) for row, group in enumerate(ordered) for run in group):
            instance = numbers.setdefault(run.instance.name, len(numbers))
            rows[row].setdefault(instance, {})[run.record.spec.seed] = number
        steady = [is_deterministic([(run.instance.name, run.record) for run in group]) for group in groups]
        return cls(metrics, values, rows, [weights_of(run.record) for run in runs], steady, _resampled(runs, metrics))

    def pair(self, own: int, other: int) -> tuple[Runs, Runs]:
        """Of two rows the runs of the same instance and training seed, by instance; where no seed is in common, the first with the
        first and so on. Pairs of the same two models count once, however many seeds end there."""
        ours, theirs = self.rows[own], self.rows[other]
        found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for instance, first in ours.items():
            second = theirs.get(instance, {})
            common = [seed for seed in first if seed in second]
            both = (
                [(first[seed], second[seed]) for seed in common]
                if common
                else list(zip(first.values(), second.values(), strict=False))
            )
            if different := self._different(both):
                ours_there, theirs_there = zip(*different, strict=True)
                found.append((ours_there, theirs_there))
        return tuple(runs for runs, _ in found), tuple(runs for _, runs in found)

    def _different(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        found: dict[object, tuple[int, int]] = {}
        for number, (run, other) in enumerate(pairs):
            weights = (self.weights[run], self.weights[other])
            found.setdefault(number if None in weights else weights, (run, other))
        return list(found.values())


@dataclass(frozen=True)
class RowPairs:
    """Every two rows that have runs to compare, the better one first.

    Attributes:
        rows: of each pair, the numbers of both rows.
        runs: of each pair, the runs of both.
        steady: of each pair, does no training seed change either of them?
    """

    rows: Sequence[tuple[int, int]]
    runs: Sequence[tuple[Runs, Runs]]
    steady: Sequence[bool]

    @classmethod
    def of(cls, table: RunTable) -> RowPairs:
        found = {
            (own, other): runs
            for own, other in combinations(range(len(table.rows)), 2)
            if (runs := table.pair(own, other))[0]
        }
        steady = [table.steady[own] and table.steady[other] for own, other in found]
        return cls(list(found), list(found.values()), steady)

    def differences(self, values: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Of each pair the differences of its units, float [units, 1 + metrics], and the pairs of runs behind each, int [pairs].

        A unit is an instance, where there are several, and else a pair of runs.
        """
        flat = [[run for part in side for run in part] for runs in self.runs for side in runs]
        own, other = (np.array([run for side in flat[start::2] for run in side], dtype=int) for start in (0, 1))
        single = values[own] - values[other]
        sizes = [[len(part) for part in runs] for runs, _ in self.runs]
        within = [size for parts in sizes for size in (parts if len(parts) > 1 else [1] * parts[0])]
        starts = np.cumsum([0, *within[:-1]])
        units = np.add.reduceat(single, starts, axis=0) / np.array(within)[:, None]
        ends = np.cumsum([len(parts) if len(parts) > 1 else parts[0] for parts in sizes])
        return np.split(units, ends[:-1]), np.array([min(parts) if len(parts) > 1 else 1 for parts in sizes])


def over_identities(pairs: RowPairs, table: RunTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What another draw of identities would change in each pair: the variance of the mean difference, float [pairs, 1 + metrics], 0
    where a run lacks rows; and the 95 % interval of the overall score, float [pairs] twice, NaN there.

    The draws of a few pairs are in memory at a time.
    """
    variances = np.zeros((len(pairs.rows), 1 + len(table.metrics)))
    ends = np.full((2, len(pairs.rows)), np.nan)
    sides: dict[Runs, tuple[np.ndarray, np.ndarray]] = {}  # draws without their mean [1 + metrics, resamples], and the mean

    def side(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
        if runs not in sides:
            if len(sides) >= _SIDES:
                sides.clear()
            drawn = _mean_of(runs, table.resampled)
            mean = drawn.mean(axis=1, keepdims=True)
            sides[runs] = drawn - mean, mean[:, 0]
        return sides[runs]

    known = [
        number
        for number, runs in enumerate(pairs.runs)
        if all(run in table.resampled for both in runs for part in both for run in part)
    ]
    for start in range(0, len(known), _BLOCK):
        numbers = known[start : start + _BLOCK]
        overall = []
        for number in numbers:
            (own, own_mean), (other, other_mean) = map(side, pairs.runs[number])
            moved = own - other
            variances[number] = np.nan_to_num(np.einsum("vr,vr->v", moved, moved) / (moved.shape[1] - 1))
            overall.append(moved[0] + (own_mean[0] - other_mean[0]))
        ends[:, numbers] = np.quantile(overall, [0.025, 0.975], axis=1)
    return variances, ends[0], ends[1]


def _mean_of(runs: Runs, resampled: Mapping[int, np.ndarray]) -> np.ndarray:
    """The mean over instances of the mean over seeds, on every resample of the identities."""
    means = [np.mean([resampled[run] for run in part], axis=0) for part in runs]
    # Instances have nobody in common: each is resampled on its own, so the draws of one must not go with those of another.
    turned = [np.roll(mean, 7919 * number, axis=1) if number else mean for number, mean in enumerate(means)]
    averaged: np.ndarray = np.mean(turned, axis=0)
    return averaged


def _resampled(runs: Sequence[JudgedRun], metrics: Sequence[str]) -> dict[int, np.ndarray]:
    """See `RunTable`. A run's references are drawn on the same identities."""
    by_instance: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        by_instance.setdefault(run.instance.name, []).append(number)
    found: dict[int, np.ndarray] = {}
    for numbers in by_instance.values():
        instance = runs[numbers[0]].instance
        both: tuple[Target, Target] = ("clean", "compromised")
        references = [instance.clusters[which]() for which in both if which in instance.clusters]
        tables = [runs[number].clusters() for number in numbers]
        names = list(references[0].keys() & references[1].keys()) if len(references) == 2 else []
        if not names or not any(tables):
            continue
        clean, compromised, *own = resampled_scores([*references, *tables], sorted(names))
        basis = instance.basis
        kinds, weights = basis.kinds, {name: weight for name, weight in basis.weights.items() if name in names}
        for number, values in zip(numbers, own, strict=True):
            gaps = runs[number].gaps
            if not gaps.keys() <= values.keys() or weights.keys() != basis.weights.keys():
                continue
            parts = parts_between(values, clean, compromised, kinds, weights)
            if parts is None:
                continue
            drawn = np.full((1 + len(metrics), len(np.asarray(parts.overall))), np.nan)
            drawn[0] = parts.overall
            for column, name in enumerate(metrics, start=1):
                if name in gaps:
                    drawn[column] = -gap_between(kinds[name], values[name], clean[name], compromised[name])
            found[number] = drawn
            values.clear()  # as large again for every run
    return found
