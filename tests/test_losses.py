"""The shared losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from salmu_authors.testing import unit_rows
from salmu_core.losses import contrastive_loss, derangement, group_mask, mismatched_cosine, pair_cosine


def test_contrastive_loss_of_two_orthogonal_pairs():
    eye = torch.eye(2)
    # Both directions: logits (s, 0), so the loss is ln(1 + e^-s).
    assert contrastive_loss(eye, eye, 2.0).item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_contrastive_loss_averages_both_directions():
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    text = torch.eye(2)
    # Image to text: rows (1, 0), (1, 0); text to image: rows (1, 1), (0, 0).
    rows = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert contrastive_loss(image, text, 1.0).item() == pytest.approx((rows + math.log(2)) / 2)


def test_pair_cosine():
    image = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    text = torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    assert pair_cosine(image, text).tolist() == pytest.approx([0.96, 0.0])


def test_group_mask_joins_paraphrases_and_keeps_unknown_rows_apart():
    mask = group_mask(torch.tensor([5, 7, 5, -1, -1]))
    expected = [
        [1, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert mask.int().tolist() == expected


def test_mismatched_cosine_of_one_group_is_no_number():
    rows = torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert torch.isnan(mismatched_cosine(rows, rows.flip(0), torch.zeros(5, dtype=torch.long)))
    every = (rows @ rows.flip(0).T)[~torch.eye(5, dtype=torch.bool)].mean()
    assert mismatched_cosine(rows, rows.flip(0), torch.arange(5)).item() == pytest.approx(every.item(), abs=1e-6)
    # Rows without a group are each their own.
    assert mismatched_cosine(rows, rows.flip(0), torch.full((5,), -1)).item() == pytest.approx(every.item(), abs=1e-6)


@pytest.mark.parametrize("codes", [[0, 0, 3, -1, 3, 1, -1, 0], [0, 9, 3, -1, 3, 11, -1, 10]])
def test_mismatched_cosine_against_a_loop(codes):
    image, text = unit_rows(4, 8), unit_rows(5, 8)
    group = torch.tensor(codes)  # rows of group -1 are alone, whatever the other groups are called
    cosines = [
        float(image[i] @ text[j]) for i in range(8) for j in range(8) if i != j and (group[i] != group[j] or group[i] < 0)
    ]
    assert mismatched_cosine(image, text, group).item() == pytest.approx(sum(cosines) / len(cosines), rel=1e-10)


def draw(group: list[int], seed: int = 0) -> tuple[list[int], list[int]]:
    rows, other = derangement(torch.tensor(group), torch.Generator().manual_seed(seed))
    return rows.tolist(), other.tolist()


@pytest.mark.parametrize("group", [[0, 0, 1, 1], [7, 3, 7, 3, 7, 9, 9], [5, 5, 5, 1, 2, 3], [0, 1], [4, -1, 4, -1]])
def test_everyone_is_given_another_group_and_nobody_is_given_twice(group):
    for seed in range(40):
        rows, other = draw(group, seed)
        assert sorted(rows) == sorted(other) == list(range(len(group)))
        for row, given in zip(rows, other, strict=True):
            assert row != given
            assert group[row] != group[given] or group[row] < 0


@pytest.mark.parametrize(("group", "possible"), [([0, 0, 0, 1], 2), ([0, 0, 0, 0, 0, 1, 2], 4), ([3, 3], 0), ([-1], 0)])
def test_where_one_group_is_the_majority_as_many_as_possible_are_given_another(group, possible):
    for seed in range(20):
        rows, other = draw(group, seed)
        assert len(rows) == len(set(rows)) == len(set(other)) == possible  # two for every row outside the majority
        assert all(group[row] != group[given] for row, given in zip(rows, other, strict=True))


def test_every_other_row_is_given_equally_often():
    counts = np.zeros((6, 6))
    for seed in range(3000):
        rows, other = draw([10, 11, 12, 13, 14, 15], seed)
        counts[rows, other] += 1
    assert (counts.diagonal() == 0).all()
    off = counts[~np.eye(6, dtype=bool)]
    assert off.min() > 500  # 600 each are expected, with a deviation of 22
    assert off.max() < 700


def test_rows_without_an_association_are_each_one_of_their_own():
    rows, other = draw([-1, -1, -1])
    assert sorted(rows) == [0, 1, 2]
    assert all(row != given for row, given in zip(rows, other, strict=True))


def test_the_draw_is_a_function_of_the_seed():
    assert draw([0, 1, 2, 3, 4, 5], 1) == draw([0, 1, 2, 3, 4, 5], 1) != draw([0, 1, 2, 3, 4, 5], 2)
