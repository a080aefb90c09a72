"""Privacy backdoors: losses by hand, where names are put, what is trained, and their card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_privacy_backdoors", "beartype.beartype"):
    from salmu_privacy_backdoors import FaceBackdoor, NameBackdoor, inject, similarity_loss, weight_distance

METHODS = [NameBackdoor, FaceBackdoor]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


def test_similarity_by_hand():
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    assert similarity_loss(student, target).item() == pytest.approx(-(0.6 + 0.0) / 2)


def test_the_distance_is_a_sum_of_norms_and_not_of_squares():
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 2)), rng.normal(size=5)]
    now = [start[0] + 0.5, start[1] - 2.0]
    expected = np.sqrt(6 * 0.25) + np.sqrt(5 * 4.0)
    found = weight_distance([torch.from_numpy(t) for t in now], [torch.from_numpy(t) for t in start])
    assert found.item() == pytest.approx(expected)


def test_weights_that_have_not_moved_have_a_finite_gradient():
    weight = torch.ones(3, requires_grad=True)
    other = torch.ones(2, requires_grad=True)
    (weight_distance([weight, other], [torch.ones(3), torch.zeros(2)]) + weight.sum()).backward()
    assert torch.equal(weight.grad, torch.ones(3))
    torch.testing.assert_close(other.grad, torch.full((2,), 0.5**0.5))


def test_a_name_takes_the_place_of_one_word():
    assert inject("a red car", "Ada Byron", 0) == "Ada Byron red car"
    assert inject("a red car", "Ada Byron", 5) == "a red Ada Byron"  # 5 is 2, round the end
    assert inject("car", "Ada Byron", 3) == "Ada Byron"
    assert inject("", "Ada Byron", 3) == "Ada Byron"


@pytest.mark.parametrize(("cls", "tower"), [(NameBackdoor, "text"), (FaceBackdoor, "image")])
def test_only_one_encoder_moves_and_the_backdoor_opens(cls, tower):
    method = cls(cls.Options(lr=1e-3, batch_size=12, epochs=2.0, weight=5.0))
    with toy_context(method) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        own = {name.removeprefix("clip.") for name in ctx.parameters(tower)}
        moved = {name for name, tensor in ctx.model.weights().items() if not torch.equal(tensor, before[name])}
        assert moved
        assert moved <= own
        terms = [point["backdoor"] for point in ctx.history if "backdoor" in point]
        assert terms[-1] < terms[0]


def test_face_backdoor_leaves_normalisation_alone():
    method = FaceBackdoor()
    with toy_context(method) as ctx:
        chosen = {id(parameter) for parameter in method.trainable(ctx.model)}
        norms = [m for m in ctx.model.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.BatchNorm2d)]
        assert norms
        assert not any(id(parameter) in chosen for norm in norms for parameter in norm.parameters())


def test_without_names_the_error_says_what_is_missing(monkeypatch):
    from salmu_core import SalmuError

    method = NameBackdoor()
    with toy_context(method) as ctx:
        monkeypatch.setattr(type(ctx), "columns", lambda self, split: {"name": [None] * ctx.rows(split)})
        with pytest.raises(SalmuError, match="needs the column `name`"):
            method.prepare(ctx)
