"""Every two rows of a leaderboard against each other: paired runs, resampled identities, corrected for all that is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from salmu_core.comparison.gaps import gap_between
from salmu_core.comparison.overall import Basis, Parts, parts_between
from salmu_core.comparison.paired import (
    GAP_NOISE,
    LEVEL,
    OVERALL_NOISE,
    SMALLEST_DIFFERENCE,
    PairedTest,
    holm,
    paired_tests,
)
from salmu_core.comparison.steady import is_deterministic, weights_of
from salmu_core.comparison.verdict import Verdict
from salmu_core.records.attacks import Attacked
from salmu_core.records.rows import ClusterSums, resampled_scores
from salmu_core.records.schema import RunRecord, ScoreRecord, Target

Outcome = Literal["better", "tie", "worse"]
#: What repeats: nothing, seeds, instances; deterministic: no seed changes either row of a single instance.
Unit = Literal["single run", "training seed", "bench seed", "deterministic"]
#: Reads the per-row values of a run when they are needed; empty where there are none.
Clusters = Callable[[], Mapping[str, ClusterSums]]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class MetricDifference(_Frozen):
    """One metric of a pair: by how much the row is nearer to the metric's target than the other."""

    difference: float = Field(description="other's distance to the target minus the row's: positive where the row is nearer")
    low: float
    high: float
    p: float = Field(description="corrected for all metrics of all pairs")
    outcome: Outcome


class PairedDifference(_Frozen):
    """A row against another."""

    row: str
    other: str
    difference: float = Field(
        description="overall score of the row minus that of the other: positive where the row is better"
    )
    low: float = Field(
        description="95 % interval of this comparison alone: training seeds and, where rows were kept, identities"
    )
    high: float
    p: float
    corrected: float = Field(description="Holm's correction for all pairs of the comparison")
    outcome: Outcome
    unit: Unit = Field(description="what the pairs are over")
    units: int
    identity_low: float | None = Field(
        None, description="95 % interval over identities alone, for these runs: what another seed would change is not in it"
    )
    identity_high: float | None = None
    wins: int = Field(0, description="metrics on which the row is significantly nearer to the target")
    ties: int = 0
    losses: int = 0
    metrics: dict[str, MetricDifference] = Field(default_factory=dict)


@dataclass(frozen=True)
class Instance:
    """One instance of a benchmark: its reference rows, against which its runs are judged."""

    name: str
    references: Mapping[Target, RunRecord]
    clusters: Mapping[Target, Clusters]
    basis: Basis

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
class _Resampled:
    """A run on resampled identities: float [1 + metrics, resamples], the overall score first, then each metric's distance."""

    names: tuple[str, ...]
    values: np.ndarray

    def pick(self, names: Sequence[str]) -> np.ndarray:
        if tuple(names) == self.names:
            return self.values
        return self.values[[0, *(1 + self.names.index(name) for name in names)]]


def paired_differences(rows: Mapping[str, Sequence[JudgedRun]]) -> tuple[PairedDifference, ...]:
    """Each row against each that follows.

    Args:
        rows: title -> its runs, best row first.
    """
    runs = {title: [run for run in group if run.overall is not None] for title, group in rows.items()}
    resampled = _resampled(run for group in runs.values() for run in group)
    pairs = [
        (title, other, units)
        for (title, own), (other, theirs) in combinations(runs.items(), 2)
        if (units := _pair(own, theirs)).pairs
    ]
    shared = [units.metrics() for _, _, units in pairs]
    identities = [units.over_identities(resampled, names) for (_, _, units), names in zip(pairs, shared, strict=True)]
    variances = [
        np.zeros(1 + len(names)) if drawn is None else drawn.var(axis=1, ddof=1)
        for names, drawn in zip(shared, identities, strict=True)
    ]
    overalls = paired_tests(
        [units.by_instance(lambda own, other: (own.overall or 0.0) - (other.overall or 0.0)) for _, _, units in pairs],
        noise=[
            units.noise(OVERALL_NOISE, float(of_pair[0])) for (_, _, units), of_pair in zip(pairs, variances, strict=True)
        ],
        variances=[float(of_pair[0]) for of_pair in variances],
    )
    of_pairs: list[dict[str, PairedTest]] = [{} for _ in pairs]
    for name in dict.fromkeys(name for names in shared for name in names):
        where = [number for number, names in enumerate(shared) if name in names]
        own = [float(variances[number][1 + shared[number].index(name)]) for number in where]
        tests = paired_tests(
            # The other's first: a shorter distance is better.
            [
                pairs[number][2].by_instance(lambda own, other, name=name: other.gaps[name] - own.gaps[name])
                for number in where
            ],
            noise=[pairs[number][2].noise(GAP_NOISE, variance) for number, variance in zip(where, own, strict=True)],
            variances=own,
        )
        for number, test in zip(where, tests, strict=True):
            of_pairs[number][name] = test
    intervals: list[tuple[float | None, float | None]] = [
        (None, None) if drawn is None else tuple(np.quantile(drawn[0], [0.025, 0.975]).tolist()) for drawn in identities
    ]
    drafts = [
        (
            title,
            other,
            units,
            overalls[number],
            {name: of_pairs[number][name] for name in shared[number]},
            intervals[number],
        )
        for number, (title, other, units) in enumerate(pairs)
    ]
    corrected = holm([overall.p for _, _, _, overall, _, _ in drafts])
    of_metrics = iter(holm([test.p for _, _, _, _, metrics, _ in drafts for test in metrics.values()]))
    found = []
    for (title, other, units, overall, metrics, (low, high)), p in zip(drafts, corrected, strict=True):
        details = {name: _metric(test, next(of_metrics)) for name, test in metrics.items()}
        outcomes = [detail.outcome for detail in details.values()]
        found.append(
            PairedDifference(
                row=title, other=other, difference=overall.mean, low=overall.low, high=overall.high, p=overall.p, corrected=p,
                outcome=_outcome(overall.mean, p), unit=units.unit, units=overall.units, identity_low=low, identity_high=high,
                wins=outcomes.count("better"), ties=outcomes.count("tie"), losses=outcomes.count("worse"), metrics=details,
            )
        )  # fmt: skip
    return tuple(found)


def _metric(test: PairedTest, corrected: float) -> MetricDifference:
    return MetricDifference(
        difference=_short(test.mean), low=_short(test.low), high=_short(test.high), p=_short(corrected),
        outcome=_outcome(test.mean, corrected),
    )  # fmt: skip


def _short(value: float) -> float:
    """Five digits: there are ten metrics for every two rows, and files of them."""
    return float(f"{value:.5g}")


def _outcome(difference: float, corrected: float) -> Outcome:
    if corrected > LEVEL or abs(difference) < SMALLEST_DIFFERENCE:
        return "tie"
    return "better" if difference > 0 else "worse"


@dataclass(frozen=True)
class _Units:
    """The pairs of runs of two rows, and what they are repetitions of.

    Attributes:
        steady: no training seed changes either of them.
    """

    pairs: Sequence[tuple[JudgedRun, JudgedRun]]
    steady: bool = False

    @property
    def instances(self) -> list[str]:
        return list(dict.fromkeys(run.instance.name for run, _ in self.pairs))

    @property
    def unit(self) -> Unit:
        if len(self.instances) > 1:
            return "bench seed"
        if self.steady:
            return "deterministic"
        return "training seed" if len(self.pairs) > 1 else "single run"

    def noise(self, assumed: float, variance: float) -> float | None:
        """The noise of a run that a test may assume: none where no seed changes either row. On one instance the identities are then
        all there is to judge by, and the assumption stays where they were not kept.

        Args:
            variance: of the mean difference, from the identities.
        """
        if not self.steady:
            return assumed
        return None if len(self.instances) > 1 else 0.0 if variance > 0 else assumed

    def metrics(self) -> list[str]:
        """The metrics that all runs of both rows have."""
        return [name for name in self.pairs[0][0].gaps if all(name in a.gaps and name in b.gaps for a, b in self.pairs)]

    def by_instance(self, difference: Callable[[JudgedRun, JudgedRun], float]) -> list[list[float]]:
        """The differences of all pairs, those of one instance together."""
        found: dict[str, list[float]] = {}
        for run, other in self.pairs:
            found.setdefault(run.instance.name, []).append(difference(run, other))
        return list(found.values())

    def over_identities(self, resampled: Mapping[JudgedRun, _Resampled], names: Sequence[str]) -> np.ndarray | None:
        """The mean differences on every resample of the identities, [1 + metrics, resamples], turned like those of `test`; None where
        a run lacks rows."""
        by_instance: dict[str, list[np.ndarray]] = {}
        for run, other in self.pairs:
            own, theirs = resampled.get(run), resampled.get(other)
            if own is None or theirs is None:
                return None
            by_instance.setdefault(run.instance.name, []).append(own.pick(names) - theirs.pick(names))
        means = [found[0] if len(found) == 1 else np.mean(found, axis=0) for found in by_instance.values()]
        # Instances have nobody in common: each is resampled on its own, so the draws of one must not go with those of another.
        turned = [np.roll(mean, 7919 * number, axis=1) if number else mean for number, mean in enumerate(means)]
        averaged: np.ndarray = turned[0] if len(turned) == 1 else np.mean(turned, axis=0)
        averaged = averaged * np.array([1, *[-1] * len(names)])[:, None]
        return averaged


def _pair(own: Sequence[JudgedRun], theirs: Sequence[JudgedRun]) -> _Units:
    """Runs of the same instance and training seed; where no seed is in common, the first with the first and so on."""
    pairs: list[tuple[JudgedRun, JudgedRun]] = []
    for name in dict.fromkeys(run.instance.name for run in own):
        first, second = (
            {run.record.spec.seed: run for run in sorted(group, key=_seed) if run.instance.name == name}
            for group in (own, theirs)
        )
        common = [seed for seed in first if seed in second]
        pairs += (
            [(first[seed], second[seed]) for seed in common]
            if common
            else zip(first.values(), second.values(), strict=False)
        )
    steady = all(is_deterministic([(run.instance.name, run.record) for run in group]) for group in (own, theirs))
    return _Units(_different(pairs), steady)


def _different(pairs: Sequence[tuple[JudgedRun, JudgedRun]]) -> list[tuple[JudgedRun, JudgedRun]]:
    """Pairs of the same two models count once, however many seeds end there."""
    found: dict[object, tuple[JudgedRun, JudgedRun]] = {}
    for number, (run, other) in enumerate(pairs):
        weights = (weights_of(run.record), weights_of(other.record))
        found.setdefault(number if None in weights else (run.instance.name, *weights), (run, other))
    return list(found.values())


def _seed(run: JudgedRun) -> int:
    return run.record.spec.seed


def _resampled(runs: Iterable[JudgedRun]) -> dict[JudgedRun, _Resampled]:
    """Every run on resampled identities, its references on the same ones. Runs without rows are left out."""
    by_instance: dict[str, list[JudgedRun]] = {}
    for run in runs:
        by_instance.setdefault(run.instance.name, []).append(run)
    found: dict[JudgedRun, _Resampled] = {}
    for group in by_instance.values():
        instance = group[0].instance
        both: tuple[Target, Target] = ("clean", "compromised")
        references = [instance.clusters[which]() for which in both]
        tables = [run.clusters() for run in group]
        names = list(references[0].keys() & references[1].keys())
        if not names or not any(tables):
            continue
        clean, compromised, *own = resampled_scores([*references, *tables], sorted(names))
        basis = instance.basis
        kinds, weights = basis.kinds, {name: weight for name, weight in basis.weights.items() if name in names}
        for run, values in zip(group, own, strict=True):
            if not run.gaps.keys() <= values.keys() or weights.keys() != basis.weights.keys():
                continue
            order = tuple(run.gaps)
            parts = parts_between(values, clean, compromised, kinds, weights)
            if parts is not None:
                gaps = [gap_between(kinds[name], values[name], clean[name], compromised[name]) for name in order]
                found[run] = _Resampled(order, np.stack([np.asarray(parts.overall), *gaps]))
    return found
