"""Paired tests, correction for many of them, and tie groups: the statistics of every comparison, and no more than that.

A method is a random thing: another training seed gives another model. So a difference between two methods is judged against how
much each of them moves when it is trained again, and that is known only from several runs. `docs/compare.md` says it in plain words
and shows, by a simulation, how often two copies of one method are told apart by mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from salmu_core.seeding import numpy_generator

#: A difference is called when its corrected p is at most this.
LEVEL = 0.05
#: Two measurements of one model on other hardware agree this far, so nothing smaller is ever called a difference.
SMALLEST_DIFFERENCE = 1e-3
#: The standard deviation of one run that is assumed where seeds cannot show it: of the overall score, and of a metric's distance to
#: its target. It is what the noisiest methods on `mini` show (benchmarks/mini/results/mini-1/aa.md); where
#: seeds show more, theirs is taken.
OVERALL_NOISE = 0.12
GAP_NOISE = 0.2


@dataclass(frozen=True)
class PairedTest:
    """The mean of paired differences, and what it is worth.

    Attributes:
        mean: of the differences.
        low, high: 95 % interval of one comparison on its own; the p of `holm` counts all that are made.
        p: two-sided.
        units: differences behind it.
    """

    mean: float
    low: float
    high: float
    p: float
    units: int


def paired_test(
    differences: Sequence[float], *, variance: float = 0.0, noise: float | None = None, spread_covers: bool = False
) -> PairedTest:
    """Is the mean of paired differences zero? Made for few of them, one included.

    Two tests are made, and the smaller p counts, doubled because there were two tries:

    - a t-test that takes the spread from the differences (from two on). It assumes nothing about the methods, and with two or three
      differences it hardly ever finds anything;
    - a normal test that takes `noise` for the standard deviation of every run, or the spread of the differences where that is larger.
      With one difference it is the only one.

    Args:
        differences: float [n], one for each unit of replication (a pair of runs, or the mean of an instance's pairs).
        variance: of the mean, from the identities (or other clusters) that metrics are averaged over.
        spread_covers: the differences vary by who is in them already, so the t-test needs no `variance` on top.
        noise: assumed standard deviation of one run; None: only the t-test is made.

    Raises:
        ValueError: no differences, or a single one without `noise`.
    """
    count = len(differences)
    if count == 0 or (count == 1 and noise is None):
        raise ValueError("A paired test needs two differences, or one and an assumed noise.")
    mean = math.fsum(differences) / count
    spread = math.fsum((value - mean) ** 2 for value in differences) / (count - 1) if count > 1 else 0.0
    tests: list[tuple[float, float]] = []  # p, and half the length of the interval at half the level
    tries = (count > 1) + (noise is not None)
    share = (1 - LEVEL / tries) / 2 + 0.5
    if count > 1:
        error = math.sqrt(spread / count + (0.0 if spread_covers else variance))
        tests.append(
            (2 * float(special.stdtr(count - 1, -_ratio(mean, error))), error * float(special.stdtrit(count - 1, share)))
        )
    if noise is not None:
        error = math.sqrt(max(2 * noise**2, spread) / count + variance)
        tests.append((2 * float(special.ndtr(-_ratio(mean, error))), error * float(special.ndtri(share))))
    reach = min(half for _, half in tests)
    return PairedTest(mean, mean - reach, mean + reach, min(1.0, tries * min(p for p, _ in tests)), count)


def _ratio(mean: float, error: float) -> float:
    if error == 0:
        return 0.0 if mean == 0 else float("inf")
    return abs(mean) / error


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the chance of one false claim among all comparisons stays at the level, however they
    depend on each other. In the order given."""
    order = np.argsort(np.asarray(ps, dtype=np.float64), kind="stable")
    corrected = [0.0] * len(ps)
    highest = 0.0
    for position, index in enumerate(order):
        highest = max(highest, min(1.0, ps[index] * (len(ps) - position)))
        corrected[index] = highest
    return corrected


def tie_groups(ordered: Sequence[str], worse: Callable[[str, str], bool]) -> dict[str, int]:
    """Name -> number of its tie group, from 1.

    The best row opens the first group, and all rows that are not significantly worse than it belong to it. The best of those left
    opens the next, and so on. So every row is in one group, ties are transitive, and every row is significantly worse than the
    best row of each better group. Two rows of one group may differ significantly from each other.

    Args:
        ordered: best first.
        worse: is the first significantly worse than the second?
    """
    left = list(ordered)
    groups: dict[str, int] = {}
    number = 0
    while left:
        number += 1
        leader = left[0]
        groups |= {name: number for name in left if name == leader or not worse(name, leader)}
        left = [name for name in left if name not in groups]
    return groups


def shared_ranks(groups: Mapping[str, int]) -> dict[str, int]:
    """Name -> rank: one more than the number of rows in better groups (1, 1, 3)."""
    return {name: 1 + sum(other < group for other in groups.values()) for name, group in groups.items()}


def hierarchical_interval(values: Mapping[int, Sequence[float]], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over instances of the mean over seeds: instances are drawn first, then their seeds.

    Args:
        values: instance -> one value for each seed.
    """
    rng = numpy_generator(0, "head to head")
    instances = sorted(values)
    means = []
    for _ in range(draws):
        chosen = rng.choice(instances, len(instances))
        means.append(np.mean([np.mean(rng.choice(values[one], len(values[one]))) for one in chosen]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
