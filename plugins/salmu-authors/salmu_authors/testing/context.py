"""Contexts on the toy benchmark, to try a method or an audit without a runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from salmu_authors.testing.registry import installed_method
from salmu_core.audit import Audit, Leak
from salmu_core.benchmark import Benchmark, evaluation_locked
from salmu_core.builtin.toy import Toy
from salmu_core.data.pixels import PairStore
from salmu_core.method import UnlearningMethod
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.records.schema import Target
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.audit_context import AuditContext
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.context import UnlearnContext


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
            yield UnlearnContext(model, stores, meter, accelerator, seed, method, clean=clean, make_method=installed_method)


def toy_attack(
    audit: Audit,
    model: DualEncoder | None = None,
    *,
    seed: int = 0,
    load_reference: Callable[[Target], DualEncoder] | None = None,
) -> Leak:
    """What an audit gets out of a model on the toy benchmark, on the CPU.

    Args:
        model: default: the toy's Compromised model. The audit may change it.
        load_reference: gives the reference models; default: fresh ones.
    """
    toy = Toy()
    with open_accelerator(cpu=True) as accelerator:
        victim = toy.load_model("compromised") if model is None else model
        return audit.attack(AuditContext(victim, toy, accelerator, seed, audit.name, load_reference=load_reference))
