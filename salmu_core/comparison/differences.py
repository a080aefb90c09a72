"""Every two rows of a leaderboard against each other: paired runs, resampled identities, corrected for all that is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from salmu_core.comparison.paired import (
    GAP_NOISE,
    LEVEL,
    OVERALL_NOISE,
    SMALLEST_DIFFERENCE,
    alike_tests,
    holm,
)
from salmu_core.comparison.pairing import JudgedRun, RowPairs, RunTable, over_identities

Outcome = Literal["better", "tie", "worse"]
#: What repeats: nothing, seeds, instances; deterministic: no seed changes either row of a single instance.
Unit = Literal["single run", "training seed", "bench seed", "deterministic"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """One metric of a pair: by how much the row is nearer to the metric's target than the other.

    Attributes:
        difference: other's distance to the target minus the row's: positive where the row is nearer.
        low, high: 95 % interval of this comparison alone.
        p: corrected for all metrics of all pairs.
    """

    difference: float
    low: float
    high: float
    p: float
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


def paired_differences(rows: Mapping[str, Sequence[JudgedRun]]) -> tuple[PairedDifference, ...]:
    """Each row against each that follows.

    Args:
        rows: title -> its runs, best row first.
    """
    titles = list(rows)
    table = RunTable.of([[run for run in group if run.overall is not None] for group in rows.values()])
    pairs = RowPairs.of(table)
    if not pairs.rows:
        return ()
    units, seeds = pairs.differences(table.values)
    variances, low, high = over_identities(pairs, table)
    several, steady = [len(own) > 1 for own, _ in pairs.runs], np.array(pairs.steady)
    kinds: dict[tuple[bool, int], list[int]] = {}
    for number, found in enumerate(units):
        kinds.setdefault((several[number], len(found)), []).append(number)
    # Of each pair and value: the mean, the ends of its interval, and p; NaN where it was not measured.
    tests = np.full((4, len(units), 1 + len(table.metrics)), np.nan)
    for (pooled, _), numbers in kinds.items():
        differences = np.stack([units[number] for number in numbers])  # [pairs, units, values]
        for column in range(1 + len(table.metrics)):
            known = ~np.isnan(differences[:, :, column]).any(axis=1)
            where = np.array(numbers)[known]
            if len(where):
                made = alike_tests(
                    differences[known, :, column],
                    several=pooled,
                    noise=_noise(
                        OVERALL_NOISE if column == 0 else GAP_NOISE, pooled, steady[where], variances[where, column]
                    ),
                    variances=variances[where, column],
                    seeds=seeds[where],
                )
                tests[:, where, column] = made.mean, made.low, made.high, made.p
    return _described(titles, pairs, table, tests, (low, high))


def _noise(assumed: float, several: bool, steady: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """The noise of a run that each test may assume, float [n]: none (NaN) where no seed changes either row. On one instance the
    identities are then all there is to judge by, and the assumption stays where they were not kept."""
    without = np.nan if several else np.where(variances > 0, 0.0, assumed)
    return np.where(steady, without, assumed)


def _described(
    titles: Sequence[str], pairs: RowPairs, table: RunTable, tests: np.ndarray, identities: tuple[np.ndarray, np.ndarray]
) -> tuple[PairedDifference, ...]:
    """The tests as they are kept.

    Args:
        tests: float [4, pairs, 1 + metrics], see `paired_differences`.
        identities: lower and upper ends of the interval over identities alone, float [pairs]; NaN where it is unknown.
    """
    corrected = holm(tests[3, :, 0])
    measured = ~np.isnan(tests[3, :, 1:])
    of_metrics = np.full(measured.shape, np.nan)
    of_metrics[measured] = holm(tests[3, :, 1:][measured])
    outcomes = _outcomes(tests[0, :, 1:], of_metrics)
    numbers = _short(np.stack([*tests[:3, :, 1:], of_metrics], axis=-1)).tolist()
    lows, highs = ([None if np.isnan(end) else end for end in ends.tolist()] for ends in identities)
    overall = _outcomes(tests[0, :, 0], np.array(corrected))
    found = []
    for number, (own, other) in enumerate(pairs.rows):
        difference, low, high, p = tests[:, number, 0].tolist()
        details = {
            name: MetricDifference(nearer, lowest, highest, of_metric, outcome)
            for name, (nearer, lowest, highest, of_metric), outcome in zip(
                table.metrics, numbers[number], outcomes[number].tolist(), strict=True
            )
            if of_metric == of_metric  # NaN: not measured
        }
        counted = [detail.outcome for detail in details.values()]
        runs = pairs.runs[number][0]
        several = len(runs) > 1
        seeds: Unit = "deterministic" if pairs.steady[number] else "training seed" if len(runs[0]) > 1 else "single run"
        found.append(
            PairedDifference(
                row=titles[own], other=titles[other], difference=difference, low=low, high=high, p=p, corrected=corrected[number],
                outcome=overall[number], unit="bench seed" if several else seeds, units=len(runs) if several else len(runs[0]),
                identity_low=lows[number], identity_high=highs[number],
                wins=counted.count("better"), ties=counted.count("tie"), losses=counted.count("worse"), metrics=details,
            )
        )  # fmt: skip
    return tuple(found)


def _short(values: np.ndarray) -> np.ndarray:
    """Five digits: there are ten metrics for every two rows, and files of them."""
    size = np.floor(np.log10(np.maximum(abs(values), 1e-17)))
    # Powers of ten are exact up to 1e22, and what is made by one product or quotient of them is the number that five digits stand for.
    up, down = 10.0 ** np.maximum(4 - size, 0), 10.0 ** np.maximum(size - 4, 0)
    shortened: np.ndarray = np.round(values * up / down) * down / up
    return shortened


def _outcomes(differences: np.ndarray, corrected: np.ndarray) -> np.ndarray:
    decided = np.where(differences > 0, "better", "worse")
    return np.where((corrected > LEVEL) | (abs(differences) < SMALLEST_DIFFERENCE), "tie", decided)
