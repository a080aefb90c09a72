"""Never-learned pairs: other people's pictures, and no pair that is a true one after all."""

import torch

from salmu_core.evaluation.mismatch import mismatch

PEOPLE = ["ann", "ann", "ben", "ben", "cat", "cat"]
ONE_FACT = ["fact"] * 6


def test_nobody_is_given_a_picture_of_their_own():
    """Ann and Ben stand on one photo, which is also what each of their second rows shows to the other."""
    pictures = ["both", "a", "both", "b", "c", "c2"]
    for seed in range(20):
        rows, images = mismatch(PEOPLE, ONE_FACT, torch.Generator().manual_seed(seed), pictures=pictures)
        assert sorted(rows) == list(range(6))
        own = {(person, picture) for person, picture in zip(PEOPLE, pictures, strict=True)}
        assert not own & {(PEOPLE[row], pictures[image]) for row, image in zip(rows, images, strict=True)}


def test_nobody_who_has_the_caption_lends_a_picture():
    captions = ["lives in Rome", "x", "lives in Rome", "y", "z", "lives in Rome"]
    rows, images = mismatch(PEOPLE, ONE_FACT, captions=captions)
    # All three have it: no picture of theirs makes it an association that nobody learned.
    assert sorted(rows) == [1, 3, 4]
    rows, images = mismatch(PEOPLE, ONE_FACT, captions=[*captions[:5], "w"])
    given = dict(zip(rows, images, strict=True))
    assert (PEOPLE[given[0]], PEOPLE[given[2]]) == ("cat", "cat")


def test_people_who_share_everything_cannot_be_mismatched():
    assert mismatch(PEOPLE, ONE_FACT, pictures=["one"] * 6) == ([], [])


def test_where_nothing_is_shared_content_changes_nothing():
    people = [f"p{row % 7}" for row in range(50)]
    fields = [f"f{row % 3}" for row in range(50)]
    plain = mismatch(people, fields, torch.Generator().manual_seed(1))
    assert plain == mismatch(people, fields, torch.Generator().manual_seed(1), pictures=range(50), captions=range(50))
