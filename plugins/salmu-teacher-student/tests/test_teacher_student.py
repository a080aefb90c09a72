"""Teacher and student: divergences in numbers, the order of SCRUB's steps, rewinding, teachers, and their card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from torch import Tensor

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, Features, SalmuError
from salmu_core.builtin.toy import Toy
from salmu_core.losses import contrastive_loss, pair_cosine
from salmu_core.runner.checkpoints import Checkpoints

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_teacher_student", "beartype.beartype"):
    from salmu_teacher_student import (
        BadTeacher,
        Rewind,
        Scrub,
        check_steps,
        maximises,
        other_wordings,
        pair_divergence,
        row_divergence,
        untrained_twin,
    )

METHODS = [Scrub, BadTeacher]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


# ---------------------------------------------------------------- divergences


def features(seed: int, rows: int = 5, scale: float = 7.0) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(scale, dtype=torch.double))


def random_logits(seed: int, rows: int = 4) -> Tensor:
    return 3 * torch.randn(rows, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# Rows 0 and 2 are one association, rows 1 and 3 have none.
HIDDEN = torch.zeros(4, 4, dtype=torch.bool)
HIDDEN[0, 2] = HIDDEN[2, 0] = True
NOTHING = torch.zeros(4, 4, dtype=torch.bool)


def numpy_divergence(student: Tensor, teacher: Tensor, hidden: Tensor) -> float:
    """Mean KL over rows, each with its own list of candidates, term by term."""
    total = 0.0
    for given, target, out in zip(student.numpy(), teacher.numpy(), hidden.numpy(), strict=True):
        p, q = (np.exp(row[~out]) / np.exp(row[~out]).sum() for row in (target, given))
        total += float((p * np.log(p / q)).sum())
    return total / len(student)


def test_row_divergence_by_hand():
    # p = (1/2, 1/2), q = (3/4, 1/4): KL = 1/2 log(2/3) + 1/2 log 2 = 0.1438410.
    student, teacher = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    assert row_divergence(student, teacher, torch.tensor([[False, False]])).item() == pytest.approx(0.1438410, abs=1e-6)
    # One candidate is left: nothing to tell apart.
    assert row_divergence(student, teacher, torch.tensor([[False, True]])).item() == 0


@pytest.mark.parametrize("hidden", [NOTHING, HIDDEN], ids=["all", "some hidden"])
def test_row_divergence_against_numpy(hidden):
    student, teacher = random_logits(0), random_logits(1)
    expected = numpy_divergence(student, teacher, hidden)
    assert row_divergence(student, teacher, hidden).item() == pytest.approx(expected, rel=1e-10)


def test_the_gradient_is_q_minus_p_and_none_where_hidden():
    student, teacher = random_logits(2).requires_grad_(), random_logits(3)
    (gradient,) = torch.autograd.grad(row_divergence(student, teacher, HIDDEN), student)
    p, q = (logits.detach().masked_fill(HIDDEN, -torch.inf).softmax(dim=1) for logits in (teacher, student))
    torch.testing.assert_close(gradient, (q - p) / 4)
    assert torch.equal(gradient[HIDDEN], torch.zeros(2, dtype=torch.double))
    assert (gradient[~HIDDEN] != 0).all()
    louder = teacher + 100 * HIDDEN
    (again,) = torch.autograd.grad(row_divergence(student, louder, HIDDEN), student)
    assert torch.equal(again, gradient)


def test_the_gradient_against_finite_differences():
    student, teacher = random_logits(4), random_logits(5)
    leaf = student.clone().requires_grad_()
    row_divergence(leaf, teacher, HIDDEN).backward()
    nudge = torch.zeros_like(student)
    nudge[2, 3] = 1e-6
    up, down = (row_divergence(student + sign * nudge, teacher, HIDDEN).item() for sign in (1, -1))
    assert leaf.grad[2, 3].item() == pytest.approx((up - down) / 2e-6, rel=1e-5)


def test_hidden_candidates_leave_a_gradient_that_is_finite_in_single_precision():
    student, teacher = random_logits(6).float().requires_grad_(), random_logits(7).float()
    loss = row_divergence(student, teacher, ~torch.eye(4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros(4, 4))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_pair_divergence_is_the_mean_of_both_directions(temperature):
    student, teacher = features(0, 4, scale=5.0), features(1, 4, scale=9.0)
    given = 5.0 / temperature * student.image @ student.text.T
    target = 9.0 / temperature * teacher.image @ teacher.text.T
    expected = temperature**2 * (numpy_divergence(given, target, HIDDEN) + numpy_divergence(given.T, target.T, HIDDEN.T)) / 2
    assert pair_divergence(student, teacher, HIDDEN, temperature).item() == pytest.approx(expected, rel=1e-10)


def test_a_student_that_is_the_teacher_does_not_diverge():
    same = features(2, 4)
    assert pair_divergence(same, same, NOTHING, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_other_wordings_by_hand():
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = True
    assert torch.equal(other_wordings(torch.tensor([4, 7, 4, -1, -1])), expected)


# ---------------------------------------------------------------- SCRUB


def test_the_order_of_steps_by_hand():
    kinds = ["max" if maximises(step, 10, 0.5) else "min" for step in range(10)]
    assert kinds == ["min", "max", "min", "max", "min", "min", "min", "min", "min", "min"]
    assert [step for step in range(10) if maximises(step, 10, 1.0)] == [1, 3, 5, 7]  # never the last
    assert not any(maximises(step, 10, 0.0) for step in range(10))


def test_checks_are_spaced_evenly_and_never_follow_a_step_that_leaves_the_teacher():
    assert check_steps(10, 5, 0.0) == {2, 4, 6, 8, 10}
    assert check_steps(10, 5, 0.5) == {3, 5, 6, 8, 10}
    for steps in range(1, 40):
        for share in (0.0, 0.3, 1.0):
            due = check_steps(steps, 5, share)
            assert max(due) == steps
            assert not any(maximises(step - 1, steps, share) for step in due)


def test_rewind_keeps_the_nearest_and_of_equals_the_later():
    rewind, weight = Rewind(0.25), torch.zeros(1)
    for value, similarity in enumerate([0.9, 0.5, 0.0, 0.75, float("nan")]):
        weight.fill_(value)
        rewind.offer(similarity, {"w": weight})
    assert rewind.weights["w"].item() == 2  # 0.5 and 0 are as near
    assert rewind.distance == 0.25


def test_the_loss_of_each_kind_of_step():
    method = Scrub(Scrub.Options(gamma=0.7, alpha=0.3, temperature=3.0))
    with toy_context(method) as ctx, torch.no_grad():
        method._teacher, method._steps = ctx.frozen_copy(), 10
        for parameter in ctx.parameters("image").values():
            parameter.mul_(1.2)
        batch = Batch({"forget": next(ctx.batches("forget", 12)), "retain": next(ctx.batches("retain", 24))})
        method._done = 1
        terms = method.loss(ctx.model, batch)
        rows = list(zip(ctx.columns("forget")["identity_id"], ctx.columns("forget")["data_field"], strict=True))[:12]
        hidden = torch.tensor([[i != j and rows[i] == rows[j] for j in range(12)] for i in range(12)])
        assert hidden.sum() == 12  # two photos of each association
        expected = pair_divergence(ctx.model(batch.forget), method._teacher(batch.forget), hidden, 3.0).item()
        assert list(terms) == ["forget"]
        assert terms["forget"].item() == pytest.approx(-expected, rel=1e-4)
        assert expected > 0
        method._done = 2
        terms = method.loss(ctx.model, batch)
        student, teacher = ctx.model(batch.retain), method._teacher(batch.retain)
        nothing = torch.zeros(24, 24, dtype=torch.bool)
        assert terms["retain"].item() == pytest.approx(0.7 * contrastive_loss(*student).item(), rel=1e-5)
        assert terms["teacher"].item() == pytest.approx(
            0.3 * pair_divergence(student, teacher, nothing, 3.0).item(), rel=1e-4
        )


def test_it_ends_with_the_checked_model_that_is_nearest_to_the_reference():
    method = Scrub(Scrub.Options(lr=3e-3, batch_size=6, check_rows=6))
    with toy_context(method) as ctx:
        reference = ctx.unrelated_similarity(6)
        ctx._meter.seen = {"forget": 0, "retain": 0}
        method.unlearn(ctx)
        checked = {point["checked_step"]: point["similarity"] for point in ctx.history if "checked_step" in point}
        assert len(checked) == 5
        assert ctx.samples["forget"] <= 144
        ctx._meter.seen = {"forget": 0, "retain": 0}
        distances = [abs(similarity - reference) for similarity in checked.values()]
        assert len(set(distances)) > 1
        assert abs(ctx.forget_similarity(6) - reference) == pytest.approx(min(distances), abs=1e-6)


def test_without_rewinding_nothing_is_measured_and_the_last_model_stays():
    method = Scrub(Scrub.Options(rewind=False))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 144, "retain": 96}
        assert not any("reference" in point for point in ctx.history)
        assert method.state().keys() == {"done"}


def test_measurements_take_at_most_a_quarter_of_the_forget_budget():
    method = Scrub(Scrub.Options(checks=2, batch_size=6))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 3 * 12 + 18 * 6, "retain": 18 * 6}


def test_epochs_that_leave_no_room_for_checks_are_refused_before_training():
    with toy_context(method := Scrub(Scrub.Options(epochs=4))) as ctx, pytest.raises(SalmuError, match="no room") as found:
        method.unlearn(ctx)
    assert ctx.samples == {"forget": 0, "retain": 0}
    assert "rewind=false" in str(found.value)


def test_neither_loss_nor_max_steps_change_nothing():
    method = Scrub(Scrub.Options(max_share=0, gamma=0, alpha=0, lr=1e-2))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("at", [3, 4, 9])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, at):
    """The step's kind and the model to rewind to outlive the process."""
    options = Scrub.Options(lr=1e-3, batch_size=6, check_rows=6)  # the first of its checks, at step 5, is the nearest

    class Cut(Scrub):
        def loss(self, model, batch):
            if self._done == at:
                raise Killed
            return super().loss(model, batch)

    with toy_context(whole := Scrub(options)) as ctx:
        whole.unlearn(ctx)
        expected, samples = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, dict(ctx.samples)
    with toy_context(cut := Cut(options)) as ctx:
        ctx._checkpoints = Checkpoints(tmp_path, every_seconds=0)
        with pytest.raises(Killed):
            cut.unlearn(ctx)
    with toy_context(again := Scrub(options)) as ctx:
        ctx._checkpoints = Checkpoints(tmp_path, every_seconds=0)
        again.unlearn(ctx)
        assert ctx.samples == samples
        for name, tensor in ctx.model.weights().items():
            assert torch.equal(tensor, expected[name]), name


def test_a_run_killed_after_its_last_step_still_rewinds(tmp_path):
    options = Scrub.Options(lr=3e-3, batch_size=6, check_rows=6)
    results = []
    for _ in range(2):  # the second finds a finished fit
        with toy_context(method := Scrub(options)) as ctx:
            ctx._checkpoints = Checkpoints(tmp_path, every_seconds=0)
            method.unlearn(ctx)
            results.append({name: tensor.clone() for name, tensor in ctx.model.weights().items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


# ---------------------------------------------------------------- bad teaching


def test_the_bad_teacher_is_untrained_frozen_and_a_function_of_the_seed():
    prints = []
    for seed in (0, 0, 1):
        with toy_context(BadTeacher(), seed=seed) as ctx:
            twin = untrained_twin(ctx)
            assert twin.weights().keys() == ctx.model.weights().keys()
            assert not any(parameter.requires_grad for parameter in twin.parameters())
            assert twin.fingerprint() != ctx.model.fingerprint()
            prints.append(twin.fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_the_loss_against_both_teachers():
    method = BadTeacher(BadTeacher.Options(temperature=2.0, retain_weight=0.25))
    with toy_context(method) as ctx, torch.no_grad():
        method.prepare(ctx)
        for parameter in ctx.parameters("text").values():
            parameter.mul_(1.3)
        batch = Batch({"forget": next(ctx.batches("forget", 12)), "retain": next(ctx.batches("retain", 24))})
        terms = method.loss(ctx.model, batch)
        rows = list(zip(ctx.columns("forget")["identity_id"], ctx.columns("forget")["data_field"], strict=True))[:12]
        hidden = torch.tensor([[i != j and rows[i] == rows[j] for j in range(12)] for i in range(12)])
        forget = pair_divergence(ctx.model(batch.forget), untrained_twin(ctx)(batch.forget), hidden, 2.0)
        good = Toy().load_model("compromised")
        nothing = torch.zeros(24, 24, dtype=torch.bool)
        retain = pair_divergence(ctx.model(batch.retain), good(batch.retain), nothing, 2.0)
    assert terms["forget"].item() == pytest.approx(forget.item(), rel=1e-5)
    assert terms["retain"].item() == pytest.approx(0.25 * retain.item(), rel=1e-5)
    assert retain.item() > 0


def test_bad_teaching_brings_the_student_to_the_bad_teacher_on_forget_pairs():
    method = BadTeacher(BadTeacher.Options(lr=1e-3, schedule="constant"))
    with toy_context(method) as ctx:
        teachers = ctx.model.fingerprint()
        method.unlearn(ctx)
        losses = [point["forget"] for point in ctx.history]
        assert ctx.samples == {"forget": 144, "retain": 96}
        assert method._good.fingerprint() == teachers
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(method, tower, frozen):
    given = method(method.Options(tower=tower))
    with toy_context(given) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]


def test_similarity_of_forget_pairs_is_that_of_the_same_pairs_each_time():
    with toy_context(Scrub()) as ctx, torch.no_grad():
        first, second = ctx.forget_similarity(10), ctx.forget_similarity(10)
        everything = next(ctx.batches("forget", 36))
        image, text, _ = ctx.model(everything)
        assert ctx.forget_similarity(36) == pytest.approx(pair_cosine(image, text).mean().item(), abs=1e-6)
    assert first == second
    assert ctx.samples["forget"] == 10 + 10 + 36 + 36
