"""Pairs that nobody ever learned: an association's caption beside the image of another identity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch

_FARTHEST = 1000  # places looked at for a row whose partner is no stranger: people may share everything


def mismatch(
    identities: Sequence[Any],
    fields: Sequence[Any],
    generator: torch.Generator | None = None,
    *,
    pictures: Sequence[Hashable] = (),
    captions: Sequence[Hashable] = (),
) -> tuple[list[int], list[int]]:
    """Pair each row with another row of the same field and another identity, whose image it is given: associations that nobody ever
    learned. Rows of a field that has no second identity, or too few rows of others, are left out.

    The rows of a field are lined up identity by identity, and each is given the one a number of places further on (round the end): as
    many as the largest identity has rows, so that no identity reaches itself unless it has more than half of the rows.

    Args:
        generator: draws the order of identities; None: they are sorted.
        pictures, captions: what is equal where two rows have the same, as a hash, one for each row. No row is then given a picture
            that its own identity has too, or one of somebody who has its caption too: those are true pairs. It takes the next
            picture that will do, and is left out where there is no such picture.

    Returns:
        Row numbers, and for each the number of the row whose image it is given.

    Example:
        >>> mismatch(["ann", "ben", "ann"], ["job", "job", "city"])
        ([0, 1], [1, 0])
        >>> mismatch(["ann", "ben", "cat"], ["job"] * 3, pictures=["ann and ben", "ann and ben", "cat"])
        ([0, 1, 2], [2, 2, 0])
    """
    people_of = [str(identity) for identity in identities]
    shown = set(zip(people_of, pictures, strict=False))
    said = set(zip(people_of, captions, strict=False))

    def is_true(row: int, other: int) -> bool:
        own_picture = bool(pictures) and (people_of[row], pictures[other]) in shown
        return own_picture or (bool(captions) and (people_of[other], captions[row]) in said)

    rows: list[int] = []
    images: list[int] = []
    for field in sorted({str(field) for field in fields}):
        of_person: dict[str, list[int]] = {}
        for row, name in enumerate(fields):
            if str(name) == field:
                of_person.setdefault(people_of[row], []).append(row)
        people = sorted(of_person)
        if generator is not None:
            people = [list(of_person)[place] for place in torch.randperm(len(of_person), generator=generator).tolist()]
        own = [row for person in people for row in of_person[person]]
        largest = max(len(group) for group in of_person.values())
        for place, row in enumerate(own):
            if people_of[own[(place + largest) % len(own)]] == people_of[row]:
                continue
            farther = (own[(place + largest + step) % len(own)] for step in range(min(len(own), _FARTHEST)))
            for other in farther:
                if people_of[other] != people_of[row] and not is_true(row, other):
                    rows.append(row)
                    images.append(other)
                    break
    return rows, images
