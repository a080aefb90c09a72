"""Paired tests, corrections and tie groups, against values worked out by hand or by scipy's own tests."""

import numpy as np
import pytest
from scipy import stats

from salmu_core.comparison.paired import (
    Spread,
    common_spread,
    holm,
    mean_intervals,
    paired_test,
    paired_tests,
    shared_ranks,
    tie_groups,
)


def test_several_differences_without_assumed_noise_are_students_test():
    values = [0.1, 0.3, 0.25, 0.2]
    found = paired_test(values)
    by_scipy = stats.ttest_1samp(values, 0.0)
    assert found.p == pytest.approx(by_scipy.pvalue)
    interval = by_scipy.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_a_single_difference_is_judged_by_the_assumed_noise_alone():
    found = paired_test([0.4], noise=0.1, variance=0.02)
    error = (2 * 0.1**2 + 0.02) ** 0.5
    assert found.p == pytest.approx(2 * stats.norm.sf(0.4 / error))
    assert (found.low, found.high) == (pytest.approx(0.4 - 1.959964 * error), pytest.approx(0.4 + 1.959964 * error))
    with pytest.raises(ValueError, match="two differences"):
        paired_test([0.4])


def test_of_two_tests_the_smaller_p_counts_doubled():
    values = [0.5, 0.4]  # Student's test with one degree of freedom finds nothing, the assumed noise does
    alone, both = paired_test(values), paired_test(values, noise=0.05)
    by_noise = 2 * stats.norm.sf(0.45 / 0.05)  # sd of a difference: sqrt(2) * 0.05, over two: / sqrt(2)
    assert alone.p > 0.05
    assert both.p == pytest.approx(2 * by_noise)
    steady = [0.100, 0.101, 0.099, 0.1, 0.1]  # here it is the other way round
    assert paired_test(steady, noise=0.5).p == pytest.approx(2 * stats.ttest_1samp(steady, 0).pvalue)


def test_noise_that_the_differences_contradict_is_not_assumed():
    wild = [0.9, -0.1, 1.1, 0.2]
    spread = np.var(wild, ddof=1)
    assert paired_test(wild, noise=1e-6).p == pytest.approx(
        2 * min(stats.ttest_1samp(wild, 0).pvalue, 2 * stats.norm.sf(np.mean(wild) / (spread / 4) ** 0.5))
    )


def test_what_identities_leave_open_widens_unless_the_differences_vary_by_it_already():
    values = [0.1, 0.3, 0.25, 0.2]
    plain, wider = paired_test(values), paired_test(values, variance=0.05)
    assert wider.high - wider.low > 1.5 * (plain.high - plain.low)
    assert paired_test(values, variance=0.05, spread_covers=True) == plain


def test_methods_without_any_randomness_differ_or_do_not():
    assert paired_test([0.2, 0.2, 0.2]).p < 1e-20
    assert paired_test([0.0, 0.0]).p == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_group_is_the_best_and_all_that_cannot_be_told_from_it():
    worse = {("c", "a"), ("e", "a"), ("c", "b"), ("e", "c")}
    groups = tie_groups(list("abcde"), lambda row, than: (row, than) in worse)
    # d is below c, and cannot be told from a: it is a's tie, not c's.
    assert groups == {"a": 1, "b": 1, "d": 1, "c": 2, "e": 3}
    assert shared_ranks(groups) == {"a": 1, "b": 1, "d": 1, "c": 4, "e": 5}


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_group_and_worse_than_the_best_of_better_ones(seed):
    rng = np.random.default_rng(seed)
    names = [str(number) for number in range(12)]
    worse = {(row, than) for than in names for row in names if int(row) > int(than) and rng.random() < 0.5}
    groups = tie_groups(names, lambda row, than: (row, than) in worse)
    assert set(groups) == set(names)
    leaders = {group: next(name for name in names if groups[name] == group) for group in groups.values()}
    for name, group in groups.items():
        assert (name, leaders[group]) not in worse
        assert all((name, leaders[better]) in worse for better in leaders if better < group)


def test_the_common_spread_is_found_again_from_many_variances():
    # Drawn from the model itself: 1 / variance ~ chi-squared with 8 degrees of freedom, / 8, / .01.
    rng = np.random.default_rng(0)
    true = 0.01 * 8 / rng.chisquare(8, 20000)
    found = common_spread(list(true * rng.chisquare(2, 20000) / 2), 2, most=1e9)
    assert found.variance == pytest.approx(0.01, rel=0.03)
    assert found.degrees == pytest.approx(8, rel=0.15)
    # All alike: the degrees of freedom are as many as are believed.
    alike = common_spread(list(0.04 * rng.chisquare(4, 5000) / 4), 4, most=60)
    assert (alike.variance, alike.degrees) == (pytest.approx(0.04, rel=0.03), 60)
    assert common_spread([1.0] * 5, 2, most=10) is None


def test_a_moderated_test_by_hand():
    # Variance 4 with 2 degrees beside a common 1 with 6: (6 * 1 + 2 * 4) / 8 = 1.75; three differences of mean 2.
    found = paired_test([0.0, 2.0, 4.0], noise=0.5, spread=Spread(variance=1.0, degrees=6.0))
    error = (1.75 / 3) ** 0.5
    assert found.p == pytest.approx(2 * stats.t.sf(2 / error, 8))
    assert found.high == pytest.approx(2 + stats.t.ppf(0.975, 8) * error)


def test_the_assumed_noise_is_divided_by_seeds_and_by_instances():
    [found] = paired_tests([[[0.5, 0.3], [0.6, 0.4]]], noise=0.3)
    # Means of two seeds on two instances: sd of each 0.3 * sqrt(2 / 2), of their mean / sqrt(2). Two tests, so doubled.
    assert found.p == pytest.approx(2 * 2 * stats.norm.sf(0.45 / (0.3 / 2**0.5)))
    [alone] = paired_tests([[[0.5]]], noise=0.3)
    assert alone.p == pytest.approx(2 * stats.norm.sf(0.5 / (0.3 * 2**0.5)))


def test_a_difference_as_large_and_as_steady_as_the_reviews_is_called_among_five_hundred():
    """Five instances, difference .349 with t(4) = 16.1: a standard deviation of .349 / 16.1 * sqrt(5). The others are 31 methods that
    are as noisy as mini's."""
    rng = np.random.default_rng(1)
    steady = rng.standard_normal(5)
    steady = 0.349 + (steady - steady.mean()) / steady.std(ddof=1) * 0.349 / 16.1 * 5**0.5
    noisy = rng.normal(0, rng.lognormal(np.log(0.05), 0.6, 31)[:, None], (31, 5))
    others = [[[value] for value in noisy[a] - noisy[b]] for a in range(31) for b in range(a)]
    tests = paired_tests([[[value] for value in steady], *others], noise=0.12)
    assert holm([test.p for test in tests])[0] < 0.05


def test_intervals_of_means_are_students_where_there_are_few_methods():
    low, high = mean_intervals([[[0.1, 0.3], [0.3], [0.1, 0.5]]])[0]
    by_scipy = stats.t.interval(0.95, 2, loc=0.8 / 3, scale=stats.sem([0.2, 0.3, 0.3]))
    assert (low, high) == (pytest.approx(by_scipy[0]), pytest.approx(by_scipy[1]))
    assert mean_intervals([[[0.4]]]) == [(-np.inf, np.inf)]  # one value says nothing of its spread
