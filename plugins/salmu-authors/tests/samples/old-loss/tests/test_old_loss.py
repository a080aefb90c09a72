"""old-loss: its formula by hand, what training does with it, the contract, and the card."""

from pathlib import Path

import pytest
import torch
from salmu_core.testing import check_method, check_package

from salmu_old_loss import OldLoss, forget_term


def unlearned(toy_run, **options):
    """The context of a run on the toy benchmark with these options."""
    return toy_run(OldLoss(OldLoss.Options(**options)))


def test_keeps_the_contract():
    check_method(OldLoss)


def test_card_and_entry_point_fit_the_code():
    check_package(Path(__file__).parents[1], [OldLoss])


def test_the_forget_term_by_hand():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    assert forget_term(image, text).item() == pytest.approx((0.6**2 + 0**2) / 2)


def test_forget_pairs_grow_apart_on_the_toy_benchmark(toy_run):
    ctx = unlearned(toy_run, lr=1e-3, schedule="constant")
    assert ctx.history[-1]["forget"] < ctx.history[0]["forget"]


def test_retain_pairs_count_as_much_as_they_are_told_to(toy_run):
    once, thrice = (unlearned(toy_run, retain_weight=weight).history[0] for weight in (1, 3))
    assert thrice["retain"] == pytest.approx(3 * once["retain"], rel=1e-5)
    assert thrice["forget"] == pytest.approx(once["forget"], rel=1e-5)
