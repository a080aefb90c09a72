"""Saying in one way that a public name is to go: since when, what to use instead, and when it goes.

docs/api-stability.md has the policy; a test fails when something that was to be gone by now is still there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from packaging.version import Version
from typing_extensions import deprecated as _deprecated

T = TypeVar("T")


class SalmuDeprecationWarning(FutureWarning):
    """A public name of salmu will go. Shown by default, unlike DeprecationWarning: plugins' authors are to see it."""


@dataclass(frozen=True)
class Deprecation:
    """A name that is to go."""

    name: str
    since: str
    removal: str
    instead: str

    def __str__(self) -> str:
        return f"{self.name} is deprecated since salmu {self.since} and goes with {self.removal}. Use {self.instead}."


#: Everything that is deprecated in this version.
DEPRECATIONS: list[Deprecation] = []


def deprecated(*, since: str, removal: str, instead: str, known: list[Deprecation] = DEPRECATIONS) -> Callable[[T], T]:
    """Mark a public function or class as one that will go; using it warns once per place, and type checkers strike it out.

    Args:
        since: the first version that warns, e.g. "0.2".
        removal: the version without it: at least two minor versions later, so that a whole one warns.
        instead: what to write, e.g. "`ctx.batches`".
        known: where it is noted.

    Raises:
        ValueError: the removal comes too soon.
    """
    first, last = Version(since), Version(removal)
    if (last.major, last.minor) < (first.major, first.minor + 2) and last.major == first.major:
        raise ValueError(
            f"What is deprecated in {since} may go with {first.major}.{first.minor + 2} at the earliest, not {removal}."
        )

    def mark(thing: Any) -> Any:
        note = Deprecation(thing.__qualname__, since, removal, instead)
        known.append(note)
        return _deprecated(str(note), category=SalmuDeprecationWarning)(thing)

    return mark


def overdue(core: str, known: list[Deprecation] = DEPRECATIONS) -> list[Deprecation]:
    """What should be gone by this version."""
    return [note for note in known if Version(note.removal) <= Version(core)]
