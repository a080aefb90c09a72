"""Negative pairs: their losses in numbers, where the hinge lets go, and the measured floor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core.builtin.toy import Toy, ToyOptions

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_negative_pairs", "beartype.beartype"):
    from salmu_negative_pairs import (
        DirectSimilarityMinimisation,
        HingeNegativePairs,
        hinge_loss,
        measure_floor,
        mismatched_cosine,
        similarity_loss,
    )

METHODS = [DirectSimilarityMinimisation, HingeNegativePairs]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


# Three pairs of cosines 1, 0.6 and -0.8.
IMAGE = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
TEXT = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])


def test_similarity_loss_by_hand():
    assert similarity_loss(IMAGE, TEXT).item() == pytest.approx((1 + 0.6 - 0.8) / 3, abs=1e-6)


def test_similarity_loss_is_the_mean_cosine():
    image, text = unit_rows(0, 9), unit_rows(1, 9)
    cosines = np.einsum("id,id->i", image.numpy(), text.numpy())
    assert similarity_loss(image, text).item() == pytest.approx(cosines.mean(), rel=1e-12)


def test_similarity_loss_pulls_every_pair_down_alike():
    image = IMAGE.clone().requires_grad_()
    similarity_loss(image, TEXT).backward()
    torch.testing.assert_close(image.grad, TEXT / 3)


@pytest.mark.parametrize(("power", "expected"), [(1, (0.8 + 0.4) / 3), (2, (0.64 + 0.16) / 3)])
def test_hinge_loss_by_hand(power, expected):
    assert hinge_loss(IMAGE, TEXT, 0.2, power).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("power", [1, 2])
def test_hinge_loss_against_numpy(power):
    image, text = unit_rows(2, 9), unit_rows(3, 9)
    cosines = np.einsum("id,id->i", image.numpy(), text.numpy())
    expected = (np.maximum(0, cosines - 0.1) ** power).mean()
    assert hinge_loss(image, text, 0.1, power).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", [1, 2])
def test_hinge_lets_go_at_and_below_the_floor(power):
    image = IMAGE.clone().requires_grad_()
    hinge_loss(image, TEXT, 0.6 + 1e-6, power).backward()
    assert torch.equal(image.grad[1:], torch.zeros(2, 2))
    slope = 1 if power == 1 else 2 * (1 - 0.6 - 1e-6)
    torch.testing.assert_close(image.grad[0], slope * TEXT[0] / 3)


def test_hinge_has_no_gradient_when_all_pairs_are_at_the_floor():
    image = IMAGE.clone().requires_grad_()
    loss = hinge_loss(image, TEXT, 1.0, 1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(image.grad, torch.zeros(3, 2))


def test_mismatched_cosine_by_hand():
    # Images of group 0 with the caption of group 1: 0.6 and 0.6; the image of group 1 with captions 0 and 1: 0 and 0.8.
    group = torch.tensor([0, 0, 1])
    assert mismatched_cosine(IMAGE, TEXT, group).item() == pytest.approx((0.6 + 0.6 + 0 + 0.8) / 4, abs=1e-6)


def test_the_floor_is_measured_on_the_model_that_is_given_and_counted():
    method = HingeNegativePairs()
    with toy_context(method) as ctx:
        floor = measure_floor(ctx)
        assert ctx.samples == {"forget": 36, "retain": 0}
        with torch.no_grad():
            pairs = next(ctx.batches("forget", 36))
            image, text, _ = ctx.model(pairs)
        people = np.array(ctx.columns("forget")["identity_id"])
        expected = (image @ text.T).numpy()[people[:, None] != people[None, :]].mean()
    assert floor == pytest.approx(expected, abs=1e-6)


def test_the_floor_of_one_person_is_measured_by_captions_of_retain():
    with toy_context(HingeNegativePairs(), benchmark=Toy(ToyOptions(identities=1))) as ctx:
        floor = measure_floor(ctx)
        assert ctx.samples == {"forget": 6, "retain": 2}  # a tenth of the budget
        with torch.no_grad():
            image, _, _ = ctx.model(next(ctx.batches("forget", 6)))
        assert floor == pytest.approx(ctx.similarity_to_retain(image), abs=1e-6)


def test_a_given_floor_costs_no_samples():
    method = HingeNegativePairs(HingeNegativePairs.Options(floor=0.2, epochs=4))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 4 * 36, "retain": 4 * 24}
        assert ctx.history[0]["floor"] == 0.2


def test_the_measured_floor_leaves_one_pass_less_to_train():
    method = HingeNegativePairs()
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 4 * 36, "retain": 3 * 24}


def test_pairs_below_the_floor_and_no_retain_term_change_nothing():
    method = HingeNegativePairs(HingeNegativePairs.Options(floor=1.0, retain_weight=0))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before


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


def test_similarities_fall_on_the_toy_benchmark():
    method = DirectSimilarityMinimisation(DirectSimilarityMinimisation.Options(lr=1e-4, schedule="constant"))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        cosines = [point["forget"] for point in ctx.history]
        assert ctx.samples == {"forget": 4 * 36, "retain": 0}
    assert cosines[-1] < cosines[0] - 0.05
