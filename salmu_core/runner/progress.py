"""What a run tells those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One step forward.

    Args:
        run: a short title of the run, e.g. "gradient-ascent seed 0".
        stage: what is going on, e.g. "unlearn", "embed images".
        done, total: steps of the stage; total 0 when unknown.
        values: numbers to show beside it, e.g. the loss terms.
        note: a sentence that a person should see, e.g. how much is about to be written and where.
    """

    run: str
    stage: str
    done: int = 0
    total: int = 0
    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
