"""Every error salmu raises on purpose, in one place.

A `SalmuError` is a message for a person: what was asked, what was found, and in `hint` what to do next. The command line
turns it into one panel; anything that is not a `SalmuError` is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SalmuError(Exception):
    """Something the user can act on.

    Args:
        message: what was asked and what was found, in one or two sentences.
        hint: what to do next, when there is something to do.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UnknownName(SalmuError):
    """A method, metric, benchmark or split of that name is not registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str | None = None) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if hint is None:
            hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names) or 'none'}."
        super().__init__(f"There is no {kind} called '{name}'.", hint)


class AmbiguousName(SalmuError):
    """Several packages register that name: PACKAGE:NAME says which is meant."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        super().__init__(
            f"Several packages register a {kind} called '{name}'.", f"Say which: {' or '.join(sorted(choices))}."
        )


class BadOptions(SalmuError):
    """Options that a method, metric or benchmark does not take, or values out of bounds."""


class PluginFailure(SalmuError):
    """A plugin could not be imported or registered something unusable; names distribution, version and cause."""


class BadRecord(SalmuError):
    """A record file that cannot be read: not JSON, a newer schema, or missing fields."""


class DamagedFile(SalmuError):
    """A file that cannot be read, or whose content does not agree with the checksum written into it."""


class BadData(SalmuError):
    """A row, file or split of a benchmark that cannot be used; names split, row and file."""


class BadCheckpoint(SalmuError):
    """Weights that cannot be loaded: wrong architecture, pickled code, not a checkpoint."""


class HubError(SalmuError):
    """A repository on the hub that cannot be read or written: missing, private, gated, no permission, no network.

    Args:
        unreachable: trying again later may help; what is on this machine may be used instead.
    """

    def __init__(self, message: str, hint: str | None = None, *, unreachable: bool = False) -> None:
        super().__init__(message, hint)
        self.unreachable = unreachable


class OutputError(SalmuError):
    """An output place that cannot be written, is full, or holds something else."""


#: What else helps where a budget is too small, to end a hint with.
RAISE_BUDGET = "raise the budget for all methods (--budget; with `salmu forget` --passes)"


class BudgetExceeded(SalmuError):
    """A method asked for more forget or retain samples than the benchmark's budget allows."""


class EvaluationLocked(SalmuError):
    """Evaluation data was asked for while a method was running."""


class NotBuilt(SalmuError):
    """A benchmark whose data or models are not on this machine yet."""


class Diverged(SalmuError):
    """A loss or a weight stopped being finite. For this subject a result, not a crash: the run is recorded as diverged."""
