"""Gradient ascent: its losses in numbers, its options, its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Features, SalmuError
from salmu_core.builtin.toy import Toy, ToyOptions
from salmu_core.errors import BudgetExceeded

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_gradient_ascent", "beartype.beartype"):
    from salmu_gradient_ascent import (
        AnchoredAscent,
        GradientAscent,
        GradientAscentRetain,
        ascent_loss,
        mismatched_cosine,
        most_steps,
        negative_gradient_terms,
        probe,
    )

METHODS = [GradientAscent, GradientAscentRetain, AnchoredAscent]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


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
    anchor = {"anchor": -1} if method is AnchoredAscent else {}
    given = method(method.Options(tower=tower, epochs=1, **anchor))
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


# ---------------------------------------------------------------- up to an anchor


def test_mismatched_cosine_by_hand_and_against_a_loop():
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    # Images of group 0 with the caption of group 1: 0.6 and 0.6; the image of group 1 with captions 0 and 1: 0 and 0.8.
    assert mismatched_cosine(image, text, torch.tensor([0, 0, 1])).item() == pytest.approx(0.5, abs=1e-6)
    image, text, group = unit_rows(5, 6), unit_rows(6, 6), [0, 3, -1, 3, -1, 0]  # rows of group -1 are alone
    cosines = [
        float(image[i] @ text[j]) for i in range(6) for j in range(6) if i != j and (group[i] != group[j] or group[i] < 0)
    ]
    assert mismatched_cosine(image, text, torch.tensor(group)).item() == pytest.approx(np.mean(cosines), rel=1e-10)


def test_steps_and_measurements_fit_the_samples():
    assert most_steps(100, 10, 20, 2) == 5  # 2 steps, 20 probes, 2 steps, 20 probes: 80; one more step: 90
    assert most_steps(99, 10, 80, 3) == 2  # a third step would need its measurement
    assert most_steps(9, 10, 1, 5) == 0
    for samples in range(0, 400, 7):
        for batch, probes, every in ((10, 20, 2), (7, 50, 3), (16, 1, 1)):
            steps = most_steps(samples, batch, probes, every)
            needed = [n * batch + n // every * probes for n in (steps, steps + 1)]
            assert needed[0] <= samples < needed[1]


def test_the_anchor_is_what_strangers_have_in_common_at_the_start():
    method = AnchoredAscent()
    with toy_context(method) as ctx:
        pairs = next(ctx.batches("forget", 36))
        with torch.no_grad():
            cosines = (ctx.model(pairs).image @ ctx.model(pairs).text.T).numpy()
        people = np.array(ctx.columns("forget")["identity_id"])
    with toy_context(method) as ctx:
        cosine, strangers = probe(ctx, 36)
        assert ctx.samples == {"forget": 36, "retain": 0}
    assert cosine == pytest.approx(cosines.diagonal().mean(), abs=1e-6)
    assert strangers == pytest.approx(cosines[people[:, None] != people[None, :]].mean(), abs=1e-6)


def test_the_probes_are_the_same_in_every_call():
    with toy_context(AnchoredAscent()) as ctx:
        assert probe(ctx, 12) == probe(ctx, 12)


def run_anchored(**options):
    method = AnchoredAscent(AnchoredAscent.Options(schedule="constant", batch_size=6, every=2, probes=6, **options))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        return ctx, before


def test_it_stops_at_the_first_measurement_below_the_anchor():
    ctx, _ = run_anchored(anchor=-1, lr=1e-3)  # never reached
    free = [point["probe_cosine"] for point in ctx.history if "probe_cosine" in point]
    steps = most_steps(4 * 36 - 6, 6, 6, 2)
    assert ctx.steps == steps
    assert len(free) == 1 + steps // 2
    assert ctx.samples["forget"] == 6 + 6 * steps + 6 * (steps // 2) <= 4 * 36
    lowered = next(number for number in range(2, len(free)) if free[number] < min(free[:number]))
    anchor = (free[lowered] + min(free[:lowered])) / 2
    ctx, _ = run_anchored(anchor=anchor, lr=1e-3)
    measured = [point["probe_cosine"] for point in ctx.history if "probe_cosine" in point]
    # Up to there the two runs are one and the same.
    assert measured == free[: lowered + 1]
    assert ctx.steps == 2 * lowered
    assert measured[-1] <= anchor < min(measured[:-1])


def test_pairs_that_are_at_the_anchor_from_the_start_change_nothing():
    ctx, before = run_anchored(anchor=1.0)
    assert ctx.model.fingerprint() == before
    assert ctx.samples == {"forget": 6, "retain": 0}
    assert ctx.steps == 0


def test_given_epochs_need_room_for_the_probes():
    ctx, _ = run_anchored(anchor=-1, epochs=2)
    assert ctx.steps == 12
    with pytest.raises(BudgetExceeded, match="asks for 24 steps"):
        run_anchored(anchor=-1, epochs=4)


def test_an_anchor_of_one_person_cannot_be_measured():
    method, alone = AnchoredAscent(), Toy(ToyOptions(identities=1))
    with toy_context(method, benchmark=alone) as ctx, pytest.raises(SalmuError, match="one identity") as found:
        method.unlearn(ctx)
    assert "--set anchor=" in str(found.value)
