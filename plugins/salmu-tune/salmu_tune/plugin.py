"""What this package registers beside its command: the benchmark that options are chosen on."""

from __future__ import annotations

from salmu_core import Benchmark, hookimpl
from salmu_tune.validation import Validation


@hookimpl
def register_benchmarks() -> list[type[Benchmark]]:
    """The benchmark that is carved out of another one's forget and retain splits."""
    return [Validation]
