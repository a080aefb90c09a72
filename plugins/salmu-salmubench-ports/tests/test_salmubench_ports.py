"""SALMUBench's ports: their target of 0 and what holds retain pairs, in numbers and on the toy benchmark, and their card."""

from pathlib import Path

import pytest
import torch
from salmu_salmubench_ports import ClipEraseSalmubench, DeleteSalmubench

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Features
from salmu_core.losses import embedding_drift, similarity_drift, zero_similarity_loss

METHODS = [ClipEraseSalmubench, DeleteSalmubench]
FOLDER = Path(__file__).parents[1]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@each_method
def test_keeps_the_contract(method):
    check_method(method)


def features(seed: int, rows: int = 5, scale: float = 6.0) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(scale, dtype=torch.double))


# Two pairs of cosines 0.6 and -0.8; crossed they are 0.8 and 0.6.
IMAGE = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
TEXT = torch.tensor([[0.6, 0.8], [0.6, -0.8]])


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


def test_the_gradient_of_the_zero_target_is_four_times_the_cosine_over_their_number():
    image, text = unit_rows(8, 3), unit_rows(9, 3)
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(zero_similarity_loss(image, text), image)
    torch.testing.assert_close(gradient, 4 / 9 * (image.detach() @ text.T) @ text)


@each_method
def test_without_the_forget_term_nothing_moves(method):
    # Rounding differs between the model and its copy, and AdamW would turn the tiniest gradient into a whole step.
    given = method(method.Options(forget_weight=0, optimizer="sgd"))
    with toy_context(given) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        given.unlearn(ctx)
        for name, tensor in ctx.model.weights().items():
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=0)


@each_method
def test_all_cosines_among_forget_pairs_go_to_zero_and_the_teacher_stays(method):
    given = method(method.Options(lr=1e-3))
    with toy_context(given) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        assert given._teacher.fingerprint() == before
        squares = [point["forget"] for point in ctx.history]
        assert ctx.samples == {"forget": 4 * 36, "retain": 4 * 24}
    assert squares[-1] < squares[0] / 2


@each_method
@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(method, tower, frozen):
    given = method(method.Options(tower=tower, epochs=1))
    with toy_context(given) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]
