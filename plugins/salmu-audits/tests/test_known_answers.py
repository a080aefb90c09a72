"""Attacks on embeddings that are given, so that what they get can be worked out on paper."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from salmu_audits.identity import IdentityInference
from salmu_audits.membership import AugmentedMembership, SimilarityMembership
from salmu_audits.probes import PairProbe
from salmu_audits.relearning import BenignRelearning, FewShotRelearning

from salmu_core import AuditContext, Split
from salmu_core.builtin.toy import Toy
from salmu_core.data.images import EncodedImages
from salmu_core.runner.accelerate_setup import open_accelerator


class Given(AuditContext):
    """A context whose embeddings come from functions of a split and of captions.

    Args:
        splits: by name.
        images: split -> rows.
        texts: captions -> rows.
    """

    def __init__(self, splits, images, texts):
        self._splits, self._images, self._texts = splits, images, texts
        self.benchmark = self

    def splits(self):
        return self._splits

    def split(self, name):
        return self._splits[name]

    def generator(self, *purpose):
        return torch.Generator().manual_seed(0)

    def images(self, split, model=None):
        return self._images(split)

    def texts(self, captions, model=None):
        return self._texts(captions)


# ---------------------------------------------------------------- identity inference


def photos_of(people, each):
    """A split of `each` photos of people with these names."""
    rows = [name for name in people for _ in range(each)]
    columns = {"identity_id": rows, "data_field": ["name"] * len(rows), "name": rows, "value": rows}
    return Split("forget", texts=rows, columns=columns)


def test_a_person_is_recognised_when_most_photos_point_to_the_name_under_one_prompt():
    names = ["Ada Roe", "Ben Poe", "Cy Loe"]
    looks = [0, 0, 1, 1, 2, 1, 1, 1, 0, 0, 2, 2, 2, 2, 1]  # five photos each; Ada: two like her, two like Ben

    def texts(captions):
        """The direction of whoever is named, under the other prompt that of the next one; other names lead to nobody."""
        known = {f"this is {name}": place for place, name in enumerate(names)}
        known |= {name: (place + 1) % 3 for place, name in enumerate(names)}
        return torch.stack([torch.eye(4)[known.get(caption, 3)] for caption in captions])

    def attacked(**options):
        ctx = Given({"forget": photos_of(names, 5)}, lambda split: torch.eye(4)[looks], texts)
        given = {"names": 8, "photos": 5, "prompts": ("this is {name}", "{name}"), **options}
        return IdentityInference(IdentityInference.Options(**given)).attack(ctx)

    found = attacked()
    assert found.value == pytest.approx(2 / 3)  # Ada's photos are undecided, so nobody wins
    assert found.extras["names"] == 8  # with made-up ones: Ada Poe, Ben Loe, ...
    assert attacked(prompts=("this is {name}",)).extras["right votes"] == pytest.approx((2 + 3 + 4) / 15)
    assert attacked(right_prompts=2).value == 0


# ---------------------------------------------------------------- membership over views


def picture(left, right):
    """Encoded, 20 pixels wide: one brightness on the left half, another on the right."""
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:] = left, right
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def brighter_side(split):
    """Left: the first direction; right: the second."""
    found = []
    for row in range(len(split)):
        pixels = np.asarray(Image.open(io.BytesIO(split.images.read(row))).convert("L"), float)
        half = pixels.shape[1] // 2
        found.append(0 if pixels[:, :half].mean() > pixels[:, half:].mean() else 1)
    return torch.eye(2)[found]


def test_views_are_mirrored_and_averaged():
    encoded = [picture(200, 50), picture(50, 200)]
    columns = {"identity_id": ["a", "b"], "data_field": ["city"] * 2, "name": ["A", "B"], "value": ["Rome", "Oslo"]}
    forget = Split("forget", EncodedImages(encoded, ["a", "b"]), ["left", "right"], columns)
    ctx = Given(
        {"forget": forget}, brighter_side, lambda captions: torch.eye(2)[[0 if c == "left" else 1 for c in captions]]
    )
    plain = SimilarityMembership(SimilarityMembership.Options(blind=False)).attack(ctx)
    assert (plain.extras["members"], plain.extras["others"]) == (1, 0)
    # Of the picture, its mirror image and its cut, the second fits the other one's caption.
    found = AugmentedMembership(AugmentedMembership.Options(blind=False)).attack(ctx)
    assert found.extras["members"] == pytest.approx(2 / 3)
    assert found.extras["others"] == pytest.approx(1 / 3)
    assert found.value == 1


# ---------------------------------------------------------------- a probe on pairs


@pytest.mark.parametrize("tied", [True, False])
def test_a_probe_on_pairs_finds_what_all_of_them_have_in_common(tied):
    """Pictures and captions are angles. Of a person's own caption the products add up to 1, of others' to the cosine of a difference."""
    people = [f"p{number}" for number in range(24)]
    angles = torch.arange(24) * 2 * torch.pi / 24
    order = torch.arange(24) if tied else torch.randperm(24, generator=torch.Generator().manual_seed(1))
    columns = {"identity_id": people, "data_field": ["city"] * 24, "name": people, "value": people}
    of_caption = {name: float(angles[place]) for name, place in zip(people, order.tolist(), strict=True)}

    def direction(of):
        return torch.stack([of.cos(), of.sin()], dim=1)

    ctx = Given(
        {"forget": Split("forget", texts=people, columns=columns)},
        lambda split: direction(angles),
        lambda captions: direction(torch.tensor([of_caption[caption] for caption in captions])),
    )
    area = PairProbe().attack(ctx).value
    assert area > 0.95 if tied else area < 0.75


# ---------------------------------------------------------------- what relearning is given


def test_relearning_sees_none_of_what_it_is_asked_for():
    benchmark = Toy(Toy.Options(identities=6))
    forget = benchmark.split("forget")
    facts = list(zip(forget.columns["identity_id"], forget.columns["data_field"], strict=True))
    with open_accelerator(cpu=True) as accelerator:
        ctx = AuditContext(benchmark.load_model("clean"), benchmark, accelerator, 0, "few-shot-relearning")
        seen, asked = FewShotRelearning(FewShotRelearning.Options(share=0.25)).splits(ctx)
        learned = set(zip(seen.columns["identity_id"], seen.columns["data_field"], strict=True))
        assert len(learned) == round(0.25 * len(set(facts)))
        assert {facts[row] for row in asked} == set(facts) - learned
        assert len(seen) + len(asked) == len(forget)
        again, rows = FewShotRelearning(FewShotRelearning.Options(share=0.25)).splits(ctx)
        assert (again.texts, rows) == (seen.texts, asked)
        ordinary, asked = BenignRelearning().splits(ctx)
        assert ordinary.texts == benchmark.split("retain").texts
        assert asked == list(range(len(forget)))
