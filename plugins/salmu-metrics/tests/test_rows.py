"""Checks that all metrics share."""

from __future__ import annotations

import pytest

from salmu_core import NotMeasurable
from salmu_core.errors import BadData
from salmu_metrics import ACS, AssocStr, CoreAssoc, IdZSC, RetFail
from salmu_metrics.rows import check_rows, column_of, identity_clusters, texts_of


def test_rows_of_one_identity_share_a_cluster_and_rows_without_one_stand_alone() -> None:
    labels = identity_clusters({"identity_id": ["a", None, "a", None, "b", "row 1"]})
    assert labels is not None
    assert labels[0] == labels[2]
    assert len(set(labels)) == 5


def test_without_identities_rows_are_independent() -> None:
    assert identity_clusters({"label": [1, 2]}) is None


def test_views_of_different_lengths_are_refused_and_named(embed) -> None:
    with pytest.raises(BadData, match="different numbers of rows: image 2, text 1"):
        check_rows("X", image=embed([[1, 0], [0, 1]]), text=embed([[1, 0]]))


def test_no_rows_are_not_measurable(nothing) -> None:
    with pytest.raises(NotMeasurable, match="no rows to measure X on"):
        check_rows("X", image=nothing(), text=nothing())


@pytest.mark.parametrize("cls", [AssocStr, RetFail, ACS, IdZSC, CoreAssoc], ids=lambda cls: cls.name)
def test_no_metric_pairs_rows_of_different_lengths(cls, embed) -> None:
    """One row against two would otherwise be broadcast in silence."""
    metric = cls()
    one = embed([[1, 0]], texts=["a"], columns={"identity_id": ["a"]})
    two = embed([[1, 0], [0, 1]], texts=["a", "b"], columns={"identity_id": ["a", "b"]})
    others = dict.fromkeys(metric.needs(), one) | {"image": two}
    with pytest.raises(BadData, match=f"{cls.name} pairs views row by row"):
        metric.compute(**others)


@pytest.mark.parametrize("texts", [None, ["only one"]])
def test_missing_captions_are_refused(texts, embed) -> None:
    with pytest.raises(BadData, match="X compares captions as text"):
        texts_of("X", embed([[1, 0], [0, 1]], texts=texts))


def test_a_missing_column_and_an_empty_cell_are_named(embed) -> None:
    view = embed([[1, 0], [0, 1]], columns={"label": [3, None], "short": [1]})
    with pytest.raises(BadData, match="X needs the column 'colour'"):
        column_of("X", view, "colour")
    with pytest.raises(BadData, match="'label' in every row; row 1 has none"):
        column_of("X", view, "label")
    with pytest.raises(BadData, match="a value of 'short' for each of 2 rows, there are 1"):
        column_of("X", view, "short")
