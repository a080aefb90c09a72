"""Pairs that nobody ever learned, made of a user's own: captions beside pictures of other people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from salmu_core.data.splits import Split, join_splits
from salmu_core.errors import BadData
from salmu_core.evaluation.mismatch import mismatch
from salmu_core.models.processor import Processor
from salmu_deletion.own_data.looks import look_at_pictures, read_captions


def mismatched(split: Split, processor: Processor, lenders: Split | None = None, *, by_field: bool) -> Split:
    """Captions and columns of a split, each row with the picture of another identity.

    Pictures and captions are compared as the model is given them: a group photo shows each of its people however it was saved, so
    none of them gets it, and neither does somebody the picture of a person who has the same caption.

    Args:
        lenders: rows of people whose pictures are taken where the split shows one identity.
        by_field: other people's pictures come from rows of the same field, where there are such rows. Otherwise all facts are alike.

    Raises:
        BadData: one identity only and nobody who lends pictures, or people who share what they have.
    """
    people = split.columns["identity_id"]
    pictures, captions = _as_given(split, processor)

    def strangers(fields: Sequence[Any]) -> tuple[list[int], list[int]]:
        return mismatch(people, fields, pictures=pictures, captions=captions)

    rows, images = strangers(split.columns["data_field"]) if by_field else ([], [])
    if not rows:
        rows, images = strangers(["fact"] * len(split))
    source = split
    if not rows and lenders is not None:
        source = join_splits(split.name, [split, lenders])
        lent, said = _as_given(lenders, processor)
        others = [row for row in range(len(lenders)) if lent[row] not in pictures and said[row] not in captions]
        rows = list(range(len(split))) if others else []
        images = [len(split) + others[row % len(others)] for row in rows]
    if not rows:
        shown = "people who share their pictures or captions" if len(set(people)) > 1 else "one identity"
        raise BadData(
            f"{split.name} shows {shown}, so its pairs cannot be mismatched: what never-learned pairs look like is not known.",
            "Give pairs of two or more people with pictures and captions of their own, or pairs of known people to keep.",
        )
    taken = split.take(rows)
    return Split(split.name, source.take(images).images, taken.texts, taken.columns)


def _as_given(split: Split, processor: Processor) -> tuple[Sequence[bytes | None], Sequence[bytes | None]]:
    """A key for each picture and caption, equal where the model is given the same."""
    looks = look_at_pictures(split, True, processor)
    return [look.key for look in looks], read_captions(split.texts or (), processor).keys
