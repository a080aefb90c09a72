"""MultiDelete: who is given whose caption, its three terms in numbers, and what they leave alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, Features

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_multidelete", "beartype.beartype"):
    from salmu_multidelete import MultiDelete, decoupling_loss, derangement, embedding_drift, multimodal_loss

METHODS = [MultiDelete]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


def test_keeps_the_contract():
    check_method(MultiDelete)


def features(seed: int, rows: int = 5) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(6.0, dtype=torch.double))


# ---------------------------------------------------------------- the losses


def test_decoupling_loss_by_hand():
    # Student cosines [[1, 0], [0, 1]]; the teacher's are [[0.6, 0.8], [0.8, -0.6]] and with swapped captions
    # [[0.8, 0.6], [-0.6, 0.8]]. Squared differences 0.04, 0.36, 0.36, 0.04: mean 0.2, twice.
    one = torch.tensor(1.0)
    student = Features(torch.eye(2), torch.eye(2), one)
    teacher = Features(torch.eye(2), torch.tensor([[0.6, 0.8], [0.8, -0.6]]), one)
    swapped = decoupling_loss(student, teacher, torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert swapped.item() == pytest.approx(0.4, abs=1e-6)


def test_decoupling_against_the_released_form():
    """The whole matrix against that of permuted captions, both directions, as in the authors' retrieval code."""
    student, teacher = features(0), features(1)
    permuted = torch.tensor([3, 0, 4, 1, 2])
    ours = student.image @ student.text.T
    theirs = teacher.image @ teacher.text[permuted].T
    expected = F.mse_loss(ours, theirs) + F.mse_loss(ours.T, theirs.T)
    rows = torch.tensor([2, 0, 1, 4, 3])  # in whatever order
    assert decoupling_loss(student, teacher, rows, permuted[rows]).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_gradient_of_decoupling_against_finite_differences():
    teacher, given = features(2), features(3)
    rows, other = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 0])
    image = given.image.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u: decoupling_loss(Features(u, given.text, given.scale), teacher, rows, other), image
    )


def test_captions_that_were_given_no_other_get_exactly_no_gradient():
    student, teacher = features(4), features(5)
    text = student.text.clone().requires_grad_()
    decoupling_loss(
        Features(student.image, text, student.scale), teacher, torch.tensor([0, 3]), torch.tensor([3, 0])
    ).backward()
    assert torch.equal(text.grad[[1, 2, 4]], torch.zeros(3, 8, dtype=torch.double))
    assert (text.grad[[0, 3]] != 0).any(dim=1).all()


def test_nobody_to_swap_with_is_no_loss_and_no_gradient():
    student, none = features(6), torch.zeros(0, dtype=torch.long)
    image = student.image.clone().requires_grad_()
    loss = decoupling_loss(Features(image, student.text, student.scale), features(7), none, none)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_the_mean_target_of_a_cosine_is_that_of_the_other_captions_of_its_row():
    teacher = features(8, rows=6)
    cosines = (teacher.image @ teacher.text.T).numpy()
    total = np.zeros((6, 6))
    for seed in range(2000):
        rows, other = derangement(torch.arange(6), torch.Generator().manual_seed(seed))
        total[:, rows.numpy()] += cosines[:, other.numpy()]
    expected = (cosines.sum(axis=1, keepdims=True) - cosines) / 5
    np.testing.assert_allclose(total / 2000, expected, atol=0.05)


def test_multimodal_loss_by_hand():
    # Fused: (1, 1)/sqrt 2 against (1, 0). ((0.7071068 - 1)² + 0.7071068²) / 2 = 0.2928932.
    one = torch.tensor(1.0)
    student = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), one)
    teacher = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]), one)
    assert multimodal_loss(student, teacher).item() == pytest.approx(0.2928932, abs=1e-6)
    # Images are equal, captions are (0, 1) against (1, 0): 0 + (1 + 1)/2.
    assert embedding_drift(student, teacher).item() == pytest.approx(1.0, abs=1e-6)


def test_retention_against_numpy_and_its_minimum_at_the_teacher():
    student, teacher = features(9), features(10)

    def fused(part: Features) -> np.ndarray:
        mean = (part.image.numpy() + part.text.numpy()) / 2
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    expected = ((fused(student) - fused(teacher)) ** 2).mean()
    assert multimodal_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    expected = sum(((student[side].numpy() - teacher[side].numpy()) ** 2).mean() for side in (0, 1))
    assert embedding_drift(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    image = teacher.image.clone().requires_grad_()
    same = Features(image, teacher.text, teacher.scale)
    (multimodal_loss(same, teacher) + embedding_drift(same, teacher)).backward()
    assert torch.equal(image.grad, torch.zeros_like(image))


# ---------------------------------------------------------------- the method


def test_the_terms_are_weighted_and_each_sees_its_own_split():
    method = MultiDelete(MultiDelete.Options(decoupling_weight=3))
    with toy_context(method) as ctx:
        method.prepare(ctx)
        batch = Batch({role: next(ctx.batches(role, 12)) for role in ("forget", "retain")})
        with torch.no_grad():
            terms = method.loss(ctx.model, batch)
            image, text, _ = ctx.model(batch.forget)
        cosines = (image @ text.T).double().numpy()
        association = batch.forget.columns["association"]
        rows, other = derangement(association, ctx.generator("derangement", *range(12)))
    expected = 3 * 2 * ((cosines[:, rows] - cosines[:, other]) ** 2).mean()  # the teacher still is the model
    assert terms["forget"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["multimodal"].item() == pytest.approx(0, abs=1e-9)
    assert terms["unimodal"].item() == pytest.approx(0, abs=1e-9)


def test_captions_are_drawn_anew_for_every_batch_and_alike_in_a_second_run():
    drawn = []
    for _ in range(2):
        method = MultiDelete()
        with toy_context(method) as ctx:
            method.prepare(ctx)
            for pairs in (next(ctx.batches("forget", 12)), next(ctx.batches("forget", 12, shuffle=True))):
                generator = method._generator("derangement", *pairs.index.tolist())
                rows, other = derangement(pairs.columns["association"], generator)
                drawn.append([pairs.index[rows].tolist(), pairs.index[other].tolist()])
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_weights_of_zero_change_nothing():
    weights = dict.fromkeys(("decoupling_weight", "multimodal_weight", "unimodal_weight"), 0)
    method = MultiDelete(MultiDelete.Options(**weights))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before


def test_the_teacher_stays_as_it_was_and_the_budget_is_counted():
    method = MultiDelete()
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() != before
        assert method._teacher.fingerprint() == before
        assert ctx.samples == {"forget": 4 * 36, "retain": 4 * 24}


@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(tower, frozen):
    method = MultiDelete(MultiDelete.Options(tower=tower, epochs=1))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]
