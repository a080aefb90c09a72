"""DELETE: its loss in numbers, the group mask, the bank, and its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook
from torch import Tensor

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, Features
from salmu_core.losses import group_mask

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_distillation", "beartype.beartype"):
    from salmu_distillation import (
        Delete,
        delete_loss,
        embed,
        masked_distillation,
        same_pair,
    )

METHODS = [Delete]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


def random_logits(seed: int, rows: int = 4, candidates: int = 6) -> Tensor:
    return 3 * torch.randn(rows, candidates, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def numpy_softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def numpy_masked_distillation(student: Tensor, teacher: Tensor, same: Tensor) -> float:
    """Mean KL over rows with at least one candidate, written out term by term."""
    total, rows = 0.0, 0
    for student_row, teacher_row, hidden in zip(student.numpy(), teacher.numpy(), same.numpy(), strict=True):
        if hidden.all():
            continue
        target = np.where(hidden, 0, np.exp(teacher_row - teacher_row[~hidden].max()))
        target = target / target.sum()
        given = numpy_softmax(student_row[None])[0]
        total += sum(p * (np.log(p) - np.log(q)) for p, q in zip(target, given, strict=True) if p > 0)
        rows += 1
    return total / rows


MASK = torch.tensor(
    [
        [True, False, False, False, False, False],
        [False, True, False, True, False, False],
        [False, False, True, False, False, True],
        [False, True, False, True, False, False],
    ]
)


def test_masked_distillation_by_hand():
    # One row of three equal candidates, the first masked: p = (0, 1/2, 1/2), q = (1/3, 1/3, 1/3), KL = log(3/2) = 0.4054651.
    logits, same = torch.zeros(1, 3), torch.tensor([[True, False, False]])
    assert masked_distillation(logits, logits, same).item() == pytest.approx(0.4054651, abs=1e-6)
    # The student already gives the masked candidate nothing: no loss.
    student = torch.tensor([[-50.0, 0.0, 0.0]])
    assert masked_distillation(student, logits, same).item() == pytest.approx(0, abs=1e-6)


def test_masked_distillation_against_numpy():
    student, teacher = random_logits(0), random_logits(1)
    expected = numpy_masked_distillation(student, teacher, MASK)
    assert masked_distillation(student, teacher, MASK).item() == pytest.approx(expected, rel=1e-10)


def test_masking_with_minus_ten_billion_as_released_is_the_same():
    student, teacher = random_logits(0), random_logits(1)
    released = F.kl_div(student.log_softmax(dim=1), teacher.masked_fill(MASK, -1e10).softmax(dim=1), reduction="batchmean")
    assert masked_distillation(student, teacher, MASK).item() == pytest.approx(released.item(), rel=1e-12)


def test_it_decomposes_into_forgetting_and_keeping():
    student, teacher = random_logits(2), random_logits(3)
    q = student.softmax(dim=1)
    forgetting = -(1 - (q * MASK).sum(dim=1)).log()
    rest = (q * ~MASK) / (q * ~MASK).sum(dim=1, keepdim=True)
    p = teacher.masked_fill(MASK, -torch.inf).softmax(dim=1)
    keeping = torch.special.xlogy(p, p / rest.where(~MASK, torch.ones_like(rest))).sum(dim=1)
    whole = masked_distillation(student, teacher, MASK)
    assert whole.item() == pytest.approx((forgetting + keeping).mean().item(), rel=1e-12)


def test_the_gradient_is_q_minus_p():
    student, teacher = random_logits(4).requires_grad_(), random_logits(5)
    (gradient,) = torch.autograd.grad(masked_distillation(student, teacher, MASK), student)
    p = teacher.masked_fill(MASK, -torch.inf).softmax(dim=1)
    torch.testing.assert_close(gradient, (student.detach().softmax(dim=1) - p) / len(student))
    nudge = torch.zeros_like(student)
    nudge[1, 3] = 1e-6
    up, down = (masked_distillation(student.detach() + s * nudge, teacher, MASK).item() for s in (1, -1))
    assert gradient[1, 3].item() == pytest.approx((up - down) / 2e-6, rel=1e-5)


def test_masked_candidates_are_only_pushed_down_and_the_teacher_has_no_say_in_them():
    student, teacher = random_logits(6).requires_grad_(), random_logits(7)
    (gradient,) = torch.autograd.grad(masked_distillation(student, teacher, MASK), student)
    assert (gradient[MASK] > 0).all()  # downhill lowers the logit of the own pair
    louder = teacher + 100 * MASK
    (again,) = torch.autograd.grad(masked_distillation(student, louder, MASK), student)
    torch.testing.assert_close(again, gradient)


def test_rows_without_a_candidate_are_left_out():
    student, teacher = random_logits(8), random_logits(9)
    same = MASK.clone()
    same[2] = True
    rest = torch.tensor([0, 1, 3])
    alone = masked_distillation(student[rest], teacher[rest], same[rest])
    assert masked_distillation(student, teacher, same).item() == pytest.approx(alone.item(), rel=1e-12)


def test_nothing_to_distil_is_no_loss_and_no_gradient():
    student = random_logits(10).requires_grad_()
    loss = masked_distillation(student, random_logits(11), torch.ones(4, 6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def features(seed: int, rows: int = 5, scale: float = 7.0) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(scale, dtype=torch.double))


@pytest.mark.parametrize("temperature", [1.0, 3.5])
def test_delete_loss_is_the_mean_of_both_directions(temperature):
    student, teacher, bank = features(0), features(1), features(2, rows=3)
    association = torch.tensor([0, 1, 0, 2, -1])
    same = torch.cat([group_mask(association), torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) < 0.3], dim=1)

    def logits(queries: Tensor, candidates: Tensor, more: Tensor) -> Tensor:
        return 7.0 / temperature * queries @ torch.cat([candidates, more]).T

    expected = (
        numpy_masked_distillation(
            logits(student.image, student.text, bank.text), logits(teacher.image, teacher.text, bank.text), same
        )
        + numpy_masked_distillation(
            logits(student.text, student.image, bank.image), logits(teacher.text, teacher.image, bank.image), same
        )
    ) / 2
    assert delete_loss(student, teacher, same, temperature, bank).item() == pytest.approx(expected, rel=1e-10)


def test_paraphrases_of_one_association_are_the_same_pair():
    association, index = torch.tensor([4, 7, 4, -1, -1]), torch.arange(5)
    expected = torch.eye(5, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = True
    assert torch.equal(same_pair(association, index, association, index), expected)
    assert torch.equal(group_mask(association), expected)


def test_the_group_mask_between_batch_and_bank_by_hand():
    same = same_pair(
        torch.tensor([4, 7, -1]), torch.tensor([0, 1, 2]), torch.tensor([7, -1, -1, 4]), torch.tensor([9, 2, 8, 0])
    )
    assert same.tolist() == [[False, False, False, True], [True, False, False, False], [False, True, False, False]]


def test_a_paraphrase_gets_no_pull_from_the_teacher():
    """Two captions of one association: without the group mask each would be the other's best target."""
    image = torch.eye(4, dtype=torch.double)
    text = F.normalize(image + 0.1, dim=1)
    text[1] = text[0]  # caption 1 fits image 0 as well as image 0's own caption does
    teacher = Features(image, text, torch.tensor(7.0, dtype=torch.double))
    for association, pulled in ((torch.tensor([0, 0, 1, 2]), False), (torch.tensor([0, 3, 1, 2]), True)):
        student_text = text.clone().requires_grad_()
        delete_loss(Features(image, student_text, teacher.scale), teacher, group_mask(association)).backward()
        towards_image = -(student_text.grad[1] @ image[0]).item()
        assert (towards_image > 0) == pulled


def test_the_first_loss_on_the_toy_benchmark_is_the_mass_of_the_own_pair():
    """Teacher and student are equal at first, so only the forgetting part, -log(1 - q_y), is there."""
    method = Delete()
    with toy_context(method) as ctx:
        method.prepare(ctx)
        pairs = next(ctx.batches("forget", 12))
        with torch.no_grad():
            loss = method.loss(ctx.model, Batch({"forget": pairs}))["forget"].item()
            image, text, scale = ctx.model(pairs)
        rows = list(zip(ctx.columns("forget")["identity_id"], ctx.columns("forget")["data_field"], strict=True))[:12]
        same = np.array([[row == other for other in rows] for row in rows])
        q = [numpy_softmax(z.double().numpy()) for z in (scale * image @ text.T, scale * text @ image.T)]
        expected = np.mean([-np.log(1 - (part * same).sum(axis=1)).mean() for part in q])
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_teacher_stays_as_it_was():
    method = Delete()
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() != before
        assert method._teacher.fingerprint() == before
        assert ctx.samples == {"forget": 4 * 36, "retain": 0}


def test_a_bank_is_counted_and_a_function_of_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        method = Delete(Delete.Options(bank=10))
        with toy_context(method, seed=seed) as ctx:
            method.prepare(ctx)
            assert ctx.samples == {"forget": 10, "retain": 0}
            drawn.append(method._bank.rows.tolist())
            image, text, _ = method._bank.features
            assert len(set(drawn[-1])) == image.shape[0] == text.shape[0] == 10
            assert not image.requires_grad
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_bank_adds_candidates_and_keeps_the_contract():
    check_method(Delete, bank=10, epochs=2)
    method = Delete(Delete.Options(bank=1000))  # more than there are: all of them
    with toy_context(method) as ctx:
        method.prepare(ctx)
        assert sorted(method._bank.rows.tolist()) == list(range(36))
        pairs = next(ctx.batches("forget", 6))
        own = same_pair(pairs.columns["association"], pairs.index, method._bank.association, method._bank.rows)
        assert own.sum(dim=1).tolist() == [2] * 6  # the toy has two photos of each association
        assert torch.isfinite(method.loss(ctx.model, Batch({"forget": pairs}))["forget"])


def test_embedding_in_chunks_is_embedding_at_once():
    method = Delete()
    with toy_context(method) as ctx:
        pieces, whole = embed(ctx.model, ctx.batches("forget", 7)), embed(ctx.model, ctx.batches("forget", 36))
    torch.testing.assert_close(pieces.features.image, whole.features.image)
    torch.testing.assert_close(pieces.features.text, whole.features.text)
    assert torch.equal(pieces.association, whole.association)


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
