"""Task vectors: negation and merging in numbers, what the fits share, and their card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core.losses import contrastive_loss

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_task_vectors", "beartype.beartype"):
    from salmu_task_vectors import NegMerge, TaskVectorNegation, learning_rates, negate, sign_consensus

METHODS = [TaskVectorNegation, NegMerge]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


# ---------------------------------------------------------------- formulas


def test_negation_by_hand():
    start, vector = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 0.25, -1.0])
    torch.testing.assert_close(negate(start, vector, 2.0), torch.tensor([0.0, -2.5, 2.5]))
    assert torch.equal(negate(start, vector, 0.0), start)


def test_sign_consensus_by_hand():
    vectors = torch.tensor(
        [
            [1.0, 1.0, -3.0, 0.0, 2.0],
            [2.0, -1.0, -1.0, 0.0, 0.0],
            [6.0, 9.0, -2.0, 0.0, 4.0],
        ]
    )
    # Agreed: the mean. A different sign, nothing at all, or one vector that does not move: 0.
    torch.testing.assert_close(sign_consensus(vectors), torch.tensor([3.0, 0.0, -2.0, 0.0, 0.0]))


def test_sign_consensus_against_the_released_form():
    vectors = np.random.default_rng(0).normal(size=(4, 30, 7))
    total, signs = np.zeros((30, 7)), np.zeros((30, 7))
    for vector in vectors:
        total += vector
        signs += np.sign(vector)
    expected = np.where(np.abs(signs) == 4, total / 4, 0)
    assert 0 < (expected != 0).sum() < expected.size
    np.testing.assert_allclose(sign_consensus(torch.from_numpy(vectors)), expected, rtol=1e-12)


def test_the_consensus_of_one_vector_is_that_vector():
    vector = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sign_consensus(vector[None]), vector)


def test_learning_rates_by_hand():
    assert learning_rates(1e-3, 4.0, 3) == pytest.approx([2.5e-4, 1e-3, 4e-3])
    assert learning_rates(1e-3, 9.0, 2) == pytest.approx([1e-3 / 9, 9e-3])
    assert learning_rates(1e-3, 4.0, 1) == [1e-3]
    assert learning_rates(1e-3, 1.0, 3) == [1e-3] * 3


# ---------------------------------------------------------------- on the toy benchmark


def run(method, **options):
    given = method(method.Options(**options))
    with toy_context(given) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        given.unlearn(ctx)
        return before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx


def test_the_result_is_as_far_from_the_start_as_the_fit_and_opposite():
    start, ended, _ = run(TaskVectorNegation, strength=0.5, epochs=2)
    method = TaskVectorNegation(TaskVectorNegation.Options(epochs=2))
    with toy_context(method) as ctx:
        ctx.fit(lambda model, batch: contrastive_loss(*model(batch.forget)), method.options)
        fitted = ctx.model.weights()
        moved = 0
        for name in start:
            torch.testing.assert_close(ended[name], start[name] - 0.5 * (fitted[name] - start[name]), rtol=0, atol=1e-7)
            moved += int((ended[name] != start[name]).sum())
    assert moved > 1000


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_strength_gives_back_the_start(method):
    before, after, _ = run(method, strength=0)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_negation_raises_the_loss_that_the_fit_lowered(method):
    given = method(method.Options(lr=1e-3, schedule="constant"))
    with toy_context(given) as ctx, torch.no_grad():
        pairs = next(ctx.batches("forget", 36))
        before = contrastive_loss(*ctx.model(pairs)).item()
        with torch.enable_grad():
            given.unlearn(ctx)
        after = contrastive_loss(*ctx.model(pairs)).item()
    assert after > before + 0.05


def test_one_vector_without_spread_is_plain_negation():
    _, merged, _ = run(NegMerge, vectors=1)
    _, plain, _ = run(TaskVectorNegation)
    for name in merged:
        assert torch.equal(merged[name], plain[name]), name


def test_only_what_every_fit_changes_in_one_direction_is_changed():
    """Every coordinate of the result against the fits, each trained alone with its number, rate and share of the budget."""
    start, ended, ctx = run(NegMerge, vectors=2, spread=4.0, lr=1e-3, batch_size=12)
    assert ctx.samples["forget"] == 4 * 36
    found = []
    method = NegMerge()
    with toy_context(method) as alone:
        for rate in (2.5e-4, 4e-3):
            alone.model.clip.load_state_dict(start)
            options = NegMerge.Options(lr=rate, epochs=2, batch_size=12)
            alone.fit(lambda model, batch: contrastive_loss(*model(batch.forget)), options)
            found.append({name: tensor - start[name] for name, tensor in alone.model.weights().items()})
    stopped = moved = 0
    for name in start:
        first, second = found[0][name], found[1][name]
        agreed = first.sign() * second.sign() > 0
        expected = torch.where(agreed, start[name] - (first + second) / 2, start[name])
        torch.testing.assert_close(ended[name], expected, rtol=0, atol=1e-7)
        assert torch.equal(ended[name][~agreed], start[name][~agreed])
        stopped += int((~agreed & (first != 0)).sum())
        moved += int(agreed.sum())
    assert stopped > 100
    assert moved > 100
    assert ctx.history[-1]["agreement"] == pytest.approx(moved / (moved + stopped), abs=0.01)


def test_fits_share_the_budget():
    for vectors, passes in ((2, 4), (3, 3)):
        _, _, ctx = run(NegMerge, vectors=vectors)
        assert ctx.samples["forget"] == passes * 36
        assert {point["fit"] for point in ctx.history if "forget" in point} == set(range(vectors))


def test_given_epochs_are_those_of_each_fit():
    _, _, ctx = run(NegMerge, vectors=2, epochs=1)
    assert ctx.samples["forget"] == 2 * 36


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
