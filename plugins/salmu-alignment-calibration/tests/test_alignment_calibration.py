"""Alignment Calibration: its terms in numbers, what beta takes back, the group mask, and what it leaves alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, Features
from salmu_core.losses import contrastive_loss, group_mask

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_alignment_calibration", "beartype.beartype"):
    from salmu_alignment_calibration import AlignmentCalibration, calibration_terms, pair_losses

METHODS = [AlignmentCalibration]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


def test_keeps_the_contract():
    check_method(AlignmentCalibration)


SCALE = 6.0


def features(seed: int, rows: int) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(SCALE, dtype=torch.double))


# Three forget pairs, of which two are of one association, and four retain pairs.
SAME = torch.block_diag(group_mask(torch.tensor([0, 1, 0])), group_mask(torch.full((4,), -1))).bool()


def numpy_losses(forget: Features, retain: Features, same: Tensor) -> np.ndarray:
    """CLIP's loss of each pair, over what the mask leaves."""
    image, text = (np.concatenate([forget[side].numpy(), retain[side].numpy()]) for side in (0, 1))
    logits = SCALE * image @ text.T
    losses = []
    for i in range(len(logits)):
        left = [j for j in range(len(logits)) if j == i or not same[i, j]]
        row, column = (np.log(np.exp(part[left]).sum()) for part in (logits[i], logits[:, i]))
        losses.append((row + column) / 2 - logits[i, i])
    return np.array(losses)


def test_the_terms_by_hand():
    # One forget and one retain pair, orthogonal, that fit, at scale 1: each has log(1 + 1/e) = 0.3132617, so weights do not
    # matter. The forget pair is half of the batch and has cosine 1: beta/2.
    forget = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor(1.0))
    retain = Features(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor(1.0))
    terms = calibration_terms(forget, retain, torch.eye(2, dtype=torch.bool), 3.0, 0.8)
    assert terms["contrastive"].item() == pytest.approx(0.3132617, abs=1e-6)
    assert terms["alignment"].item() == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (0.4, 2.5)])
def test_the_terms_against_numpy(alpha, beta):
    forget, retain = features(0, 3), features(1, 4)
    losses = numpy_losses(forget, retain, SAME)
    terms = calibration_terms(forget, retain, SAME, alpha, beta)
    weights = np.array([alpha] * 3 + [1.0] * 4)
    assert terms["contrastive"].item() == pytest.approx((weights * losses).sum() / weights.sum(), rel=1e-12)
    cosines = np.einsum("id,id->i", forget.image.numpy(), forget.text.numpy())
    assert terms["alignment"].item() == pytest.approx(beta * 3 / 7 * SCALE * cosines.mean(), rel=1e-12)


def test_without_weights_and_mask_it_is_clips_loss_of_both_batches():
    forget, retain = features(2, 3), features(3, 4)
    terms = calibration_terms(forget, retain, torch.eye(7, dtype=torch.bool), 1.0, 0.0)
    image, text = torch.cat([forget.image, retain.image]), torch.cat([forget.text, retain.text])
    assert terms["contrastive"].item() == pytest.approx(contrastive_loss(image, text, SCALE).item(), rel=1e-12)
    assert terms["alignment"].item() == 0


def test_at_one_and_one_a_forget_pairs_own_pull_is_taken_back():
    """What is left of its cosine's gradient is its probability as an alternative, which is above 0: it is pushed down."""
    forget, retain = features(4, 3), features(5, 4)
    image, text = torch.cat([forget.image, retain.image]), torch.cat([forget.text, retain.text])
    logits = SCALE * image @ text.T
    hidden = logits.masked_fill(SAME & ~torch.eye(7, dtype=torch.bool), -torch.inf)
    probability = ((hidden.softmax(dim=1) + hidden.softmax(dim=0)) / 2).diagonal()
    for beta, kept in ((0.0, 1.0), (1.0, 0.0), (2.0, -1.0)):
        given = forget.image.clone().requires_grad_()
        terms = calibration_terms(Features(given, forget.text, forget.scale), retain, SAME, 1.0, beta)
        (gradient,) = torch.autograd.grad(sum(terms.values()), given)
        # The same by hand: caption j pulls image i by its mean probability over both directions, the own one by -kept too.
        both = (hidden.softmax(dim=1) + hidden.softmax(dim=0)) / 2
        expected = SCALE / 7 * (both[:3] @ text - kept * forget.text)
        torch.testing.assert_close(gradient, expected)
    assert (probability[:3] > 0).all()


def test_paraphrases_are_not_each_others_alternatives():
    forget, retain = features(6, 3), features(7, 4)
    text = torch.cat([forget.text, retain.text]).requires_grad_()
    image = torch.cat([forget.image, retain.image])
    pair_losses(image, text, forget.scale, SAME)[0].backward()
    assert torch.equal(text.grad[2], torch.zeros(8, dtype=torch.double))
    assert (text.grad[[0, 1, 3, 4, 5, 6]] != 0).any(dim=1).all()


def test_the_gradient_against_finite_differences():
    forget, retain = features(8, 3), features(9, 4)

    def total(image: Tensor, text: Tensor) -> Tensor:
        terms = calibration_terms(Features(image, text, forget.scale), retain, SAME, 0.5, 1.5)
        return terms["contrastive"] + terms["alignment"]

    assert torch.autograd.gradcheck(total, (forget.image.clone().requires_grad_(), forget.text.clone().requires_grad_()))


def test_the_loss_on_the_toy_benchmark_masks_forget_associations_only():
    method = AlignmentCalibration(AlignmentCalibration.Options(alpha=0.5, beta=2))
    with toy_context(method) as ctx:
        batch = Batch({role: next(ctx.batches(role, 12)) for role in ("forget", "retain")})
        with torch.no_grad():
            terms = method.loss(ctx.model, batch)
            forget, retain = (
                Features(part.image.double(), part.text.double(), part.scale.double())
                for part in (ctx.model(batch.forget), ctx.model(batch.retain))
            )
        people, fields = ctx.columns("forget")["identity_id"], ctx.columns("forget")["data_field"]
        same = torch.eye(24, dtype=torch.bool)
        for i in range(12):
            for j in range(12):
                same[i, j] = (people[i], fields[i]) == (people[j], fields[j])
        factor = (forget.scale / SCALE).item()  # numpy_losses has SCALE in it
        losses = numpy_losses(
            forget._replace(image=forget.image * factor), retain._replace(image=retain.image * factor), same
        )
        cosine = np.einsum("id,id->i", forget.image.numpy(), forget.text.numpy()).mean()
        scale = forget.scale.item()
    assert terms["contrastive"].item() == pytest.approx((0.5 * losses[:12].sum() + losses[12:].sum()) / 18, rel=1e-4)
    assert terms["alignment"].item() == pytest.approx(2 / 2 * scale * cosine, rel=1e-4)


def test_forget_cosines_fall_on_the_toy_benchmark():
    method = AlignmentCalibration(AlignmentCalibration.Options(lr=1e-3, schedule="constant", beta=2))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        alignment = [point["alignment"] for point in ctx.history]
        assert ctx.samples == {"forget": 4 * 36, "retain": 4 * 24}
    assert alignment[-1] < alignment[0] - 0.1


@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(tower, frozen):
    method = AlignmentCalibration(AlignmentCalibration.Options(tower=tower, epochs=1))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]
