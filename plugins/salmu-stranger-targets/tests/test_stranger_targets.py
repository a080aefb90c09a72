"""Stranger targets: names, distances and images by hand or by another formula, what is made up, what training does, and the card."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import SalmuError

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_stranger_targets", "beartype.beartype"):
    from salmu_stranger_targets import Request, StrangerTargets, distance, made_up_names, renamed, without_own

FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, [StrangerTargets])


def test_keeps_the_contract():
    check_method(StrangerTargets)


# ---------------------------------------------------------------- formulas


def units(rng, *shape):
    rows = rng.normal(size=shape)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def test_the_distance_is_half_the_mean_squared_difference_of_unit_vectors():
    now, target = units(np.random.default_rng(1), 2, 7, 5)
    expected = np.square(now.numpy() - target.numpy()).sum(axis=1).mean() / 2
    assert distance(now, target).item() == pytest.approx(expected)
    assert distance(now[:0], target[:0]).item() == 0


@pytest.mark.parametrize(
    ("caption", "old", "new", "expected"),
    [
        ("Call Ada King: 12", "Ada King", "Rose Hill", "Call Rose Hill: 12"),
        ("ada.king7@mail.net", "Ada King", "Rose Hill", "rose.hill7@mail.net"),
        ("King, Ada", "Ada King", "Rose Hill", "Hill, Rose"),
        ("a kingdom of Adams", "Ada King", "Rose Hill", "a kingdom of Adams"),  # parts of words are other words
        ("Rose Hill and Rose", "Rose Hill", "Hill Rose", "Hill Rose and Hill"),
        ("Ada von King lives", "Ada von King", "Rose Hill", "Rose Hill lives"),
        (r"Ada King, \1", "Ada King", r"O\Hara X", r"O\Hara X, \1"),
    ],
)
def test_a_name_is_replaced_wherever_it_stands(caption, old, new, expected):
    assert renamed(caption, old, new) == expected


def test_an_image_loses_its_own_part_and_no_other():
    rng = np.random.default_rng(2)
    image, own = units(rng, 2, 6, 8)
    image = torch.nn.functional.normalize(image + 1.5 * own, dim=1)
    common = units(rng, 8)
    before = (image * own).sum(1)
    np.testing.assert_allclose((without_own(image, own, common, 0.3, 0.5) * own).sum(1), (before + 0.3) / 2, atol=1e-6)
    moved = without_own(image, own, common, 0.3)
    np.testing.assert_allclose((moved * own).sum(1), 0.3, atol=1e-6)
    # Independently: the result lies in the plane of the image and of own without common, on the unit sphere.
    direction = own - (own @ common)[:, None] * common
    for before, after, way in zip(image.numpy(), moved.numpy(), direction.numpy(), strict=True):
        weights, residual, *_ = np.linalg.lstsq(np.stack([before, way], axis=1), after, rcond=None)
        np.testing.assert_allclose(residual, 0, atol=1e-10)
        assert weights[0] > 0 > weights[1]
    np.testing.assert_allclose(moved.norm(dim=1), 1)


def test_an_image_that_fits_its_captions_no_better_than_a_stranger_stays():
    rng = np.random.default_rng(3)
    image, own = units(rng, 2, 5, 8)
    torch.testing.assert_close(without_own(image, own, units(rng, 8), 1.0), image, rtol=0, atol=0)


def test_made_up_names_are_nobodys():
    names = ["Ada King", "Rose Hill", "Mary Ann Stone"]
    made = made_up_names(names, 40, random.Random(0))
    assert set(made) == {
        "Ada Hill", "Ada Stone", "Rose King", "Rose Stone", "Mary Ann King", "Mary Ann Hill",
    }  # fmt: skip
    assert made == made_up_names(names, 40, random.Random(0))


def test_few_names_are_filled_up_with_ordinary_words_or_refused():
    assert set(made_up_names(["Ada King"], 5, random.Random(0), ["red", "house"])) <= {
        "Red Red",
        "Red House",
        "House Red",
        "House House",
    }
    with pytest.raises(SalmuError, match="1 names"):
        made_up_names(["Ada King"], 5, random.Random(0))


# ---------------------------------------------------------------- what is made up


def request(rows):
    captions, people, fields, names, values = zip(*rows, strict=True)
    facts = {}
    for person, fact in zip(people, fields, strict=True):
        facts.setdefault(person, set()).add(fact)
    return Request(captions, people, fields, names, values, {p: frozenset(f) for p, f in facts.items()})


ROWS = [
    ("Ada King lives in Rome", "1", "city", "Ada King", "Rome"),
    ("Call Ada King: 12", "1", "phone", "Ada King", "12"),
    ("Rose Hill lives in Bonn", "2", "city", "Rose Hill", "Bonn"),
]


def test_whole_is_who_is_forgotten_in_all_of_several_fields():
    assert request(ROWS).whole == {"1"}
    assert request(ROWS[::2]).whole == frozenset()


def test_a_bare_caption_is_name_and_value():
    found = request([("Write to Ada King: ada@m.net", "1", "mail", "Ada King", "ada@m.net")])
    assert found.about(0, "Rose Hill", bare=True) == "Rose Hill rose@m.net"
    assert found.about(0, "Rose Hill", bare=True, value_first=True) == "rose@m.net Rose Hill"


def test_what_stays_speaks_of_no_association_that_is_forgotten():
    method = StrangerTargets()
    method._request, method._pool = request(ROWS), 400
    method._ctx = type("Context", (), {"captions": lambda self, split: ["a red house"]})()
    captions = method.captions_that_stay(random.Random(0))
    assert any("Rose Hill" in caption and "12" in caption for caption in captions)  # her phone number is not asked for
    assert not any("Rose Hill" in caption and ("Bonn" in caption or "Rome" in caption) for caption in captions)
    assert not any("Ada King" in caption for caption in captions)


# ---------------------------------------------------------------- training


def run(**options):
    method = StrangerTargets(StrangerTargets.Options(**{"batch_size": 12, "epochs": 3.0, "lr": 3e-3, **options}))
    with toy_context(method) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return method, start, ctx.model.weights(), ctx.history, dict(ctx.samples)


def test_training_brings_forgotten_captions_nearer_to_the_stranger():
    _, _, _, history, _ = run(faces=0.0)
    found = [point["forget"] for point in history if "forget" in point]
    assert found[-1] < 0.9 * found[0]


def test_without_weight_on_pictures_the_image_encoder_stays():
    _, start, after, history, _ = run(faces=0.0, swapped=0, neighbours=0)  # and nothing is made up but the strangers
    assert all(torch.equal(start[n], after[n]) for n in start if n.startswith("visual."))
    assert any(not torch.equal(start[n], after[n]) for n in start)
    assert not any("faces" in point for point in history)


def test_every_person_is_read_as_one_stranger():
    method, *_, samples = run(strangers=3)
    assert 1 < len(set(method._strangers.values())) <= 3
    assert not set(method._strangers.values()) & set(method._request.names)
    assert samples["forget"] <= 4 * 36
