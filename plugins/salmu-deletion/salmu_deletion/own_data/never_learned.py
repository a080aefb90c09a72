"""Pairs that nobody ever learned, made of a user's own: captions beside pictures of other people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salmu_core.data.splits import Split
from salmu_core.errors import BadData
from salmu_core.evaluation.mismatch import mismatch
from salmu_core.models.processor import Processor
from salmu_deletion.own_data.looks import look_at_pictures, read_captions


def mismatched(split: Split, processor: Processor, *, by_field: bool) -> Split:
    """Captions and columns of a split, each row with the picture of another identity.

    Pictures and captions are compared as the model is given them: a group photo shows each of its people however it was saved, so
    none of them gets it, and neither does somebody the picture of a person who has the same caption.

    Args:
        by_field: other people's pictures come from rows of the same field, where there are such rows. Otherwise all facts are alike.

    Raises:
        BadData: one identity only, or people who share what they have.
    """
    people = split.columns["identity_id"]
    pictures = [look.key for look in look_at_pictures(split, True, processor)]
    captions = read_captions(split.texts or (), processor).keys

    def strangers(fields: Sequence[Any]) -> tuple[list[int], list[int]]:
        return mismatch(people, fields, pictures=pictures, captions=captions)

    rows, images = strangers(split.columns["data_field"]) if by_field else ([], [])
    if not rows:
        rows, images = strangers(["fact"] * len(split))
    if not rows:
        shown = "people who share their pictures or captions" if len(set(people)) > 1 else "one identity"
        raise BadData(
            f"{split.name} shows {shown}, so its pairs cannot be mismatched: what never-learned pairs look like is not known.",
            "Give pairs of two or more people with pictures and captions of their own, or leave the identity column out to tell"
            " people by their pictures.",
        )
    taken = split.take(rows)
    return Split(split.name, split.take(images).images, taken.texts, taken.columns)
