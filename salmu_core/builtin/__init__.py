"""Core's own parts, registered through the same hooks as everybody else's: the no-op method and the toy benchmark."""

from __future__ import annotations

from salmu_core.benchmark import Benchmark
from salmu_core.builtin.toy import Toy
from salmu_core.hookspecs import hookimpl
from salmu_core.method import UnlearningMethod
from salmu_core.runner.context import UnlearnContext


class NoUnlearning(UnlearningMethod):
    """Changes nothing. Started from the Compromised and the Clean model it gives the reference rows of a leaderboard."""

    name = "none"
    summary = "Changes nothing: the reference rows Clean and Compromised."
    family = "baseline"
    data = ()

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Leave the model as it is."""


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """The no-op method."""
    return [NoUnlearning]


@hookimpl
def register_benchmarks() -> list[type[Benchmark]]:
    """The toy benchmark."""
    return [Toy]
