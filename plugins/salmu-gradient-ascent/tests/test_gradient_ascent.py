"""Gradient ascent: its losses in numbers, its options, its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook
from torch import Tensor

from salmu_core import Features
from salmu_core.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_gradient_ascent", "beartype.beartype"):
    from salmu_gradient_ascent import GradientAscent, GradientAscentRetain, ascent_loss, negative_gradient_terms

METHODS = [GradientAscent, GradientAscentRetain]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


def unit_rows(seed: int, rows: int, dim: int = 8) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.double), dim=1)


def infonce(image: Tensor, text: Tensor, scale: float) -> float:
    """CLIP's loss in NumPy: log-sum-exp of rows and of columns minus the diagonal."""
    logits = scale * image.numpy() @ text.numpy().T
    rows, columns = np.log(np.exp(logits).sum(axis=1)), np.log(np.exp(logits).sum(axis=0))
    return float(((rows + columns) / 2 - logits.diagonal()).mean())


def features(seed: int, rows: int = 5, scale: float = 4.0) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(scale, dtype=torch.double))


def test_ascent_loss_by_hand():
    # Two orthogonal pairs that fit, at scale 1: every row and column has logits (1, 0); L_CLIP = log(1 + 1/e) = 0.3132617.
    fit = torch.eye(2)
    assert ascent_loss(Features(fit, fit, torch.tensor(1.0))).item() == pytest.approx(-0.3132617, abs=1e-6)
    # The same pairs swapped: the true logit is 0 and the other 1, so L_CLIP = log(1 + e) = 1.3132617.
    assert ascent_loss(Features(fit, fit.flip(0), torch.tensor(1.0))).item() == pytest.approx(-1.3132617, abs=1e-6)


def test_ascent_loss_is_the_negated_contrastive_loss():
    given = features(0)
    assert ascent_loss(given).item() == pytest.approx(-infonce(given.image, given.text, 4.0), rel=1e-12)


def test_a_step_downhill_raises_the_contrastive_loss():
    image = unit_rows(1, 5).requires_grad_()
    text, scale = unit_rows(2, 5), torch.tensor(4.0, dtype=torch.double)
    (gradient,) = torch.autograd.grad(ascent_loss(Features(image, text, scale)), image)
    moved = (image - 1e-3 * gradient).detach()
    assert infonce(moved, text, 4.0) > infonce(image.detach(), text, 4.0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_negative_gradient_weighs_both_losses(alpha):
    forget, retain = features(3), features(4, rows=7)
    terms = negative_gradient_terms(forget, retain, alpha)
    assert terms["forget"].item() == pytest.approx(-(1 - alpha) * infonce(forget.image, forget.text, 4.0), rel=1e-12)
    assert terms["retain"].item() == pytest.approx(alpha * infonce(retain.image, retain.text, 4.0), rel=1e-12)


def test_the_whole_budget_is_used_and_counted():
    for method, retain in ((GradientAscent, 0), (GradientAscentRetain, 4 * 24)):
        with toy_context(method()) as ctx:
            method().unlearn(ctx)
            assert ctx.samples == {"forget": 4 * 36, "retain": retain}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(method, tower, frozen):
    given = method(method.Options(tower=tower, epochs=1))
    with toy_context(given) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]


def test_ascent_raises_the_forget_loss_on_the_toy_benchmark():
    method = GradientAscent(GradientAscent.Options(schedule="constant"))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        losses = [-point["forget"] for point in ctx.history]
    assert losses[-1] > losses[0] + 0.1
