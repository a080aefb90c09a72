"""Pairs that nobody ever learned: an association's caption beside the image of another identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def mismatch(
    identities: Sequence[Any], fields: Sequence[Any], generator: torch.Generator | None = None
) -> tuple[list[int], list[int]]:
    """Pair each row with another row of the same field and another identity, whose image it is given: associations that nobody ever
    learned. Rows of a field that has no second identity, or too few rows of others, are left out.

    The rows of a field are lined up identity by identity, and each is given the one a number of places further on (round the end): as
    many as the largest identity has rows, so that no identity reaches itself unless it has more than half of the rows.

    Args:
        generator: draws the order of identities; None: they are sorted.

    Returns:
        Row numbers, and for each the number of the row whose image it is given.

    Example:
        >>> mismatch(["ann", "ben", "ann"], ["job", "job", "city"])
        ([0, 1], [1, 0])
    """
    rows: list[int] = []
    images: list[int] = []
    for field in sorted({str(field) for field in fields}):
        of_person: dict[str, list[int]] = {}
        for row, name in enumerate(fields):
            if str(name) == field:
                of_person.setdefault(str(identities[row]), []).append(row)
        people = sorted(of_person)
        if generator is not None:
            people = [list(of_person)[place] for place in torch.randperm(len(of_person), generator=generator).tolist()]
        own = [row for person in people for row in of_person[person]]
        largest = max(len(group) for group in of_person.values())
        for place, row in enumerate(own):
            other = own[(place + largest) % len(own)]
            if str(identities[other]) != str(identities[row]):
                rows.append(row)
                images.append(other)
    return rows, images
