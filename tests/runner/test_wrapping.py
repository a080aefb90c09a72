"""Gradients that a method changes or combines, and methods around methods."""

import pytest
import torch

from salmu_authors.testing import toy_context
from salmu_core import FitOptions, LossMethod, SalmuError, UnlearningMethod
from salmu_core.losses import contrastive_loss, pair_cosine

OPTIONS = FitOptions(lr=1e-3, batch_size=12, epochs=2, clip_norm=None)


def two_terms(model, batch):
    return {"forget": pair_cosine(*model(batch.forget)[:2]).mean(), "retain": contrastive_loss(*model(batch.retain))}


class TwoTerms(LossMethod):
    """Two terms and something to remember."""

    name = "two-terms"
    summary = "Two terms."
    family = "negative pairs"
    Options = FitOptions

    def __init__(self, options=None):
        super().__init__(options)
        self.seen = torch.zeros(1)

    def loss(self, model, batch):
        self.seen = self.seen + 1
        return two_terms(model, batch)

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]


class Around(UnlearningMethod):
    """Wraps another method."""

    name = "around"
    summary = "Wraps another method."
    family = "pruning and editing"

    def unlearn(self, ctx):
        pass

    def state(self):
        return {"mask": torch.ones(2)}


def fitted(options=OPTIONS, **more):
    with toy_context(Around()) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        ctx.fit(two_terms, options, **more)
        return before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx


@pytest.mark.parametrize("accumulate", [1, 3])
def test_combining_by_adding_is_what_happens_anyway(accumulate):
    options = OPTIONS.model_copy(update={"accumulate": accumulate})

    def add(terms):
        assert set(terms) == {"forget", "retain"}
        return {name: terms["forget"][name] + terms["retain"][name] for name in terms["forget"]}

    _, usual, _ = fitted(options)
    before, combined, ctx = fitted(options, combine=add)
    # AdamW divides a gradient by its own size: where it is 0 up to rounding, so is nothing about the step.
    for name in ("clip.visual.proj", "clip.text_projection"):
        key = name.removeprefix("clip.")
        torch.testing.assert_close(combined[key], usual[key], rtol=1e-3, atol=2e-4)
        assert not torch.allclose(before[key], combined[key], atol=2e-3)
    assert ctx.history[0]["forget"] != 0


def test_one_term_alone_can_be_descended():
    sgd = OPTIONS.model_copy(update={"optimizer": "sgd", "epochs": 1})
    _, only_forget, _ = fitted(sgd, combine=lambda terms: terms["forget"])
    with toy_context(Around()) as ctx:
        ctx.fit(lambda model, batch: two_terms(model, batch)["forget"] + 0 * two_terms(model, batch)["retain"], sgd)
        for name, tensor in ctx.model.weights().items():
            torch.testing.assert_close(only_forget[name], tensor, rtol=1e-4, atol=1e-6)


def test_weights_without_gradient_stay_bit_equal():
    def only_projections(gradients):
        for name, gradient in gradients.items():
            if "proj" not in name or "c_proj" in name:
                gradient.zero_()
            else:
                gradient[0] = 0

    before, after, _ = fitted(on_gradients=only_projections)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "visual.proj" in moved
    assert "token_embedding.weight" not in moved
    assert torch.equal(before["visual.proj"][0], after["visual.proj"][0])


def test_a_method_around_a_method_acts_on_each_of_its_steps_and_keeps_both_states():
    steps = []
    inner = TwoTerms(OPTIONS)
    with toy_context(Around()) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        ctx.delegate(inner, on_gradients=lambda gradients: [g.zero_() for g in gradients.values()], after_step=steps.append)
        assert all(torch.equal(before[name], tensor) for name, tensor in ctx.model.weights().items())
        assert steps == list(range(1, 7))
        assert inner.seen.item() == 6
        assert ctx.samples["forget"] == 72
    from salmu_core.runner.wrapping import Wrapping

    wrapping = Wrapping(Around())
    saved = wrapping.state(inner)()
    assert saved.keys() == {"mask", "inner.seen"}
    inner.seen = torch.zeros(1)
    wrapping.load_state(inner)(saved)
    assert inner.seen.item() == 6


def test_either_method_may_end_the_fit():
    with toy_context(Around()) as ctx:
        ctx.delegate(TwoTerms(OPTIONS), after_step=lambda step: step == 2)
        assert ctx.steps == 2


def test_an_inner_method_sees_no_more_than_the_outer_one_declares():
    class ForgetOnly(Around):
        """Declares less."""

        name = "forget-only"
        data = ("forget",)

    with toy_context(ForgetOnly()) as ctx, pytest.raises(SalmuError, match="two-terms sees the retain split"):
        ctx.delegate(TwoTerms(OPTIONS))


def test_a_method_is_made_by_name():
    with toy_context(Around()) as ctx:
        assert ctx.method("none", {}).name == "none"
        with pytest.raises(SalmuError, match="nosuch"):
            ctx.method("nosuch", {})
