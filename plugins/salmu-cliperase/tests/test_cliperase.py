"""CLIPErase: its terms in numbers, what they leave alone, and the port's target of 0."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, Features

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_cliperase", "beartype.beartype"):
    from salmu_cliperase import (
        ClipErase,
        ClipEraseSalmubench,
        consistency_loss,
        embedding_drift,
        forgetting_loss,
        similarity_drift,
        zero_similarity_loss,
    )

METHODS = [ClipErase, ClipEraseSalmubench]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


def features(seed: int, rows: int = 5, scale: float = 6.0) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(scale, dtype=torch.double))


# Two pairs of cosines 0.6 and -0.8; crossed they are 0.8 and 0.6.
IMAGE = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
TEXT = torch.tensor([[0.6, 0.8], [0.6, -0.8]])


# ---------------------------------------------------------------- as published


def test_forgetting_loss_by_hand():
    assert forgetting_loss(IMAGE, TEXT).item() == pytest.approx((0.6 - 0.8) / 2, abs=1e-6)


def test_the_pull_on_a_pair_does_not_depend_on_its_cosine():
    image = IMAGE.clone().requires_grad_()
    forgetting_loss(image, TEXT).backward()
    torch.testing.assert_close(image.grad, TEXT / 2)


def kl_rows(target: np.ndarray, given: np.ndarray) -> float:
    """Mean over rows of KL(softmax(target) || softmax(given)), written out term by term."""
    total = 0.0
    for theirs, ours in zip(target, given, strict=True):
        p, q = np.exp(theirs) / np.exp(theirs).sum(), np.exp(ours) / np.exp(ours).sum()
        total += sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))
    return total / len(target)


def test_consistency_loss_by_hand():
    # One direction per row: the teacher's logits are equal, p = (1/2, 1/2); the student's differ by log 3, q = (3/4, 1/4).
    # KL = 1/2 log(2/3) + 1/2 log 2 = 1/2 log(4/3) = 0.1438410 for each image; a caption's two logits are equal in both.
    teacher = Features(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.tensor(1.0))
    half = np.log(3) / 2
    student = Features(torch.tensor([[half, 0.0]] * 2).float(), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor(1.0))
    assert consistency_loss(student, teacher).item() == pytest.approx(0.1438410, abs=1e-6)


def test_consistency_over_the_batch_against_numpy():
    student, teacher = features(0), features(1)
    ours, theirs = (6.0 * (part.image @ part.text.T).numpy() for part in (student, teacher))
    expected = kl_rows(theirs, ours) + kl_rows(theirs.T, ours.T)
    assert consistency_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_consistency_of_embeddings_against_numpy():
    student, teacher = features(2), features(3)
    expected = kl_rows(teacher.image.numpy(), student.image.numpy()) + kl_rows(teacher.text.numpy(), student.text.numpy())
    assert consistency_loss(student, teacher, "embedding").item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("distribution", ["batch", "embedding"])
def test_consistency_has_its_minimum_at_the_teacher(distribution):
    teacher = features(4)
    image = teacher.image.clone().requires_grad_()
    loss = consistency_loss(Features(image, teacher.text, teacher.scale), teacher, distribution)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(image.grad, torch.zeros_like(image), atol=1e-12, rtol=0)
    assert consistency_loss(features(5), teacher, distribution).item() > 0


def test_the_terms_are_weighted_and_each_sees_its_own_split():
    weights = {"retain_weight": 2.0, "forget_weight": 5.0, "consistency_weight": 7.0}
    method = ClipErase(ClipErase.Options(**weights))
    with toy_context(method) as ctx:
        method.prepare(ctx)
        batch = Batch({role: next(ctx.batches(role, 12)) for role in ("forget", "retain")})
        with torch.no_grad():
            terms = method.loss(ctx.model, batch)
            image, text, _ = ctx.model(batch.forget)
            retain = ctx.model(batch.retain)
    logits = (retain.scale * retain.image @ retain.text.T).double().numpy()
    rows, columns = np.log(np.exp(logits).sum(axis=1)), np.log(np.exp(logits).sum(axis=0))
    cosines = np.einsum("id,id->i", image.numpy(), text.numpy())
    assert terms["forget"].item() == pytest.approx(5 * cosines.mean(), rel=1e-5)
    assert terms["retain"].item() == pytest.approx(2 * ((rows + columns) / 2 - logits.diagonal()).mean(), rel=1e-5)
    assert terms["consistency"].item() == pytest.approx(0, abs=1e-5)  # the teacher is the model itself


def test_weights_of_zero_change_nothing():
    method = ClipErase(ClipErase.Options(retain_weight=0, forget_weight=0, consistency_weight=0))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before


# ---------------------------------------------------------------- as in SALMUBench's port


def test_zero_similarity_loss_by_hand():
    # Cosines 0.6, 0.6, 0.8, -0.8: the mean square is (0.36 + 0.36 + 0.64 + 0.64) / 4 = 0.5, twice.
    assert zero_similarity_loss(IMAGE, TEXT).item() == pytest.approx(1.0, abs=1e-6)


def test_the_ports_terms_against_numpy_in_both_directions():
    student, teacher = features(6), features(7)
    ours, theirs = ((part.image @ part.text.T).numpy() for part in (student, teacher))
    expected = (ours**2).mean() + (ours.T**2).mean()
    assert zero_similarity_loss(student.image, student.text).item() == pytest.approx(expected, rel=1e-12)
    expected = ((ours - theirs) ** 2).mean() + ((ours.T - theirs.T) ** 2).mean()
    assert similarity_drift(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    expected = sum(((student[side].numpy() - teacher[side].numpy()) ** 2).mean() for side in (0, 1))
    assert embedding_drift(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_zero_is_reached_from_both_sides_and_then_left_alone():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).requires_grad_()
    text = torch.tensor([[0.0, 1.0], [0.0, -1.0]])  # image 0 is unrelated to both captions
    loss = zero_similarity_loss(image, text)
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert torch.equal(image.grad[0], torch.zeros(2))
    torch.testing.assert_close(image.grad[1], torch.tensor([0.0, 2.0]))  # 2 * 2/4 * (1 * v_0 + (-1) * v_1) = (0, 2)


def test_the_retain_terms_have_their_minimum_at_the_teacher():
    teacher = features(8)
    student = Features(*(part.clone().requires_grad_() for part in teacher[:2]), teacher.scale)
    loss = similarity_drift(student, teacher) + embedding_drift(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.image.grad, torch.zeros_like(student.image))
    assert torch.equal(student.text.grad, torch.zeros_like(student.text))


def test_without_the_forget_term_nothing_moves():
    # Rounding differs between the model and its copy, and AdamW would turn the tiniest gradient into a whole step.
    method = ClipEraseSalmubench(ClipEraseSalmubench.Options(forget_weight=0, optimizer="sgd"))
    with toy_context(method) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        for name, tensor in ctx.model.weights().items():
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)


def test_all_cosines_among_forget_pairs_go_to_zero_on_the_toy_benchmark():
    method = ClipEraseSalmubench(ClipEraseSalmubench.Options(lr=1e-3))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        squares = [point["forget"] for point in ctx.history]
    assert squares[-1] < squares[0] / 2


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_teacher_stays_as_it_was_and_the_budget_is_counted(method):
    given = method()
    with toy_context(given) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        assert ctx.model.fingerprint() != before
        assert given._teacher.fingerprint() == before
        assert ctx.samples == {"forget": 4 * 36, "retain": 4 * 24}


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
