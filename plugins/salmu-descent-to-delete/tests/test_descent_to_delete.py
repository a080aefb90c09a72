"""Descent-to-Delete: the theorem's number, and noise that is what it should be."""

import math
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import SalmuError

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_descent_to_delete", "beartype.beartype"):
    from salmu_descent_to_delete import DescentToDelete, noise_deviation

METHODS = [DescentToDelete]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


def test_keeps_the_contract():
    check_method(DescentToDelete)


def test_the_default_is_the_number_of_the_public_configuration():
    # g = (3.999 - 0.001) / 4 = 0.9995, ln(1/delta) = 2 ln(4e8) = 39.6139, sqrt(44.6139) - sqrt(39.6139) = 0.38541:
    # 4 sqrt(2) 1.001 0.9995 / (0.001 4e8 0.0005 0.38541) = 5.65968 / 77.083 = 0.07342.
    assert DescentToDelete().sigma() == pytest.approx(0.0734, abs=5e-5)
    log = 2 * math.log(4e8)
    expected = 5.65968 / (200 * (math.sqrt(log + 5) - math.sqrt(log)))
    assert DescentToDelete().sigma() == pytest.approx(expected, rel=1e-5)


def test_the_formula_by_hand():
    # ln(1/delta) = 4 and epsilon = 5: sqrt 9 - sqrt 4 = 1. g = (3 - 1)/(3 + 1) = 1/2; after two steps 1/4, 1/4 / (3/4) = 1/3.
    given = {
        "lipschitz": 2.0,
        "smoothness": 3.0,
        "convexity": 1.0,
        "dataset_size": 10,
        "epsilon": 5.0,
        "delta": math.exp(-4),
    }
    assert noise_deviation(iterations=1, **given) == pytest.approx(4 * math.sqrt(2) * 2 / 10)
    assert noise_deviation(iterations=2, **given) == pytest.approx(4 * math.sqrt(2) * 2 / (3 * 10))


def test_options_go_into_the_formula():
    sigma = DescentToDelete().sigma()

    def other(**options) -> float:
        return DescentToDelete(DescentToDelete.Options(**options)).sigma()

    assert other(dataset_size=40_000, delta=1 / 4e8**2) == pytest.approx(1e4 * sigma)
    assert other(iterations=2) < sigma
    assert other(epsilon=10) < sigma
    assert other(weight_decay=1e-2) < sigma
    assert other(sigma=0.25) == 0.25


@pytest.mark.parametrize("sigma", [1e-3, 0.05])
def test_the_noise_has_the_deviation_and_no_bias(sigma):
    method = DescentToDelete(DescentToDelete.Options(sigma=sigma))
    with toy_context(method) as ctx:
        before = {name: parameter.detach().clone() for name, parameter in ctx.parameters().items()}
        method.unlearn(ctx)
        change = torch.cat([(parameter.detach() - before[name]).flatten() for name, parameter in ctx.parameters().items()])
        assert ctx.history[-1]["sigma"] == sigma
    assert change.std().item() == pytest.approx(sigma, rel=0.01)
    assert abs(change.mean().item()) < 5 * sigma / math.sqrt(len(change))


def test_every_tensor_and_every_seed_has_noise_of_its_own():
    noise = []
    for seed in (0, 1):
        method = DescentToDelete()
        with toy_context(method, seed=seed) as ctx:
            names = [name for name, parameter in ctx.parameters().items() if parameter.numel() == 32]
            before = {name: ctx.parameters()[name].detach().clone() for name in names}
            method.unlearn(ctx)
            noise += [ctx.parameters()[name].detach() - before[name] for name in names]
    assert len(names) > 1
    for i, first in enumerate(noise):
        assert all(not torch.allclose(first, second, atol=1e-3) for second in noise[:i])


def test_no_noise_changes_nothing():
    method = DescentToDelete(DescentToDelete.Options(sigma=0))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before


@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(tower, frozen):
    method = DescentToDelete(DescentToDelete.Options(tower=tower))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]


def test_it_sees_no_data():
    method = DescentToDelete()
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        assert set(ctx.samples.values()) == {0}
        with pytest.raises(SalmuError, match="has not declared it"):
            ctx.captions("forget")
