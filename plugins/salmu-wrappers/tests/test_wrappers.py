"""SalUn, MUNBa and gradient surgery: masks and weights in numbers, what they leave alone, and their card."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import SalmuError

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_wrappers", "beartype.beartype"):
    from salmu_wrappers import (
        GradientSurgery,
        Munba,
        NormalisedSum,
        SalUn,
        inner_product,
        nash_weights,
        normalised_sum,
        project_out,
        saliency_mask,
        two_sides,
    )

METHODS = [SalUn, Munba, NormalisedSum, GradientSurgery]
FOLDER = Path(__file__).parents[1]
ASCENT = {"inner": "gradient-ascent-retain", "inner_options": {"batch_size": 12, "epochs": 1.0}, "lr": 1e-3}


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


# ---------------------------------------------------------------- SalUn


def test_the_mask_is_the_share_of_largest_gradients_over_all_tensors():
    gradients = {"a": torch.tensor([[0.1, -5.0], [0.05, 2.0]]), "b": torch.tensor([-3.0, 0.2])}
    mask = saliency_mask(gradients, 0.5)
    assert mask["a"].tolist() == [[False, True], [False, True]]
    assert mask["b"].tolist() == [True, False]
    assert all(part.all() for part in saliency_mask(gradients, 1.0).values())


def test_equal_gradients_still_meet_the_share():
    mask = saliency_mask({"a": torch.ones(6), "b": -torch.ones(4)}, 0.3)
    assert sum(int(part.sum()) for part in mask.values()) == 3


def run(method, **options):
    made = method(method.Options(**{**ASCENT, **options}))
    with toy_context(made) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        made.unlearn(ctx)
        after = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        return before, after, ctx.history, dict(ctx.samples)


def test_weights_without_a_gradient_are_not_counted_and_never_in_the_mask():
    mask = saliency_mask({"a": torch.tensor([0.0, 0.0, 0.0, 1.0]), "b": torch.tensor([-2.0, 0.0])}, 0.5)
    assert mask["a"].tolist() == [False] * 4  # half of the two that have one
    assert mask["b"].tolist() == [True, False]
    assert not any(part.any() for part in saliency_mask({"a": torch.zeros(3)}, 1.0).values())


def test_weights_outside_the_mask_stay_bit_equal_even_with_weight_decay():
    decaying = {**ASCENT["inner_options"], "weight_decay": 0.5}
    before, after, history, samples = run(SalUn, share=0.1, inner_options=decaying)
    moved = sum(int((before[name] != after[name]).sum()) for name in before)
    allowed = history[0]["salient"]
    reached = run(SalUn, share=1.0, inner_options=decaying)[2][0]["salient"]
    weights = sum(tensor.numel() for name, tensor in before.items() if name != "logit_scale")
    assert 0 < reached < weights  # token rows that no forget caption has get no gradient
    assert allowed == round(0.1 * reached)
    assert 0 < moved <= allowed
    assert samples == {"forget": 14 + 36, "retain": 36}  # a tenth of the budget to measure, then one pass


def test_a_full_mask_holds_what_no_forget_pair_reaches_though_retain_pairs_would_move_it():
    before, masked, history, _ = run(SalUn, share=1.0)
    moved = sum(int((before[name] != masked[name]).sum()) for name in before)
    assert 0 < moved <= history[0]["salient"]
    inner = METHODS_OF_OTHERS()["gradient-ascent-retain"].cls
    method = inner(inner.Options(batch_size=12, epochs=1.0, lr=1e-3))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        free = dict(ctx.model.weights().items())
    assert sum(int((before[name] != free[name]).sum()) for name in before) > history[0]["salient"]


def METHODS_OF_OTHERS():  # noqa: N802
    from salmu_core.plugins.loading import load_plugins

    return load_plugins().methods


# ---------------------------------------------------------------- MUNBa


def published_weights(g11: float, g12: float, g22: float) -> tuple[float, float]:
    """The closed form in the authors' code, where 1 is retain and 2 is forget."""
    retain = math.sqrt((g11 * g22 - g12 * math.sqrt(g11 * g22)) / (g11**2 * g22 - g11 * g12**2))
    return retain, (1 - g11 * retain**2) / (g12 * retain)


@pytest.mark.parametrize("products", [(2.0, 0.5, 3.0), (2.0, -0.5, 3.0), (0.1, 0.2, 7.0)])
def test_nash_weights_are_those_of_the_released_closed_form(products):
    assert nash_weights(*products) == pytest.approx(published_weights(*products), rel=1e-9)


def test_at_the_bargaining_point_both_gain_alike():
    generator = np.random.default_rng(0)
    retain, forget = generator.normal(size=(2, 9))
    of_retain, of_forget = nash_weights(retain @ retain, retain @ forget, forget @ forget)
    step = of_retain * retain + of_forget * forget
    assert of_retain * (retain @ step) == pytest.approx(1)
    assert of_forget * (forget @ step) == pytest.approx(1)


def test_opposite_gradients_and_vanished_ones():
    assert nash_weights(4.0, -2.0, 1.0) == (0.0, 0.0)
    assert nash_weights(4.0, 0.0, 0.0) == (1.0, 1.0)


def test_only_the_retain_term_is_apart_and_the_others_forget():
    terms = {"a": {"w": torch.tensor([1.0])}, "b": {"w": torch.tensor([2.0])}, "retain": {"w": torch.tensor([5.0])}}
    forget, retain = two_sides(terms, "retain", "x")
    assert (forget["w"].item(), retain["w"].item()) == (3.0, 5.0)
    with pytest.raises(SalmuError, match="settling takes one called 'keep'"):
        two_sides(terms, "keep", "x")


def test_munba_with_the_length_of_the_sum_differs_from_nash_only_in_length():
    _, nash, _, _ = run(Munba, inner_options={**ASCENT["inner_options"], "clip_norm": 1e-3, "optimizer": "sgd"})
    _, summed, _, _ = run(
        Munba, scale="sum", inner_options={**ASCENT["inner_options"], "clip_norm": 1e-3, "optimizer": "sgd"}
    )
    for name, tensor in nash.items():  # clipped to one length, the same steps
        torch.testing.assert_close(tensor, summed[name], rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------- gradient surgery


def test_what_is_left_is_normal_to_the_retain_gradient():
    generator = torch.Generator().manual_seed(0)
    forget, retain = (
        {"a": torch.randn(3, 2, generator=generator), "b": torch.randn(4, generator=generator)} for _ in range(2)
    )
    left = project_out(forget, retain, only_conflict=False)
    assert inner_product(left, retain) == pytest.approx(0, abs=1e-5)
    # Pythagoras, over both tensors together.
    removed = inner_product(forget, retain) ** 2 / inner_product(retain, retain)
    assert inner_product(left, left) == pytest.approx(inner_product(forget, forget) - removed, rel=1e-5)


def test_by_hand_and_only_in_conflict():
    forget, agreeing, opposed = (
        {"w": torch.tensor([1.0, 1.0])},
        {"w": torch.tensor([2.0, 0.0])},
        {"w": torch.tensor([-2.0, 0.0])},
    )
    assert project_out(forget, agreeing, only_conflict=True)["w"].tolist() == [1.0, 1.0]
    assert project_out(forget, agreeing, only_conflict=False)["w"].tolist() == [0.0, 1.0]
    assert project_out(forget, opposed, only_conflict=True)["w"].tolist() == [0.0, 1.0]
    nothing = {"w": torch.zeros(2)}
    assert project_out(forget, nothing, only_conflict=False)["w"].tolist() == [1.0, 1.0]


def test_a_method_without_a_retain_term_is_refused_with_its_terms():
    method = Munba(Munba.Options(inner="gradient-ascent"))
    with toy_context(method) as ctx, pytest.raises(SalmuError, match="gradient-ascent has the terms forget"):
        method.unlearn(ctx)


def test_a_wrapper_is_not_wrapped():
    method = SalUn(SalUn.Options(inner="munba"))
    with toy_context(method) as ctx, pytest.raises(SalmuError, match="cannot be inside one"):
        method.unlearn(ctx)


# ---------------------------------------------------------------- normalised sum


def test_the_normalised_sum_is_that_of_directions_over_all_tensors():
    rng = np.random.default_rng(4)
    forget, retain = ({"a": rng.normal(size=(2, 3)), "b": rng.normal(size=4)} for _ in range(2))
    lengths = [math.sqrt(sum((part**2).sum() for part in side.values())) for side in (forget, retain)]
    given = [{name: torch.from_numpy(part) for name, part in side.items()} for side in (forget, retain)]
    found = normalised_sum(*given)
    for name in forget:
        np.testing.assert_allclose(found[name], forget[name] / lengths[0] + retain[name] / lengths[1], rtol=1e-6)
    longer = normalised_sum({name: 1000 * part for name, part in given[0].items()}, given[1])
    torch.testing.assert_close(longer["a"], found["a"])
    zero = {name: torch.zeros_like(part) for name, part in given[0].items()}
    np.testing.assert_allclose(normalised_sum(zero, given[1])["b"], retain["b"] / lengths[1], rtol=1e-6)
