"""What a check is, and what comes of running a list of them.

A check is a small function with an id and a sentence. It is given a trial, which runs the plugin once and lets many checks look
at the same run, and raises `AssertionError` with what to change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

import torch

from salmu_core.plugins.calls import no_exit
from salmu_core.plugins.process_state import ProcessState
from salmu_core.runner.fit import little_garbage

Status = Literal["passed", "failed", "skipped"]
Function = TypeVar("Function", bound=Callable[[Any], None])


class NotApplicable(Exception):
    """Raised by a check that has nothing to look at in this plugin; the reason is shown and nothing fails."""


class NotReached(Exception):
    """Raised by a trial when what a check looks at never came to be, because another check failed; that one is named."""


@dataclass(frozen=True)
class Check:
    """One line of the contract.

    Attributes:
        id: short and stable, e.g. "logit-scale": what a test or a script may rely on.
        sentence: what is so when the check passes.
        run: looks at a trial; raises AssertionError with what to change.
        slow: starts processes; left out of `check_method`, part of `salmu check`.
    """

    id: str
    sentence: str
    run: Callable[[Any], None]
    slow: bool = False


@dataclass
class Checks:
    """A list of checks that is filled by a decorator, in the order of the file."""

    listed: list[Check] = field(default_factory=list)

    def add(self, id: str, sentence: str, *, slow: bool = False) -> Callable[[Function], Function]:
        """Put the decorated function on the list.

        Raises:
            ValueError: the id is taken.
        """
        if any(check.id == id for check in self.listed):
            raise ValueError(f"There are two checks called '{id}'.")

        def take(function: Function) -> Function:
            self.listed.append(Check(id, sentence, function, slow))
            return function

        return take


#: Seconds of work of a check that looked at what is known and ran nothing.
_QUICK = 0.01


@dataclass(frozen=True)
class CheckResult:
    """What one check found."""

    id: str
    sentence: str
    status: Status
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class CheckReport:
    """What all checks of one plugin found."""

    kind: str
    name: str
    results: Sequence[CheckResult]

    def of(self, status: Status) -> list[CheckResult]:
        """The results of that status, in order."""
        return [result for result in self.results if result.status == status]

    @property
    def ok(self) -> bool:
        """Did no check fail?"""
        return not self.of("failed")

    @property
    def seconds(self) -> float:
        """What all checks took together."""
        return sum(result.seconds for result in self.results)

    def as_json(self) -> dict[str, Any]:
        """For `salmu check --json`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "ok": self.ok,
            "counts": {status: len(self.of(status)) for status in ("passed", "failed", "skipped")},
            "seconds": round(self.seconds, 3),
            "checks": [asdict(result) for result in self.results],
        }

    def raise_failures(self) -> None:
        """Raise one AssertionError that lists every failure, if any."""
        failed = self.of("failed")
        if failed:
            lines = [f"{self.kind} {self.name}: {len(failed)} of {len(self.results)} checks failed."]
            raise AssertionError("\n".join(lines + [f"[{result.id}] {result.message}" for result in failed]))


def run_all(kind: str, name: str, checks: Iterable[Check], trial: Any, *, slow: bool) -> CheckReport:
    """Run checks on a trial, all of them whatever fails; an error inside a check is a failure of that check."""
    with _light_runs():
        return CheckReport(kind, name, _results(checks, trial, slow))


@contextmanager
def _light_runs() -> Iterator[None]:
    """Keep what surrounds a toy run from taking longer than the run: the tensors are too small to gain from threads, which wait for
    each other on a busy machine, and Accelerate collects garbage after every fit, among everything that was ever imported."""
    import open_clip  # noqa: F401  # now, so that it is among what is left alone

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with little_garbage():
            yield
    finally:
        torch.set_num_threads(threads)


def _results(checks: Iterable[Check], trial: Any, slow: bool) -> list[CheckResult]:
    results = []
    before = ProcessState()  # once: looking at all code takes ten times as long as comparing it
    settings = ProcessState(code=False)
    for check in checks:
        if check.slow and not slow:
            continue
        started, worked = time.perf_counter(), time.thread_time()
        status: Status = "passed"
        message = ""
        try:
            with no_exit("It"):
                check.run(trial)
        except AssertionError as failure:
            status, message = "failed", str(failure) or check.sentence
        except (NotApplicable, NotReached) as reason:
            status, message = "skipped", str(reason)
        except Exception as error:  # the plugin's own code, called by the check
            status, message = "failed", f"It raised {type(error).__name__}: {error}"
        finally:
            # Whatever a check let the plugin do, the next one starts as the first did. Code is compared where a run may have changed
            # it, and at the end: that takes as long as most checks.
            (before if status != "passed" or time.thread_time() - worked > _QUICK else settings).put_back()
        results.append(CheckResult(check.id, check.sentence, status, message, time.perf_counter() - started))
    before.put_back()
    return results
