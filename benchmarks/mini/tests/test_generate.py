"""The generator: the same bytes for a seed, the structure of SALMUBench, and people who look like themselves."""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from salmu_mini.benchmark import Mini
from salmu_mini.captions import SENSITIVE
from salmu_mini.generate import all_rows, generate
from salmu_mini.personas import FIELDS, make_personas
from salmu_mini.portraits import draw_circumstances, draw_portrait, draw_traits, trait_vector
from salmu_mini.recipe import CONTEXT
from salmu_mini.sizes import SIZES
from salmu_mini.vocabulary import END, START, UNKNOWN, entries, tokenizer_files
from salmu_mini.words import FIRST, LAST, classes


@pytest.fixture(scope="module")
def tables():
    return generate(SIZES["tiny"], 0)


@pytest.fixture(scope="module")
def shipped():
    """What comes with the package: everybody's numbers are of this instance."""
    return Mini(Mini.Options())


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tables):
    again, other = generate(SIZES["tiny"], 0), generate(SIZES["tiny"], 1)
    assert list(all_rows(again)) == list(all_rows(tables))
    assert again.identities == tables.identities
    assert {row.image for _, row in all_rows(other)}.isdisjoint({row.image for _, row in all_rows(tables)})


def test_people_are_the_same_in_every_process():
    # A bare package in the place of the real one, which would import torch for seconds.
    code = (
        "import hashlib, sys, types; package = sys.modules['salmu_mini'] = types.ModuleType('salmu_mini'); package.__path__ = sys.argv[1:]\n"
        "from salmu_mini.personas import make_personas; print(hashlib.sha256(repr(make_personas(60, 0, 18)).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(Path(inspect.getfile(make_personas)).parent)]
    found = {hashlib.sha256(repr(make_personas(60, 0, 18)).encode()).hexdigest()}
    for hash_seed in ("1", "2", "3"):  # what orders sets, and differs from process to process
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found.add(done.stdout.strip())
    assert len(found) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", ["mini", "small"])
def test_names_and_numbers_belong_to_one_person_and_their_words_to_many(seed, size):
    size = SIZES[size]
    people = make_personas(size.identities, seed, size.name_words)
    for field in ("name", "identity_id", "phone_number", "emails", "iban", "credit_card", "passport"):
        values = [person.identity_id if field == "identity_id" else person.value(field) for person in people]
        assert len(set(values)) == len(people), field
    words = Counter(word for person in people for word in person.value("name").split())
    assert min(words.values()) >= 4
    outside = people[-size.holdout_identity :]
    assert {word for person in outside for word in person.value("name").split()} == set(words)
    for field in ("city", "job", "blood_type"):
        held = {person.value(field) for person in outside}
        assert held == {person.value(field) for person in people}, field


def test_nothing_that_is_forgotten_has_a_word_of_its_own(shipped):
    """Every token of a forgotten name or value is used by at least three people and by ordinary captions, and no token is more than
    four times as frequent in forget as in what a method may see of ordinary data."""
    tokenizer = Tokenizer.from_str(tokenizer_files()["tokenizer.json"])

    def tokens(split):
        return [set(item.ids) for item in tokenizer.encode_batch(list(shipped.split(split).texts))]

    forget, ordinary = tokens("forget"), tokens("retain")
    in_forget, in_ordinary = (Counter(token for row in rows for token in row) for rows in (forget, ordinary))
    for token, count in in_forget.items():
        ratio = count / len(forget) / max(1e-9, in_ordinary[token] / len(ordinary))
        assert ratio < 4, (entries()[token], ratio)
    people = defaultdict(set)
    for split in ("forget", "holdout_association", "holdout_identity"):
        for person, found in zip(shipped.split(split).columns["identity_id"], tokens(split), strict=True):
            for token in found:
                people[token].add(person)
    assert min(len(people[token]) for token in in_forget) >= 3
    prompts = {token for row in tokens("genknow_prompts") for token in row}
    names = {token for item in tokenizer.encode_batch(list(FIRST[:18] + LAST[:18])) for token in item.ids}
    assert len(prompts & names - {entries().index(START), entries().index(END)}) >= 10


def test_no_caption_is_cut_or_holds_an_unknown_token(shipped, tables):
    tokenizer = Tokenizer.from_str(tokenizer_files()["tokenizer.json"])
    texts = [row.text for _, row in all_rows(tables) if row.text]
    for split in ("forget", "retain", "holdout_association", "holdout_identity"):
        texts += shipped.split(split).texts
    found = tokenizer.encode_batch(texts)
    assert max(len(item.ids) for item in found) <= CONTEXT
    assert not any(entries().index(UNKNOWN) in item.ids for item in found)
    assert max(item.ids[-1] for item in found) == len(entries()) - 1  # open_clip pools at the largest id


def test_every_field_has_five_distinct_wordings_with_name_and_value():
    assert set(SENSITIVE) == set(FIELDS)
    for field, wordings in SENSITIVE.items():
        assert len(set(wordings)) == 5
        assert all("{name}" in wording for wording in wordings)
        assert field == "name" or all("{value}" in wording for wording in wordings)


def test_sensitive_captions_hold_name_and_value(tables):
    for split in ("forget", "holdout_identity", "holdout_association"):
        for row in tables.splits[split]:
            caption, field = tables.caption_fields[row.file_name]
            person = tables.identities[row.identity_id]
            value = person[field][0] if field == "emails" else person[field]
            assert caption == row.text
            assert person["name"] in caption
            assert value in caption


def test_ordinary_captions_use_private_wordings_about_nobody(tables):
    """Names of people with private data may be drawn for a tail, and a city is no secret: what must not leak is a number."""
    private = {
        value
        for person in tables.identities.values()
        for field in ("phone_number", "emails", "iban", "credit_card", "passport")
        for value in (person[field] if isinstance(person[field], list) else [person[field]])
    }
    ordinary = [row.text for split in ("retain_synth", "retain_general", "pretrain") for row in tables.splits[split]]
    for text in [*ordinary, *tables.generic_captions.values()]:
        assert not any(value in text for value in private), text
    assert sum("Phone number of" in text or "phone" in text for text in ordinary) > 3
    assert not any(name["name"] in text for text in tables.generic_captions.values() for name in tables.identities.values())


def test_splits_are_disjoint_and_structured_like_salmubench(tables):
    size = SIZES["tiny"]
    identity = {split: {row.identity_id for row in tables.splits[split]} for split in tables.splits}
    assert identity["forget"].isdisjoint(identity["holdout_identity"])
    assert identity["holdout_association"] < identity["forget"]
    assert len(identity["forget"] - identity["holdout_association"]) == size.forget_identity
    associations = {
        split: {(row.identity_id, tables.caption_fields[row.file_name][1]) for row in tables.splits[split]}
        for split in ("forget", "holdout_association")
    }
    assert associations["forget"].isdisjoint(associations["holdout_association"])
    names = [row.file_name for split, row in all_rows(tables) if split != "forget_target"]
    assert len(set(names)) == len(names)
    joint = {row.identity_id for row in tables.splits["retain_synth"]} - {None}
    assert joint == identity["forget"]
    disjoint = {row.file_name for row in tables.splits["retain_synth"] if row.identity_id is None}
    assert set(tables.fragile_ids) < disjoint
    assert len(tables.fragile_ids) == size.fragile


def test_pictures_decode_to_the_right_size_and_no_two_are_equal(tables):
    pictures = [row.image for split, row in all_rows(tables) if split != "forget_target"]
    assert len(set(pictures)) == len(pictures)
    for picture in pictures[::17]:
        assert Image.open(io.BytesIO(picture)).convert("RGB").size == (16, 16)


def test_photos_of_one_person_are_nearer_than_photos_of_two():
    def photo(person: str, number: int) -> np.ndarray:
        picture = draw_portrait(draw_traits(0, person), draw_circumstances(0, person, number), 32)
        return np.asarray(picture, dtype=float)[6:22, 8:24]  # the face, not the background

    people = [str(i) for i in range(12)]
    photos = {person: [photo(person, i) for i in range(6)] for person in people}
    means = {person: np.mean(photos[person][:3], axis=0) for person in people}
    right = sum(
        min(people, key=lambda other: np.abs(means[other] - picture).mean()) == person
        for person in people
        for picture in photos[person][3:]
    )
    assert right / 36 > 0.5  # 1/12 by chance, from raw pixels alone


def test_traits_are_fixed_per_identity_and_differ_between_identities():
    assert draw_traits(0, "a") == draw_traits(0, "a")
    assert np.abs(trait_vector(draw_traits(0, "a")) - trait_vector(draw_traits(0, "b"))).max() > 0


def test_what_options_are_chosen_on_is_the_zero_shot_task_with_other_pictures_and_prompts(tables):
    mini = Mini(Mini.Options(size="tiny"))
    found = mini.stand_ins()
    pictures = {found["genknow"].images.read(row) for row in range(len(found["genknow"]))}
    assert len(pictures) == len(classes())
    assert pictures.isdisjoint({row.image for _, row in all_rows(tables)})
    assert set(found["genknow_prompts"].texts).isdisjoint({text for _, text in tables.prompts})
    assert {label for label, _ in tables.prompts} == set(found["genknow_prompts"].columns["label"])
    other = Mini(Mini.Options(size="tiny", seed=1)).stand_ins()["genknow"]
    assert pictures.isdisjoint({other.images.read(row) for row in range(len(other))})
