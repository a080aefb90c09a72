"""Fixtures for the tests of plugins. pytest finds them wherever salmu is installed; nothing is imported before one is used.

| fixture | gives |
|---|---|
| `toy_benchmark` | the toy benchmark: every split and column of SALMUBench, in milliseconds |
| `tiny_dual_encoder` | the toy's Compromised model, fresh for every test: it may be changed |
| `toy_run` | `toy_run(method)`: the method has unlearned on the toy; its context, e.g. `.model`, `.samples`, `.history` |
| `toy_attack` | `toy_attack(audit)`: what the audit gets out of the toy's Compromised model, or of another one |
| `toy_views` | `toy_views(metric)`: what the metric asks for, embedded, ready for `compute(**views)` |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from salmu_core.audit import Leak
    from salmu_core.builtin.toy import Toy
    from salmu_core.data.pairs import Embedded
    from salmu_core.method import UnlearningMethod
    from salmu_core.metric import Metric
    from salmu_core.models.dual_encoder import DualEncoder
    from salmu_core.runner.context import UnlearnContext


@pytest.fixture
def toy_benchmark() -> Toy:
    """The toy benchmark: coloured squares, an untrained model, every split of a SALMU-style benchmark."""
    from salmu_core.builtin.toy import Toy

    return Toy()


@pytest.fixture
def tiny_dual_encoder(toy_benchmark: Toy) -> DualEncoder:
    """The toy's Compromised model: one layer a tower, embeddings of 16 numbers, on the CPU. A fresh one for every test."""
    return toy_benchmark.load_model("compromised")


@pytest.fixture
def toy_run() -> Callable[..., UnlearnContext]:
    """A function that lets a method unlearn on the toy benchmark and gives its context.

    Example:
        def test_the_forget_term_falls(toy_run):
            ctx = toy_run(ZeroCosine(ZeroCosine.Options(lr=1e-3)))
            assert ctx.history[-1]["forget"] < ctx.history[0]["forget"]
    """

    def unlearned(method: UnlearningMethod, *, seed: int = 0, budget: float = 1.0) -> UnlearnContext:
        from salmu_authors.testing.context import toy_context

        with toy_context(method, seed=seed, budget=budget) as ctx:
            method.unlearn(ctx)
        return ctx

    return unlearned


@pytest.fixture
def toy_attack() -> Callable[..., Leak]:
    """A function that lets an audit attack a model on the toy benchmark, Compromised by default, and gives what it got.

    Example:
        def test_a_noisy_model_gives_less_away(toy_attack):
            assert toy_attack(WeightNoise()).value < 1
    """
    from salmu_authors.testing.context import toy_attack as attack

    return attack


@pytest.fixture
def toy_views(toy_benchmark: Toy) -> Callable[[Metric], dict[str, Embedded]]:
    """A function that embeds what a metric asks for with the toy's Compromised model, by argument of `compute`."""

    def embedded(metric: Metric) -> dict[str, Embedded]:
        from salmu_core.evaluation.embed import embed_views

        needs = metric.needs()
        found = embed_views(toy_benchmark.load_model("compromised"), toy_benchmark, list(dict.fromkeys(needs.values())))
        return {argument: found[view] for argument, view in needs.items()}

    return embedded
