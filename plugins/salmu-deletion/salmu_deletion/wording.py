"""How pages of this package write things for people: times, names of files, verdicts, and models that there are."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal

#: Of what was asked for: reached, reached in part or with a flaw, not reached, or not to be told.
Outcome = Literal["good", "part", "bad", "unknown"]
_OUTCOMES: dict[str, Outcome] = {
    "selective": "good", "superficial": "part", "over-generalised": "part", "ineffective": "bad", "no effect": "bad",
    "catastrophic": "bad", "diverged": "bad", "failed": "bad",
}  # fmt: skip


def outcome_of(verdict: str) -> Outcome:
    """How a verdict answers a request."""
    return _OUTCOMES.get(verdict, "unknown")


def when(text: str) -> str:
    """A time of ISO 8601 as people write it, in UTC.

    >>> when("2026-01-02T03:04:05+00:00")
    '2 January 2026, 03:04 UTC'
    """
    time = datetime.fromisoformat(text)
    time = time.astimezone(UTC) if time.tzinfo else time
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def kind_of_fact(field: str) -> str:
    """A column's word for a kind of fact as people write it.

    >>> kind_of_fact("blood_type")
    'blood type'
    """
    return field.replace("_", " ")


def file_name(path: str) -> str:
    """The last part of a path, whatever system wrote it: where a file lies on this machine is nobody else's concern.

    >>> file_name("/home/me/photos/1.jpg"), file_name("C:\\\\photos\\\\1.jpg")
    ('1.jpg', '1.jpg')
    """
    return re.split(r"[\\/]", path)[-1]


def without_clean(words: str) -> str:
    """A sentence about Clean and Compromised where no Clean model exists: pairs that were never learned stand in its place.

    >>> without_clean("Clean (0.1) and Compromised (0.3) are 0.2 apart.")
    'Never learned (0.1) and the model before (0.3) are 0.2 apart.'
    """
    changed = re.sub(r"\bCompromised\b", "the model before", re.sub(r"\bClean\b", "never learned", words))
    return re.sub(r"(^|[.:] )(n)(ever learned)|(^|\. )(t)(he model before)", _large, changed)


def _large(found: re.Match[str]) -> str:
    before, letter, rest = found.groups()[:3] if found[2] else found.groups()[3:]
    return f"{before}{letter if before == ': ' else letter.upper()}{rest}"
