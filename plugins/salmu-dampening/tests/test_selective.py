"""SSD: dampening in numbers, what it leaves alone, and the package's card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_dampening", "beartype.beartype"):
    from salmu_dampening import PartitionedDampening, SelectiveSynapticDampening
    from salmu_dampening.selective import dampening_factor


def test_card_and_entry_point_fit_the_code():
    check_package(Path(__file__).parents[1], [SelectiveSynapticDampening, PartitionedDampening])


def test_keeps_the_contract():
    check_method(SelectiveSynapticDampening)


def test_dampening_factor_by_hand():
    whole = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 4.0])
    forget = torch.tensor([10.0, 10.5, 20.0, 3.0, 0.0, 100.0])
    # 10 is not more than 10 * 1; then 1/10.5, 1/20, 0/3; nothing to forget; 4/100.
    expected = torch.tensor([1.0, 1 / 10.5, 1 / 20, 0.0, 1.0, 0.04])
    torch.testing.assert_close(dampening_factor(whole, forget, alpha=10.0, dampening=1.0), expected)
    # A large lambda cannot make a weight grow.
    assert dampening_factor(whole, forget, alpha=10.0, dampening=50.0).max() == 1


def test_dampening_factor_against_the_released_form():
    generator = np.random.default_rng(0)
    whole, forget = generator.exponential(size=(2, 500))
    factor = dampening_factor(torch.from_numpy(whole), torch.from_numpy(forget), 1.5, 0.7).numpy()
    expected = np.ones(500)
    chosen = forget > 1.5 * whole
    expected[chosen] = np.minimum(0.7 * whole[chosen] / forget[chosen], 1)
    assert 0 < chosen.sum() < 500
    np.testing.assert_allclose(factor, expected, rtol=1e-12)


def test_nothing_is_dampened_without_forget_importance():
    whole = torch.tensor([0.0, 1.0])
    assert torch.equal(dampening_factor(whole, torch.zeros(2), alpha=0.0, dampening=0.0), torch.ones(2))


def run_dampening(**options):
    method = SelectiveSynapticDampening(SelectiveSynapticDampening.Options(batch_size=8, **options))
    with toy_context(method) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 36, "retain": 24}
        return before, ctx.model.weights(), ctx.history[-1]


def test_a_huge_alpha_changes_nothing():
    before, after, logged = run_dampening(alpha=1e30, reference="train")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert logged["dampened"] == 0


def test_weights_only_shrink_and_what_is_not_selected_is_bit_equal():
    before, after, logged = run_dampening(alpha=1.2)
    changed = sum(int((before[name] != after[name]).sum()) for name in before)
    assert 0 < changed <= logged["dampened"]
    weights = sum(tensor.numel() for name, tensor in before.items() if name != "logit_scale")
    assert logged["dampened_share"] == pytest.approx(logged["dampened"] / weights)
    for name in before:
        assert (after[name].abs() <= before[name].abs()).all()
        assert (after[name] * before[name] >= 0).all()
    assert torch.equal(before["logit_scale"], after["logit_scale"])


def test_counting_forget_in_the_whole_bounds_the_ratio():
    # forget is 5 of 8 batches, so I_forget / I_train is at most 8/5: an alpha above it selects nothing.
    assert run_dampening(alpha=1.61, reference="train")[2]["dampened"] == 0
    assert run_dampening(alpha=1.59, reference="train")[2]["dampened"] > 0


def test_dampening_edits_only_the_tower_asked_for():
    for tower, frozen in (("image", "text"), ("text", "image")):
        method = SelectiveSynapticDampening(SelectiveSynapticDampening.Options(tower=tower, alpha=1.0))
        with toy_context(method) as ctx:
            before = ctx.model.fingerprint()
            method.unlearn(ctx)
            after = ctx.model.fingerprint()
        assert after[frozen] == before[frozen]
        assert after[tower] != before[tower]


def test_a_small_budget_measures_fewer_rows():
    with toy_context(method := SelectiveSynapticDampening(), budget=0.1) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 14, "retain": 14}
