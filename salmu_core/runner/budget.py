"""Counting what a method sees. Equal budgets are what makes methods comparable."""

from __future__ import annotations

from collections.abc import Mapping

from salmu_core.errors import BudgetExceeded


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

    def left(self, role: str) -> int | None:
        """Samples of a role that may still be handed out; None when unlimited."""
        return None if role not in self.allowed else self.allowed[role] - self.seen[role]

    def take(self, role: str, samples: int) -> None:
        """Count `samples` more of a role.

        Raises:
            BudgetExceeded: they are more than what is left; nothing is counted then.
        """
        left = self.left(role)
        if left is not None and samples > left:
            raise BudgetExceeded(
                f"{self.owner} asks for {samples} more {role} samples, and {left} of {self.allowed[role]} are left.",
                "Use fewer epochs or rows, or raise the budget for all methods with --budget.",
            )
        self.seen[role] = self.seen.get(role, 0) + samples

    def check(self, role: str, samples: int) -> None:
        """Raise as `take` would, without counting: asked before hours of work rather than in the middle."""
        before = dict(self.seen)
        self.take(role, samples)
        self.seen = before
