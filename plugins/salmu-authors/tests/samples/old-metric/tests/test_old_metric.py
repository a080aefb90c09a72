"""OldMetric: its formula by hand, what it says of models that are known, and the contract."""

import pytest
import torch
from salmu_core import Embedded
from salmu_core.testing import check_metric

from salmu_old_metric import OldMetric, margins


def test_keeps_the_contract():
    check_metric(OldMetric)


def test_margins_by_hand():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # Own caption 1.0 and 0.8; the mean caption is (0.8, 0.4).
    assert margins(image, text).tolist() == pytest.approx([0.2, 0.4])


def test_a_collapsed_model_has_no_margin(toy_views):
    metric = OldMetric()
    views = {
        name: Embedded(torch.nn.functional.normalize(torch.ones_like(view.vectors), dim=-1), view.columns, view.texts)
        for name, view in toy_views(metric).items()
    }
    assert metric.compute(**views).value == pytest.approx(0, abs=1e-6)


def test_rows_are_clustered_by_identity(toy_views):
    metric = OldMetric()
    score = metric.compute(**toy_views(metric))
    assert len(score.rows) == len(score.clusters)
    assert len(set(score.clusters)) == 6  # people in the toy's forget split
