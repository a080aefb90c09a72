"""A context on the toy benchmark, to try a method without a runner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from salmu_core.benchmark import Benchmark, evaluation_locked
from salmu_core.builtin.toy import Toy
from salmu_core.data.pixels import PairStore
from salmu_core.method import UnlearningMethod
from salmu_core.plugins.loading import load_plugins
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.context import UnlearnContext
from salmu_core.spec.resolve import make_method


@contextmanager
def toy_context(
    method: UnlearningMethod, *, seed: int = 0, budget: float = 1.0, benchmark: Benchmark | None = None
) -> Iterator[UnlearnContext]:
    """The context that a run of `method` would be given, on the toy benchmark by default, on the CPU.

    Example:
        with toy_context(method) as ctx:
            method.unlearn(ctx)
    """
    benchmark = benchmark or Toy()
    model = benchmark.load_model("compromised")
    with open_accelerator(cpu=True) as accelerator:
        stores = {role: PairStore(benchmark.split_for(role), model.processor) for role in method.reads()}
        meter = SampleMeter(benchmark.budget().times(budget), method.name)
        clean = (lambda: benchmark.load_model("clean")) if method.oracle else None
        with evaluation_locked():
            yield UnlearnContext(model, stores, meter, accelerator, seed, method, clean=clean, make_method=_make_installed)


def _make_installed(name: str, options: Mapping[str, Any]) -> UnlearningMethod:
    return make_method(name, options, load_plugins())
