"""DIET: Busemann's function, transport and the three terms against independent numbers, what it trains, and the card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from scipy.optimize import linprog

from salmu_authors.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_diet", "beartype.beartype"):
    from salmu_diet import Diet, busemann, diet_terms, into_ball, sinkhorn

FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, [Diet])


def test_keeps_the_contract():
    check_method(Diet)


def draw(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def test_the_ball_by_hand():
    found = into_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    expected = np.array([[0.6, 0.8], [0.6, 0.8]]) * np.tanh([[1.0], [0.5]])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def test_busemann_is_the_limit_of_differences_of_hyperbolic_distances():
    """b_p(z) = lim d(z, r p) - d(0, r p) as r goes to 1, with d the distance of the Poincare ball."""
    points, ideal = 0.7 * unit(draw(0, 4, 3)), unit(draw(1, 5, 3))
    near = 1 - 1e-7

    def distance(a, b):
        gap = ((a - b) ** 2).sum(-1)
        return np.arccosh(1 + 2 * gap / (1 - (a**2).sum(-1)) / (1 - (b**2).sum(-1)))

    z, p = points.numpy()[:, None], near * ideal.numpy()[None]
    expected = distance(z, p) - distance(np.zeros(3), p)
    np.testing.assert_allclose(busemann(points, ideal).numpy(), expected, atol=1e-5)


def test_the_plan_has_uniform_marginals_and_tends_to_the_optimum():
    cost = draw(2, 4, 4).abs()
    plan = sinkhorn(cost, 0.01, 2000)
    np.testing.assert_allclose(plan.sum(dim=1), np.full(4, 0.25), atol=1e-9)
    np.testing.assert_allclose(plan.sum(dim=0), np.full(4, 0.25), atol=1e-4)
    rows, columns = np.kron(np.eye(4), np.ones(4)), np.kron(np.ones(4), np.eye(4))
    best = linprog(cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.full(8, 0.25))
    assert (plan * cost).sum().item() == pytest.approx(best.fun, abs=5e-3)


def test_the_terms_by_hand_and_no_row_is_assigned_its_own():
    points, ideal = 0.5 * unit(draw(3, 3, 4)), unit(draw(4, 3, 4))
    own = torch.eye(3, dtype=torch.bool)
    own[0, 1] = own[1, 0] = True  # one association: both may only go to the third caption
    terms = diet_terms(points, ideal, own, 0.5, 1.0)
    d = np.log(((points.numpy()[:, None] - ideal.numpy()[None]) ** 2).sum(-1) / (1 - 0.25))
    plan = sinkhorn(torch.from_numpy(np.where(own.numpy(), 1e3, d)), 0.5).numpy()
    assigned = plan.argmax(1)
    assert assigned[:2].tolist() == [2, 2]
    assert assigned[2] in (0, 1)
    assert terms["boundary"].item() == pytest.approx(d[range(3), assigned].mean())
    others = [max(0.0, 1 - d[i, j]) for i in range(3) for j in range(3) if j != assigned[i]]
    assert terms["repel"].item() == pytest.approx(np.mean(others))
    assert terms["transport"].item() == pytest.approx(np.where(own.numpy(), 0, plan * d).sum())


def test_the_text_encoder_and_what_has_no_adapter_stay():
    method = Diet(Diet.Options(batch_size=12))
    with toy_context(method) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        after = ctx.model.weights()
        changed = {name for name in start if not torch.equal(start[name], after[name])}
        assert changed
        assert all(name.startswith("visual.") and "attn" in name for name in changed)
        assert ctx.samples == {"forget": 144, "retain": 0}
        totals = [sum(v for k, v in point.items() if k in ("boundary", "transport", "repel")) for point in ctx.history]
        assert totals[-1] < totals[0]
