"""Core's own metric: its value by hand, and that it gives way to any other."""

import numpy as np
import pytest
import torch

from salmu_core.builtin.toy import Toy
from salmu_core.data.pairs import Embedded
from salmu_core.evaluation.pair_cosine import PairCosine
from salmu_core.plugins.loading import load_plugins
from salmu_core.spec.resolve import make_metrics
from toy_methods import toy_plugins


def test_it_is_the_mean_cosine_of_forget_pairs():
    people = {"identity_id": ["a", "b"]}
    image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    score = PairCosine().compute(Embedded(image, people), Embedded(text, people))
    assert score.value == pytest.approx(0.3)
    np.testing.assert_allclose(score.rows, [0.6, 0.0])
    assert list(score.clusters) == ["a", "b"]


def test_it_is_measured_only_where_nothing_else_is():
    assert [metric.name for metric in make_metrics(load_plugins(only=["core"]), None, Toy())] == ["PairCosine"]
    assert [metric.name for metric in make_metrics(toy_plugins(), None, Toy())] == ["MeanCosine"]
