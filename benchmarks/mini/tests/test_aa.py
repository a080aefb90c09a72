"""A/A comparisons: copies of one method that differ in their training seeds are hardly ever told apart. The whole simulation is
`experiments/aa_comparisons.py`; this is a small one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import aa_comparisons
from aa_comparisons import DESIGNS, DOCS, PAGE, STORED, docs, draw_rows, page, real_pairs, simulate, stored_noise, world

from salmu_core.seeding import numpy_generator

NOISIEST = stored_noise()["overall"]["method"]


@pytest.fixture(scope="module")
def of():
    return world()


@pytest.mark.parametrize(
    ("design", "method"), [((2, 1, 1), None), ((2, 1, 3), NOISIEST), ((5, 1, 2), None), ((2, 3, 1), None)]
)
def test_at_most_one_comparison_in_twenty_has_a_false_winner(of, design, method):
    trials = 60
    found = simulate(of, design, trials, method=method)
    # More than so many would be against a rate of 5 % at p < 0.001.
    most = stats.binom.ppf(0.999, trials, 0.05)
    assert found["overall"] <= most
    assert found["metrics"] <= most


def test_the_simulated_noise_is_large_enough_to_fool_a_reader_of_identities_alone(of):
    assert simulate(of, (2, 1, 1), 40, method=NOISIEST)["naive"] > 20


def test_without_an_assumption_about_noise_single_runs_would_fail(of, monkeypatch):
    monkeypatch.setattr("salmu_core.comparison.differences.OVERALL_NOISE", 1e-6)
    assert simulate(of, (2, 1, 1), 40, method=NOISIEST)["overall"] > 20


def test_methods_that_do_differ_are_told_apart_the_right_way_round(of):
    found = real_pairs(of, 1, 5, 40)
    assert found["told apart"] > 10  # a half of them in 500 trials; with equal methods it would be one in twenty
    assert found["the wrong way round"] <= 1


def test_drawn_seeds_move_scores_as_much_as_stored_runs_do(of):
    [runs] = draw_rows(of, [NOISIEST], 1, 200, 1.0, numpy_generator(0, "test")).values()
    names = list(of.kinds)
    stored = (of.moves[NOISIEST] ** 2).sum(axis=0)
    for number, name in enumerate(names):
        drawn = stats.tvar([run.record.scores[name].value for run in runs])
        kind = of.kinds[name]
        single = (aa_comparisons.INTERACTION * of.identity_sd[name]) ** 2 / kind.clusters
        assert drawn == pytest.approx(stored[number] + single, rel=0.5)


def test_the_committed_page_is_made_of_the_committed_result():
    content = json.loads(STORED.read_text(encoding="utf-8"))
    assert page(content) == PAGE.read_text(encoding="utf-8")
    assert docs(content) == DOCS.read_text(encoding="utf-8")
    assert {(one["copies"], one["instances"], one["seeds"]) for one in content["aa"]} == set(DESIGNS)
    for one in content["aa"]:
        assert one["overall"]["rate"] <= 0.05
        assert one["metrics"]["rate"] <= 0.05


def test_what_seeds_move_is_pooled_over_instances_and_free_of_what_instances_differ_by():
    first, second = np.array([[1.0], [3.0]]), np.array([[10.0], [12.0], [14.0]])
    # Sums of squares about each instance's mean: 2 and 8, with 1 and 2 degrees of freedom.
    assert (aa_comparisons._within([first, second]) ** 2).sum() == pytest.approx(10 / 3)
