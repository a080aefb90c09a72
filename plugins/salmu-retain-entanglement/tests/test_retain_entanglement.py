"""Retain-forget entanglement: clip, distance and projection by hand, both stages, resuming, and the card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_retain_entanglement", "beartype.beartype"):
    from salmu_retain_entanglement import (
        RetainForgetEntanglement,
        clipped,
        near_rows,
        project_off,
        sorted_distance,
    )

FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, [RetainForgetEntanglement])


def test_keeps_the_contract():
    check_method(RetainForgetEntanglement)


# ---------------------------------------------------------------- formulas


def test_a_clipped_loss_keeps_its_value_and_loses_its_gradient():
    losses = torch.tensor([1.0, 12.0, 3.0], requires_grad=True)
    value = clipped(losses, 10.0)
    value.backward()
    assert value.item() == pytest.approx(16 / 3)
    torch.testing.assert_close(losses.grad, torch.tensor([1 / 3, 0.0, 1 / 3]))


def test_the_distance_does_not_care_which_row_has_which_loss():
    rng = np.random.default_rng(1)
    now, then = rng.normal(size=(2, 17))
    expected = np.mean((np.sort(now) - np.sort(then)) ** 2)
    assert sorted_distance(torch.from_numpy(now), torch.from_numpy(then)).item() == pytest.approx(expected)
    assert sorted_distance(torch.from_numpy(now), torch.from_numpy(now[::-1].copy())).item() == 0


def gradients(rng, like=None):
    return {"a": torch.from_numpy(rng.normal(size=(3, 4))), "b": torch.from_numpy(rng.normal(size=5))}


def flat(found):
    return np.concatenate([found["a"].numpy().ravel(), found["b"].numpy()])


def test_the_projection_is_that_of_least_squares():
    rng = np.random.default_rng(2)
    primary, first, second = gradients(rng), gradients(rng), gradients(rng)
    basis = np.stack([flat(first), flat(second)], axis=1)
    expected = flat(primary) - basis @ np.linalg.lstsq(basis, flat(primary), rcond=None)[0]
    np.testing.assert_allclose(flat(project_off(primary, first, second)), expected, atol=1e-6)


def test_parallel_and_missing_gradients_leave_a_finite_rest():
    rng = np.random.default_rng(3)
    primary, first = gradients(rng), gradients(rng)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in first.items()}
    once = flat(project_off(primary, first, zeros))
    twice = flat(project_off(primary, first, first))
    np.testing.assert_allclose(once, twice, atol=1e-5)
    assert abs(once @ flat(first)) < 1e-5
    np.testing.assert_array_equal(flat(project_off(primary, zeros, zeros)), flat(primary))


def test_near_rows_are_the_nearest_share_and_never_all():
    retain = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]]), dim=1)
    forget = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assert near_rows(retain, forget, 0.5).tolist() == [True, True, False, False]
    assert near_rows(retain, forget, 0.001).sum() == 1
    assert near_rows(retain, forget, 0.999).sum() == 3


# ---------------------------------------------------------------- the method


def run(**options):
    method = RetainForgetEntanglement(
        RetainForgetEntanglement.Options(**{"batch_size": 12, "epochs": 4.0, "lr": 1e-3, **options})
    )
    with toy_context(method) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return method, start, {n: t.clone() for n, t in ctx.model.weights().items()}, ctx.history, dict(ctx.samples)


def test_a_pin_holds_remote_pairs_nearer_to_where_they_were():
    def last_pin(mu):
        _, _, _, history, _ = run(mu=mu, first_share=0.95, restore_lr=1e-9)
        return abs([point for point in history if "multiplier" in point][-1]["multiplier"])

    method, *_ = run(mu=0.0, first_share=0.95, restore_lr=1e-9)
    free = abs(method._constraint)
    method, *_ = run(mu=100.0, first_share=0.95, restore_lr=1e-9)
    assert last_pin(100.0) > 0
    assert abs(method._constraint) < free


def test_both_stages_share_the_steps_and_the_budget():
    _, start, after, history, samples = run()
    assert samples["forget"] <= 4 * 36
    assert samples["forget"] == samples["retain"]
    assert any("near" in point for point in history)
    assert any("pin" in point for point in history)
    assert any(not torch.equal(start[name], after[name]) for name in start)


def test_what_is_saved_is_taken_back():
    method, *_ = run()
    other = RetainForgetEntanglement()
    other.load_state(method.state())
    assert other._multiplier == method._multiplier
    assert {n: t.tolist() for n, t in other._velocity.items()} == {n: t.tolist() for n, t in method._velocity.items()}
