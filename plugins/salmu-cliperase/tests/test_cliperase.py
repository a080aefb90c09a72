"""CLIPErase: its terms in numbers and what they leave alone."""

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
        consistency_loss,
        forgetting_loss,
    )

METHODS = [ClipErase]
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
