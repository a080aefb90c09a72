"""Mean cosine of pairs, and the stronger of two cosines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from salmu_core import View
from salmu_metrics import AssocStr, CoreAssoc, FragSim, InterIdSim, IntraIdSim, VisIdInt, pair_cosines

FIVE = [AssocStr, InterIdSim, IntraIdSim, VisIdInt, FragSim]


def cosine(a, b) -> float:
    """The textbook formula, number by number."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


@pytest.mark.parametrize("cls", FIVE, ids=lambda cls: cls.name)
def test_hand_computed_cosines(cls, embed) -> None:
    people = {"identity_id": ["p", "p", None, "q"]}
    image = embed([[1, 0], [3, 4], [0, 2], [1, 1]], columns=people)
    text = embed([[1, 0], [4, 3], [0, -1], [1, -1]], texts=["a", "b", "c", "d"], columns=people)
    score = cls().compute(image=image, text=text)
    assert score.rows == pytest.approx([1.0, 0.96, -1.0, 0.0], abs=1e-6)
    assert score.value == pytest.approx(0.24, abs=1e-6)
    assert score.value == float(score.rows.mean())
    assert score.clusters[0] == score.clusters[1]
    assert len(set(score.clusters)) == 3


@pytest.mark.parametrize("cls", FIVE, ids=lambda cls: cls.name)
def test_random_rows_agree_with_the_textbook_formula(cls, embed) -> None:
    generator = np.random.default_rng(1)
    u, v = generator.normal(size=(57, 33)), generator.normal(size=(57, 33))
    score = cls().compute(image=embed(u), text=embed(v, texts=["t"] * 57))
    expected = [cosine(a, b) for a, b in zip(u, v, strict=True)]
    assert score.rows == pytest.approx(expected, abs=1e-6)
    assert score.value == pytest.approx(sum(expected) / 57, abs=1e-6)
    assert score.clusters is None


def test_the_five_look_at_five_splits() -> None:
    splits = {cls.name: cls().needs() for cls in FIVE}
    assert splits == {
        name: {"image": View(split, "image"), "text": View(split, "text")}
        for name, split in {
            "AssocStr": "forget",
            "InterIdSim": "holdout_identity",
            "IntraIdSim": "holdout_association",
            "VisIdInt": "retain_joint",
            "FragSim": "fragile_set",
        }.items()
    }


def test_no_cosine_leaves_its_range_by_rounding(embed) -> None:
    vectors = embed(np.random.default_rng(0).normal(size=(2000, 67))).vectors
    assert float((vectors * vectors).sum(dim=-1).max()) > 1.0  # the trap is real
    assert float(pair_cosines(vectors, vectors).max()) <= 1.0
    assert float(pair_cosines(vectors, -vectors).min()) >= -1.0


def test_core_association_takes_the_stronger_order_row_by_row(embed) -> None:
    image = embed([[1, 0], [1, 0], [1, 0]], columns={"identity_id": ["p", "q", "q"]})
    name_first = embed([[1, 0], [3, 4], [-1, 0]])
    value_first = embed([[0, 1], [4, 3], [-3, 4]])
    score = CoreAssoc().compute(image=image, name_first=name_first, value_first=value_first)
    assert score.rows == pytest.approx([1.0, 0.8, -0.6], abs=1e-6)
    assert score.value == pytest.approx(0.4, abs=1e-6)
    assert score.clusters == ["identity p", "identity q", "identity q"]


def test_core_association_agrees_with_the_textbook_formula(embed) -> None:
    generator = np.random.default_rng(2)
    u, a, b = (generator.normal(size=(41, 19)) for _ in range(3))
    score = CoreAssoc().compute(image=embed(u), name_first=embed(a), value_first=embed(b))
    expected = [max(cosine(x, y), cosine(x, z)) for x, y, z in zip(u, a, b, strict=True)]
    assert score.rows == pytest.approx(expected, abs=1e-6)
    assert score.value == float(score.rows.mean())


def test_core_association_asks_for_both_orders_of_name_and_value() -> None:
    needs = CoreAssoc().needs()
    assert needs["image"] == View("forget", "image")
    assert {needs["name_first"].template, needs["value_first"].template} == {"{name} {value}", "{value} {name}"}
    assert {needs["name_first"].split, needs["value_first"].split} == {"forget"}


def test_inputs_stay_as_they_are(embed) -> None:
    image, text = embed(np.eye(4)), embed(np.eye(4)[::-1].copy())
    before = image.vectors.clone(), text.vectors.clone()
    AssocStr().compute(image=image, text=text)
    assert torch.equal(image.vectors, before[0])
    assert torch.equal(text.vectors, before[1])
