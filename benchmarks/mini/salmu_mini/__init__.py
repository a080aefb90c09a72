"""The embedded benchmark `mini`."""

from __future__ import annotations

from salmu_core import Benchmark, hookimpl
from salmu_mini.benchmark import Mini as Mini


@hookimpl
def register_benchmarks() -> list[type[Benchmark]]:
    """The embedded benchmark."""
    return [Mini]
