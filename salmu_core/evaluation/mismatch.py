"""Pairs that nobody ever learned: an association's caption beside the image of another identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def mismatch(identities: Sequence[Any], fields: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Rows, and for each another row of the same field and another identity whose image it is given: associations that
    nobody ever learned. Rows of a field that has no second identity, or too few rows of others, are left out."""
    rows: list[int] = []
    images: list[int] = []
    for field in sorted({str(field) for field in fields}):
        own = sorted((row for row, name in enumerate(fields) if str(name) == field), key=lambda row: str(identities[row]))
        largest = max(np.unique([str(identities[row]) for row in own], return_counts=True)[1])
        for place, row in enumerate(own):
            other = own[(place + largest) % len(own)]
            if str(identities[other]) != str(identities[row]):
                rows.append(row)
                images.append(other)
    return rows, images
