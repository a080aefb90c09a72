"""Counting what a method sees. Equal budgets are what makes methods comparable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from salmu_core.errors import RAISE_BUDGET, BadOptions, BudgetExceeded

if TYPE_CHECKING:
    from salmu_core.method import FitOptions
_Role = TypeVar("_Role", bound=str)


#: Rows that each encoder may be given for each pair of the budget: student, teacher and another view of it. Without a limit
#: a method could train on captions alone, which are not pairs, for as long as it likes. No method of the zoo needs more than one.
ROWS_PER_PAIR = 3
#: So many rows are free: a request of a few pairs must be able to encode a bank of others once.
FREE_ROWS = 2048


def rows_to_encode(allowed: Mapping[str, int]) -> int:
    """Rows that a method may put through each encoder, its teachers' and copies' included, when its budget is `allowed` pairs.

    >>> rows_to_encode({"forget": 1000, "retain": 6000})
    21000
    """
    return max(FREE_ROWS, ROWS_PER_PAIR * sum(allowed.values()))


class SampleMeter:
    """Counts the samples handed to a method per role, and refuses what the budget does not hold.

    Args:
        allowed: samples per role; a role that is missing is not limited (building a benchmark's own pair is not unlearning).
        owner: who is counted, for the error message.
    """

    def __init__(self, allowed: Mapping[str, int], owner: str) -> None:
        self.allowed = dict(allowed)
        self.owner = owner
        self.seen: dict[str, int] = dict.fromkeys(allowed, 0)
        self._held: dict[str, int] = {}

    def left(self, role: str) -> int | None:
        """Samples of a role that may still be handed out; None when unlimited."""
        return None if role not in self.allowed else self.allowed[role] - self.seen[role] - self._held.get(role, 0)

    @contextmanager
    def holding_back(self, samples: Mapping[str, int]) -> Iterator[None]:
        """While open, so many samples per role are not there: they are for later."""
        before = self._held
        self._held = {role: before.get(role, 0) + samples.get(role, 0) for role in {*before, *samples}}
        try:
            yield
        finally:
            self._held = before

    def take(self, role: str, samples: int) -> None:
        """Count `samples` more of a role.

        Raises:
            BudgetExceeded: they are more than what is left; nothing is counted then.
        """
        left = self.left(role)
        if left is not None and samples > left:
            raise BudgetExceeded(
                f"{self.owner} asks for {samples} more {role} samples, and {left} of {self.allowed[role]} are left.",
                f"Use fewer epochs or rows, or {RAISE_BUDGET}.",
            )
        self.seen[role] = self.seen.get(role, 0) + samples

    def check(self, role: str, samples: int) -> None:
        """Raise as `take` would, without counting: asked before hours of work rather than in the middle."""
        before = dict(self.seen)
        self.take(role, samples)
        self.seen = before

    def batch_sizes(self, options: FitOptions, rows: Mapping[_Role, int]) -> dict[_Role, int]:
        """Rows of a batch per role: as asked for, or all there are, or all that may still be seen."""
        sizes: dict[_Role, int] = {}
        for role, count in rows.items():
            left = self.left(role)
            sizes[role] = max(1, min(options.batch_size, count, count if left is None else left))
        return sizes

    def steps(
        self,
        options: FitOptions,
        rows: Mapping[_Role, int],
        *,
        asked: int | None = None,
        reserved: Mapping[_Role, int] | None = None,
    ) -> int:
        """Optimiser steps of a fit: those asked for, or the given epochs over the first role, or all that the budget holds; at least
        one. Counts nothing.

        Args:
            rows: of every role of which each step sees a batch.
            reserved: samples per role that a fit without epochs leaves.

        Raises:
            BudgetExceeded: the steps or epochs asked for need more samples of some role than are left.
            BadOptions: neither epochs nor a budget says how many.
        """
        sizes = self.batch_sizes(options, rows)
        if asked is not None:
            steps = asked
        elif options.epochs is None:
            kept = reserved or {}
            limits = [(left - kept.get(role, 0)) // sizes[role] for role in rows if (left := self.left(role)) is not None]
            if not limits:
                raise BadOptions("The number of epochs is not given and no budget limits it.", "Set epochs.")
            steps = min(limits)
        else:
            first = next(iter(rows))
            steps = math.floor(options.epochs * rows[first] / sizes[first])
        for role, size in sizes.items():
            self.check(role, max(1, steps) * size)
        return max(1, steps)
