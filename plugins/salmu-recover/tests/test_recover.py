"""Recover: the Lagrangian by hand, what the way back brings, resuming, and the card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import SalmuError

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_recover", "beartype.beartype"):
    from salmu_recover import Recover, lagrangian, next_multiplier, squared_distance, violation

FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, [Recover])


def test_keeps_the_contract():
    check_method(Recover)


def test_distance_and_violation_by_hand():
    rng = np.random.default_rng(0)
    now, start = ([rng.normal(size=(2, 3)), rng.normal(size=4)] for _ in range(2))
    expected = sum(((a - b) ** 2).sum() for a, b in zip(now, start, strict=True))
    given = [[torch.from_numpy(part) for part in parts] for parts in (now, start)]
    assert squared_distance(*given).item() == pytest.approx(expected)
    # 0.2 and 0.1 above, the rest does not make up for it.
    assert violation(torch.tensor([0.5, 0.4, -0.9, 0.1]), 0.3).item() == pytest.approx(0.3 / 4)


def test_the_lagrangian_and_its_gradient_by_hand():
    drift, excess = torch.tensor(0.7), torch.tensor(0.2, requires_grad=True)
    terms = lagrangian(drift, excess, multiplier=3.0, mu=10.0)
    assert terms["drift"].item() == pytest.approx(0.7)
    assert terms["forget"].item() == pytest.approx(3 * 0.2 + 5 * 0.04)
    terms["forget"].backward()
    assert excess.grad.item() == pytest.approx(3 + 10 * 0.2)
    assert next_multiplier(0.5, 0.2, 10.0, 0.05) == pytest.approx(2.0)
    assert next_multiplier(0.5, 0.0, 10.0, 0.1) == 0


ASCENT = {"inner": "gradient-ascent-retain", "inner_options": {"batch_size": 12, "lr": 3e-3}}


def run(**options):
    method = Recover(Recover.Options(**{"batch_size": 12, "lr": 1e-3, "check_rows": 14, **ASCENT, **options}))
    with toy_context(method, budget=2.0) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return start, {n: t.clone() for n, t in ctx.model.weights().items()}, ctx


def test_without_pressure_it_goes_back_and_with_pressure_less_far():
    _, _, free = run(mu=0.0)
    _, _, pressed = run(mu=300.0, target=-0.5, slack=0.0)
    assert free.history[-1]["multiplier"] == 0
    assert free.history[-1]["way_left"] < 1 < 10 < pressed.history[-1]["multiplier"]
    assert free.history[-1]["way_left"] < pressed.history[-1]["way_left"]
    assert free.samples["forget"] <= 288


def test_the_inner_method_gets_its_share_of_the_steps():
    _, _, ctx = run(share=0.25)
    assert len([p for p in ctx.history if p["fit"] == 0 and "retain" in p]) == 5  # a quarter of (288 - 14) // 12
    _, _, ctx = run(inner_options={"batch_size": 12, "lr": 3e-3, "epochs": 1.0})
    assert len([p for p in ctx.history if p["fit"] == 0 and "retain" in p]) == 3


def test_what_is_saved_is_taken_back_and_it_does_not_wrap_itself():
    method = Recover()
    method._multiplier = 2.5
    other = Recover()
    other.load_state(method.state())
    assert other._multiplier == 2.5
    with pytest.raises(SalmuError, match="around itself"):
        run(inner="recover", inner_options={})
