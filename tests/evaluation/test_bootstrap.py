"""Intervals: as wide as theory says, by clusters, and the same every time."""

import numpy as np
import pytest

from salmu_core.evaluation.bootstrap import clustered_interval
from salmu_core.seeding import numpy_generator


@pytest.mark.parametrize("count", [400, 2048, 2049, 9000])  # many clusters are drawn in another way
def test_the_interval_of_independent_rows_is_the_normal_one(count):
    rows = np.random.default_rng(count).normal(3.0, 2.0, count)
    low, high, clusters = clustered_interval(rows, None, "x")
    half = 1.96 * rows.std() / count**0.5
    assert clusters == count
    assert low == pytest.approx(rows.mean() - half, abs=0.12 * half)
    assert high == pytest.approx(rows.mean() + half, abs=0.12 * half)


@pytest.mark.parametrize("count", [300, 3000])
def test_rows_of_one_cluster_count_once(count):
    values = np.random.default_rng(1).normal(size=count)
    labels = [f"person {number}" for number in range(count) for _ in range(7)]
    low, high, clusters = clustered_interval(np.repeat(values, 7), labels, "x")
    half = 1.96 * values.std() / count**0.5
    assert clusters == count
    assert high - low == pytest.approx(2 * half, rel=0.12)


@pytest.mark.parametrize("count", [50, 3000])
def test_clusters_of_unlike_size_weigh_by_their_rows(count):
    """The mean of a resample is over its rows, so it stays between the extremes and centres on the mean of all rows."""
    generator = np.random.default_rng(2)
    sizes = generator.integers(1, 9, count)
    rows = np.repeat(generator.normal(size=count), sizes) + 0.1 * sizes.repeat(sizes)
    low, high, _ = clustered_interval(rows, np.arange(count).repeat(sizes).tolist(), "x")
    assert low < rows.mean() < high
    assert (low + high) / 2 == pytest.approx(rows.mean(), abs=0.15 * (high - low))


@pytest.mark.parametrize("count", [90, 2500])
def test_the_same_purpose_gives_the_same_interval_and_another_one_another(count):
    rows = np.random.default_rng(3).normal(size=count)
    assert clustered_interval(rows, None, "x") == clustered_interval(rows, None, "x")
    assert clustered_interval(rows, None, "x") != clustered_interval(rows, None, "y")


def test_up_to_2048_clusters_the_interval_is_that_of_drawn_counts():
    """Literally: labels in sorted order, multinomial counts, means of the resampled rows."""
    labels = ["b", "a", "b", "c", "a", "b"]
    rows = np.array([1.0, 2.0, 4.0, 0.0, 6.0, 1.0])
    counts = numpy_generator(0, "bootstrap", "x").multinomial(3, [1 / 3] * 3, size=1000)
    means = [(8 * a + 6 * b + 0 * c) / (2 * a + 3 * b + c) for a, b, c in counts]
    low, high, clusters = clustered_interval(rows, labels, "x")
    assert clusters == 3
    assert (low, high) == (pytest.approx(np.quantile(means, 0.025)), pytest.approx(np.quantile(means, 0.975)))
