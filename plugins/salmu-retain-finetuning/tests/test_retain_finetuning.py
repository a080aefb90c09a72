"""Retain finetuning: it lowers the retain loss, never sees forget pairs, and its card is current."""

from pathlib import Path

import numpy as np
import pytest
import torch
from salmu_retain_finetuning import RetainFinetuning
from torch import Tensor

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, Features

METHODS = [RetainFinetuning]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


def infonce(image: Tensor, text: Tensor, scale: float) -> float:
    """CLIP's loss in NumPy: log-sum-exp of rows and of columns minus the diagonal."""
    logits = scale * image.numpy() @ text.numpy().T
    rows, columns = np.log(np.exp(logits).sum(axis=1)), np.log(np.exp(logits).sum(axis=0))
    return float(((rows + columns) / 2 - logits.diagonal()).mean())


class Encoded:
    """Stands for a model: whatever it is given, it answers with one batch of embeddings."""

    def __init__(self, answer: Features) -> None:
        self.answer = answer
        self.asked: list[object] = []

    def __call__(self, pairs: object) -> Features:
        self.asked.append(pairs)
        return self.answer


def test_the_loss_is_the_contrastive_loss_of_the_retain_batch():
    model = Encoded(Features(unit_rows(0, 6), unit_rows(1, 6), torch.tensor(3.0, dtype=torch.double)))
    terms = RetainFinetuning().loss(model, Batch({"retain": "retain pairs"}))
    assert model.asked == ["retain pairs"]
    assert terms["retain"].item() == pytest.approx(infonce(model.answer.image, model.answer.text, 3.0), rel=1e-12)


def test_the_loss_by_hand():
    fit = torch.eye(2)  # every row and column has logits (2, 0): log(1 + exp(-2)) = 0.1269280
    model = Encoded(Features(fit, fit, torch.tensor(2.0)))
    loss = RetainFinetuning().loss(model, Batch({"retain": "retain pairs"}))["retain"]
    assert loss.item() == pytest.approx(0.1269280, abs=1e-6)


def test_forget_rows_are_never_asked_for():
    method = RetainFinetuning()
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 0, "retain": 6 * 24}  # as many batches of all 24 rows as 144 samples hold
        with pytest.raises(Exception, match="has not declared"):
            ctx.rows("forget")


@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(tower, frozen):
    method = RetainFinetuning(RetainFinetuning.Options(tower=tower, epochs=1))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]


def test_the_retain_loss_falls_on_the_toy_benchmark():
    method = RetainFinetuning(RetainFinetuning.Options(schedule="constant"))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        losses = [point["retain"] for point in ctx.history]
    assert losses[-1] < losses[0] - 0.1
