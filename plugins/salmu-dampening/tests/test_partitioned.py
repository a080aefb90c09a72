"""PPP: regions, factors, prototypes and gamma by hand, what is dampened on the toy benchmark."""

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_dampening", "beartype.beartype"):
    from salmu_dampening.partitioned import (
        PartitionedDampening,
        disparity,
        factors,
        nearest_share,
        prototypes,
        regions,
    )


def test_keeps_the_contract():
    check_method(PartitionedDampening)


# ---------------------------------------------------------------- formulas

#                        shared  buffer  core   nothing
FORGET = torch.tensor([1.0, 8.0, 8.0, 0.0])
NEAR = torch.tensor([0.0, 5.0, 1.0, 0.0])
RETAIN = torch.tensor([0.9, 2.0, 2.0, 0.0])


def test_regions_and_factors_by_hand():
    parts = regions(FORGET, NEAR, RETAIN, alpha=2.0, tau=2.0)
    assert parts.buffer.tolist() == [False, True, False, False]
    assert parts.core.tolist() == [False, False, True, False]
    # (2 * 2 / 8)^2 = 1/4; in the core -3 times that.
    found = factors(FORGET, RETAIN, parts, strength=2.0, cap=1.0, gamma=3.0)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.25, -0.75, 1.0]))
    capped = factors(FORGET, RETAIN, parts, strength=2.0, cap=0.1, gamma=3.0)
    torch.testing.assert_close(capped, torch.tensor([1.0, 0.1, -0.3, 1.0]))


def test_weights_that_forget_pairs_do_not_need_stay_whatever_the_options():
    zero, some = torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])
    parts = regions(zero, some, some, alpha=0.0, tau=5.0)
    assert torch.equal(factors(zero, some, parts, 1.0, 1.0, 1.0), torch.ones(3))


def test_prototypes_are_means_of_groups_and_lonely_rows_are_their_own():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]])
    found = prototypes(rows, torch.tensor([4, 4, -1, -1]))
    half = 0.5**0.5
    np.testing.assert_allclose(sorted(found.tolist()), [[0.6, 0.8], [half, half], [1.0, 0.0]], atol=1e-6)


def test_neighbours_are_the_nearest_to_any_prototype_and_never_all():
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    centres = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    near, distance = nearest_share(rows, centres, 0.5)
    assert near.tolist() == [True, True, False, False]
    torch.testing.assert_close(distance, torch.tensor([0.0, 0.2, 1.0, 1.0]))
    assert nearest_share(rows, centres, 0.01)[0].sum() == 1
    assert nearest_share(rows, centres, 0.99)[0].sum() == 3
    assert disparity(distance, near) == pytest.approx((1.0 / 0.1) ** 2, rel=1e-5)


# ---------------------------------------------------------------- the method


def run(**options):
    method = PartitionedDampening(PartitionedDampening.Options(**{"batch_size": 12, **options}))
    with toy_context(method) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return start, {n: t.clone() for n, t in ctx.model.weights().items()}, ctx.history[-1], dict(ctx.samples)


def test_every_pass_is_counted_and_nothing_is_dampened_beyond_reach():
    start, after, facts, samples = run(alpha=1e30)
    assert samples == {"forget": 2 * 36, "retain": 3 * 24}
    # Within reach are weights that no retain pair uses, and those whose gradient underflows there, which depends on the processor.
    reached = facts["buffer_share"] + facts["core_share"]
    assert reached < 1e-3
    changed = sum(int((start[name] != after[name]).sum()) for name in start)
    assert changed <= round(reached * sum(tensor.numel() for tensor in start.values()))


def test_a_larger_tau_moves_weights_from_the_core_to_the_buffer_and_the_core_changes_sign():
    _, _, low, _ = run(alpha=1.0, tau=0.0, gamma=0.5)
    start, after, high, _ = run(alpha=1.0, tau=1e9, gamma=0.5)
    assert low["buffer_share"] == 0 < low["core_share"]
    assert high["buffer_share"] > 0.9 * low["core_share"]
    negative = sum(int(((after[n] * start[n]) < 0).sum()) for n in start if start[n].is_floating_point())
    assert negative <= high["core_share"] * sum(t.numel() for t in start.values()) + 1


def test_gamma_is_measured_unless_it_is_given():
    assert run(gamma=0.25)[2]["gamma"] == 0.25
    assert run()[2]["gamma"] > 1  # the rest is further away than the neighbours
