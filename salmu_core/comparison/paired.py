"""Paired tests, correction for many of them, and tie groups: the statistics of every comparison, and no more than that.

A method is a random thing: another training seed gives another model. So a difference between two methods is judged against how
much each of them moves when it is trained again, and that is known only from several runs. `docs/compare.md` says it in plain words
and shows, by a simulation, how often two copies of one method are told apart by mistake.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

#: A difference is called when its corrected p is at most this.
LEVEL = 0.05
#: Two measurements of one model on other hardware agree this far, so nothing smaller is ever called a difference.
SMALLEST_DIFFERENCE = 1e-3
#: The standard deviation of one run that is assumed where seeds cannot show it: of the overall score, and of a metric's distance to
#: its target. It is what the noisiest methods on `mini` show at 1x (benchmarks/mini/results/aa.md); where
#: seeds show more, theirs is taken.
OVERALL_NOISE = 0.08
GAP_NOISE = 0.21
#: Of the degrees of freedom that the common variance seems to be worth, the share that is believed: methods are not steady by one law,
#: some have no noise at all. Chosen by benchmarks/mini/experiments/coverage.py.
TRUST = 0.5
#: Comparisons that it takes to say what their variances have in common.
FEWEST_SPREADS = 6


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


@dataclass(frozen=True)
class Spread:
    """What the variances of many comparisons have in common.

    Attributes:
        variance: where they lie.
        degrees: how many degrees of freedom that is worth beside a comparison's own; the more alike they are, the more.
    """

    variance: float
    degrees: float


def common_spread(variances: Sequence[float] | np.ndarray, degrees: int, most: float) -> Spread | None:
    """The scaled inverse chi-squared distribution that sample variances of few differences were drawn from, by the moments of their
    logarithms: the moderated t-test of Smyth 2004 (Statistical Applications in Genetics and Molecular Biology 3, section 6.2).

    Args:
        variances: of independent sets of differences; those of 0 are left out.
        degrees: of freedom of each.
        most: the degrees of freedom that are believed at most. Comparisons share methods, so they hold less than their number says.

    Returns:
        None for fewer than `FEWEST_SPREADS` variances: too few to say what is common.
    """
    every = np.asarray(variances, dtype=np.float64)
    known = every[every > 0]
    if len(known) < FEWEST_SPREADS or degrees < 1:
        return None
    shifted = np.log(known) - special.digamma(degrees / 2) + math.log(degrees / 2)
    beyond = float(shifted.var(ddof=1) - special.polygamma(1, degrees / 2))
    prior = 2 * _inverse_trigamma(beyond) if beyond > 0 else math.inf
    at = float(shifted.mean()) + (float(special.digamma(prior / 2)) - math.log(prior / 2) if math.isfinite(prior) else 0.0)
    return Spread(math.exp(at), min(prior, most))


def _inverse_trigamma(value: float) -> float:
    """Newton's method on 1 / trigamma, which is nearly linear (Smyth 2004, appendix)."""
    found = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, found))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, found))
        found += step
        if -step / found < 1e-8:
            break
    return found


@dataclass(frozen=True)
class PairedTests:
    """Several `PairedTest`s: float [n] each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    units: int

    def each(self) -> list[PairedTest]:
        """One by one."""
        columns = (values.tolist() for values in (self.mean, self.low, self.high, self.p))
        return [PairedTest(mean, low, high, p, self.units) for mean, low, high, p in zip(*columns, strict=True)]


def paired_tests(
    pairs: Sequence[Sequence[Sequence[float]]],
    *,
    noise: float | Sequence[float | None] | None = None,
    variances: Sequence[float] = (),
    methods: int | None = None,
) -> list[PairedTest]:
    """All comparisons of a table, each from its differences by instance and seed. The one definition that leaderboards and experiments
    share.

    With several instances each gives one difference, the mean over its seeds: seeds are repetitions only within an instance. With one
    instance each seed gives one. Comparisons of equal numbers of differences lend each other what their variances have in common.

    Args:
        pairs: for each comparison, for each instance, the differences of its pairs of runs.
        noise: see `paired_test`; one for all comparisons or one for each.
        variances: of each mean, from the identities; see `paired_test`.
        methods: how many independent methods the comparisons are between; default: n, where there are n (n - 1) / 2 comparisons.
    """
    units = [[math.fsum(own) / len(own) for own in pair] if len(pair) > 1 else list(pair[0]) for pair in pairs]
    # Seeds of one instance say nothing about another, so the two kinds are not mixed.
    kinds: dict[tuple[bool, int], list[int]] = {}
    for number, (pair, found) in enumerate(zip(pairs, units, strict=True)):
        kinds.setdefault((len(pair) > 1, len(found)), []).append(number)
    tests: dict[int, PairedTest] = {}
    for (several, _), numbers in kinds.items():
        made = alike_tests(
            np.array([units[number] for number in numbers]),
            several=several,
            noise=[noise[number] for number in numbers] if isinstance(noise, Sequence) else noise,
            variances=np.array([variances[number] for number in numbers]) if len(variances) else 0.0,
            seeds=np.array([min(len(own) for own in pairs[number]) if several else 1 for number in numbers]),
            methods=methods,
        )
        tests |= zip(numbers, made.each(), strict=True)
    return [tests[number] for number in range(len(pairs))]


def alike_tests(
    differences: np.ndarray,
    *,
    several: bool,
    noise: float | Sequence[float | None] | np.ndarray | None = None,
    variances: np.ndarray | float = 0.0,
    seeds: np.ndarray | int = 1,
    methods: int | None = None,
) -> PairedTests:
    """`paired_tests` of comparisons that have equally many differences, in arrays: there are twenty thousand of two hundred rows.

    Args:
        differences: float [n, units].
        several: the differences are means of instances; otherwise seeds of one instance.
        noise: see `paired_test`; one for all or one for each, where NaN is as None.
        variances: float [n]; see `paired_test`.
        seeds: int [n], pairs of runs behind each difference.
    """
    count = differences.shape[1]
    spread = None
    if count > 1:
        # Comparisons of n methods share them: what they hold is n - 1 sets of differences.
        independent = (1 + math.sqrt(1 + 8 * len(differences))) / 2 if methods is None else methods
        common = common_spread(_moments(differences)[1], count - 1, (independent - 1) * (count - 1))
        spread = None if common is None else Spread(common.variance, TRUST * common.degrees)
    return _tests(differences, variances, noise, several, seeds, spread)


def paired_test(
    differences: Sequence[float],
    *,
    variance: float = 0.0,
    noise: float | None = None,
    spread_covers: bool = False,
    seeds: int = 1,
    spread: Spread | None = None,
) -> PairedTest:
    """Is the mean of paired differences zero? Made for few of them, one included.

    Where other comparisons say how variances lie (`spread`), there is one test: the moderated t-test, whose variance is the mean of
    the common one and of the differences' own, weighted by degrees of freedom, which add up. Otherwise two tests are made, and the
    smaller p counts, doubled because there were two tries:

    - a t-test that takes the spread from the differences (from two on). It assumes nothing about the methods, and with two or three
      differences it hardly ever finds anything;
    - a normal test that takes `noise` for the standard deviation of every run, or the spread of the differences where that is larger.
      With one difference it is the only one.

    Args:
        differences: float [n], one for each unit of replication (a pair of runs, or the mean of an instance's pairs).
        variance: of the mean, from the identities (or other clusters) that metrics are averaged over.
        spread_covers: the differences vary by who is in them already, so the t-test needs no `variance` on top.
        seeds: pairs of runs behind each difference; the assumed noise of a mean over them is smaller by their root.
        spread: what the variances of all comparisons have in common.
        noise: assumed standard deviation of one run; None: only the t-test is made.

    Raises:
        ValueError: no differences, or a single one without `noise`.
    """
    return _tests(np.array([differences], dtype=np.float64), variance, noise, spread_covers, seeds, spread).each()[0]


def _tests(
    differences: np.ndarray,
    variance: np.ndarray | float,
    noise: float | Sequence[float | None] | np.ndarray | None,
    spread_covers: bool,
    seeds: np.ndarray | int,
    spread: Spread | None,
) -> PairedTests:
    """`paired_test` of every row of `differences` [n, units]."""
    count = differences.shape[1]
    # A noise of None becomes NaN.
    assumed = np.broadcast_to(np.array(noise, dtype=np.float64), len(differences))
    if count == 0 or (count == 1 and np.isnan(assumed).any()):
        raise ValueError("A paired test needs two differences, or one and an assumed noise.")
    mean, own = _moments(differences)
    beside = np.broadcast_to(np.asarray(variance, dtype=np.float64), mean.shape)
    within = 0.0 if spread_covers else beside
    if spread is not None and count > 1:
        degrees = spread.degrees + count - 1
        moderated = (spread.degrees * spread.variance + (count - 1) * own) / degrees
        error = np.sqrt(moderated / count + within)
        reach = error * special.stdtrit(degrees, 1 - LEVEL / 2)
        p = 2 * special.stdtr(degrees, -_ratio(mean, error))
        return PairedTests(mean, mean - reach, mean + reach, np.minimum(1.0, p), count)
    known = ~np.isnan(assumed)
    tries = (count > 1) + known.astype(int)
    share = (1 - LEVEL / tries) / 2 + 0.5
    ps, reaches = [], []  # reaches: half the length of the interval at half the level
    if count > 1:
        error = np.sqrt(own / count + within)
        ps.append(2 * special.stdtr(count - 1, -_ratio(mean, error)))
        reaches.append(error * special.stdtrit(count - 1, share))
    if known.any():
        error = np.sqrt(np.maximum(2 * assumed**2 / seeds, own) / count + beside)
        ps.append(np.where(known, 2 * special.ndtr(-_ratio(mean, error)), np.inf))
        reaches.append(np.where(known, error * special.ndtri(share), np.inf))
    reach = np.minimum.reduce(reaches)
    return PairedTests(mean, mean - reach, mean + reach, np.minimum(1.0, tries * np.minimum.reduce(ps)), count)


def _moments(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample variance of each row [n, units], the variance 0 for a single unit. Taken from the first one on, so that equal
    values have a variance of 0 and no rounding."""
    first, count = differences[:, 0], differences.shape[1]
    moved = differences - first[:, None]
    mean = moved.mean(axis=1)
    own = ((moved - mean[:, None]) ** 2).sum(axis=1) / max(1, count - 1)
    return first + mean, own


def _ratio(mean: np.ndarray, error: np.ndarray) -> np.ndarray:
    """|mean| / error; 0 where both are 0."""
    certain = np.where(mean == 0, 0.0, np.inf)
    found: np.ndarray = np.divide(abs(mean), error, out=certain, where=error > 0)
    return found


def holm(ps: Sequence[float] | np.ndarray) -> list[float]:
    """Holm's step-down correction (1979): the chance of one false claim among all comparisons stays at the level, however they
    depend on each other. In the order given."""
    values = np.asarray(ps, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.minimum(1.0, values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.maximum.accumulate(raised)
    found: list[float] = corrected.tolist()
    return found


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
    sizes = Counter(groups.values())
    first, better = {}, 0
    for group in sorted(sizes):
        first[group] = 1 + better
        better += sizes[group]
    return {name: first[group] for name, group in groups.items()}


def mean_intervals(groups: Sequence[Sequence[Sequence[float]]]) -> list[tuple[float, float]]:
    """95 % intervals of the means of several methods over instances: t intervals, with variances moderated over the methods as in
    `paired_tests`. Resampling three instances covers 75 %, five 85 %; `benchmarks/mini/experiments/coverage.py` shows what these do.

    Args:
        groups: for each method, for each instance, one value for each seed. With one instance the interval is over its seeds.

    Returns:
        Lower and upper ends; without end where there is one value alone.
    """
    several = [number for number, group in enumerate(groups) if len(group) > 1 or len(group[0]) > 1]
    tests = dict(zip(several, paired_tests([groups[number] for number in several], methods=len(several)), strict=True))
    return [
        (tests[number].low, tests[number].high) if number in tests else (-math.inf, math.inf)
        for number in range(len(groups))
    ]
