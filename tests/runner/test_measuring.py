"""What a method may look at, how much of it, and how it is told how many steps there are."""

from __future__ import annotations

import pytest
import torch

from salmu_authors.testing import toy_context
from salmu_core.errors import BudgetExceeded
from salmu_core.losses import contrastive_loss
from toy_methods import Ascent, TwoStages


def loss(model, pairs):
    return contrastive_loss(*model(pairs))


def test_mean_gradients_are_means_over_batches_and_count():
    with toy_context(Ascent()) as ctx:
        params = {"proj": ctx.model.clip.visual.proj}
        mean, squares = (ctx.mean_gradients(loss, "forget", 12, params=params, squared=s)["proj"] for s in (False, True))
        assert ctx.samples["forget"] == 36 + 36
        batches = list(ctx.batches("forget", 12, shuffle=True))
        found = [torch.autograd.grad(loss(ctx.model, pairs), params["proj"])[0] for pairs in batches]
    torch.testing.assert_close(mean, sum(found) / 3)
    torch.testing.assert_close(squares, sum(gradient.square() for gradient in found) / 3)


@pytest.mark.parametrize(
    ("wanted", "parts", "least", "rows"), [(None, 1, 1, 36), (10, 1, 1, 10), (None, 6, 1, 24), (30, 48, 8, 8), (2, 48, 8, 2)]
)
def test_rows_to_measure_are_those_wanted_or_a_share_of_the_budget(wanted, parts, least, rows):
    with toy_context(Ascent()) as ctx:  # 36 rows, and 144 samples
        assert ctx.affordable_rows("forget", wanted, parts=parts, least=least) == rows


def test_steps_take_the_place_of_epochs_and_are_counted():
    method = Ascent(Ascent.Options(epochs=3.0, batch_size=10))
    with toy_context(method) as ctx:
        ctx.fit(method.loss, method.options, steps=5)
        assert (ctx.steps, ctx.samples["forget"]) == (5, 50)
        with pytest.raises(BudgetExceeded):
            ctx.fit(method.loss, method.options, steps=10)
        assert ctx.samples["forget"] == 50


@pytest.mark.parametrize(("epochs", "reserved", "steps"), [(None, 0, 14), (None, 50, 9), (2.0, 50, 7)])
def test_a_fit_without_epochs_leaves_what_is_reserved(epochs, reserved, steps):
    method = Ascent(Ascent.Options(epochs=epochs, batch_size=10))
    with toy_context(method) as ctx:
        assert ctx.steps_of_fit(method.options, reserved={"forget": reserved}) == steps
        assert ctx.samples["forget"] == 0


@pytest.mark.parametrize(("epochs", "seen"), [(None, 90), (3.0, 100)])
def test_an_inner_method_leaves_what_is_reserved_unless_its_epochs_are_given(epochs, seen):
    inner = Ascent(Ascent.Options(epochs=epochs, batch_size=10))
    with toy_context(TwoStages()) as ctx:
        ctx.delegate(inner, reserved={"forget": 50})
        assert ctx.samples["forget"] == seen
        assert ctx.budget_left("forget") == 144 - seen


def test_weights_are_copies_that_can_be_put_back():
    with toy_context(Ascent()) as ctx:
        before = ctx.model.fingerprint()
        kept = ctx.weights()
        ctx.set_weights({name: tensor + 1 for name, tensor in kept.items()})
        assert ctx.model.fingerprint() != before
        ctx.set_weights(kept)
        assert ctx.model.fingerprint() == before
