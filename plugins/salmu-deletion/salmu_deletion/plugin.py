"""What this package registers beside its commands: the benchmark of the user's own data."""

from __future__ import annotations

from salmu_core import Benchmark, hookimpl
from salmu_deletion.own_data.benchmark import OwnData


@hookimpl
def register_benchmarks() -> list[type[Benchmark]]:
    """The benchmark that is made of the user's own model and tables of pairs."""
    return [OwnData]
