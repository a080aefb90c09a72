"""The page about selective, and other requests to mini's models."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from asked import Asked, Shared, sharing
from selective import at_twins
from selective_report import PAGE, Results, gap, page, targets

from salmu_core.pixels import PairStore
from salmu_mini.benchmark import Mini
from salmu_mini.generate import fields_asked
from salmu_mini.personas import make_personas
from salmu_mini.sizes import SIZES

CLEAN = {"RetFail": 0.0, "AssocStr": 0.1, "ACS": 0.5, "IdZSC": 0.0, "CoreAssoc": 0.1, "GenKnow": 0.9, "InterIdSim": 0.1,
         "IntraIdSim": 0.1, "VisIdInt": 0.7, "FragSim": 0.7}  # fmt: skip
COMPROMISED = {"RetFail": 0.8, "AssocStr": 0.8, "ACS": 1.0, "IdZSC": 0.9, "CoreAssoc": 0.7, "GenKnow": 0.95, "InterIdSim": 0.8,
               "IntraIdSim": 0.8, "VisIdInt": 0.7, "FragSim": 0.7}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    benchmark = Mini(Mini.Options(size="tiny", epochs=1), tmp_path_factory.mktemp("cache"))
    benchmark.build()
    return benchmark


def test_targets_by_hand():
    found = {words.split(":")[0]: (figure(CLEAN, CLEAN, COMPROMISED), met) for words, figure, met, _ in targets()}
    assert gap("AssocStr", 0.24, CLEAN, COMPROMISED) == pytest.approx(0.2)
    assert found["RetFail"][0] == 0
    assert found["GenKnow"][0] == pytest.approx(5)
    assert not found["GenKnow"][1](found["GenKnow"][0])
    assert found["InterIdSim"][0] == pytest.approx(0.125)
    assert not found["InterIdSim"][1](0.949)
    assert found["VisIdInt"][0] == 0


def test_the_committed_page_is_made_of_the_committed_results():
    if not PAGE.is_file():
        pytest.skip("no results are committed")
    assert page() == PAGE.read_text(encoding="utf-8")


def test_figures_are_against_the_references_of_their_own_instance():
    as_scores = {which: {k: {"value": v} for k, v in scores.items()} for which, scores in (("clean", CLEAN), ("compromised", COMPROMISED))}  # fmt: skip
    other = {**as_scores, "clean": {**as_scores["clean"], "RetFail": {"value": 0.4}}}
    runs = [
        {"part": "main", "label": "selective", "where": where, "scores": {**CLEAN, "RetFail": 0.4}} for where in ("a", "b")
    ]
    results = Results({"references": {"a": as_scores, "b": other}, "runs": runs, "audits": []})
    assert results.figures(targets()[0], results.runs("main", "selective")) == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("request_", ["association", "identity", "ninety", "longer"])
def test_what_is_not_asked_for_is_a_holdout(tiny, request_):
    asked = Asked(Asked.Options(size="tiny", epochs=1, request=request_), tiny.cache)
    parts = {
        name: asked.split(name) for name in ("forget", "holdout_identity", "holdout_association") if name in asked.splits()
    }
    assert sum(map(len, parts.values())) == sum(
        len(tiny.split(name)) for name in ("forget", "holdout_identity", "holdout_association")
    )
    people = {name: set(split.columns["identity_id"]) for name, split in parts.items()}
    assert not people["forget"] & people.get("holdout_identity", set())
    assert people.get("holdout_association", set()) <= people["forget"]
    if request_ == "association":
        assert set(parts["forget"].columns["data_field"]) == {"phone_number"}
        assert len(people["forget"]) == 1
        assert "forget_identity" not in asked.splits()
    if request_ == "identity":
        assert len(people["forget"]) == 1
        assert "holdout_association" not in parts
    if request_ == "longer":
        assert sorted(parts["forget"].texts)[0].startswith(sorted(tiny.split("forget").texts)[0])
        assert len(parts["forget"]) == len(tiny.split("forget"))


def test_people_forgotten_in_part_have_one_number_twice():
    size = SIZES["tiny"]
    people = make_personas(size.identities, 0)
    partly = sharing(people, size)[size.forget_identity : size.forget_identity + size.forget_association]
    for number, (person, before) in enumerate(zip(partly, people[size.forget_identity :], strict=False)):
        changed = [field for field, value in person.attributes.items() if value != before.attributes[field]]
        assert len(changed) == 1
        assert changed[0] not in fields_asked(number, size)
        twice = [field for field in fields_asked(number, size) if person.value(field) == person.value(changed[0])]
        assert len(twice) == 1


def test_what_is_held_out_of_them_is_the_number_that_stays(tmp_path):
    shared = Shared(Shared.Options(size="tiny", epochs=1), tmp_path)
    shared.build()
    assert shared.folder.name.startswith("shared-")
    forget, held = shared.split("forget"), shared.split("holdout_association")
    size = SIZES["tiny"]
    assert len(held) == size.forget_association * size.images_per_association
    facts = set(zip(forget.columns["identity_id"], forget.columns["value"], strict=True))
    assert set(zip(held.columns["identity_id"], held.columns["value"], strict=True)) <= facts
    for caption, value in zip(held.texts, held.columns["value"], strict=True):
        assert value in caption


def test_where_perfect_forgetting_would_end_is_in_the_order_of_the_rows(tiny):
    image, text, captions = at_twins(tiny, "same")
    again, other, _ = at_twins(tiny, "anew")
    assert captions == list(tiny.split("forget").texts)
    assert image.shape == text.shape == (len(captions), 16)
    assert torch.equal(image, again)
    assert not torch.equal(text, other)
    model, split = tiny.load_model("compromised"), tiny.split("forget")
    store = PairStore(split, model.processor)
    with torch.no_grad():
        assert torch.allclose(image, model.encode_image(store.pixels(torch.arange(len(split)))), atol=1e-5)
