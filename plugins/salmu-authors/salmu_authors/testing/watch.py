"""Looking over a plugin's shoulder: random state, and who reads which split."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch

from salmu_core.benchmark import Benchmark
from salmu_core.builtin.toy import Toy
from salmu_core.data.splits import Split


@contextmanager
def fixed_randomness(seed: int = 0) -> Iterator[None]:
    """Global random state starts from `seed` and is afterwards as it was: what draws from it gives the same twice."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.random.set_rng_state(before[2])


@dataclass
class BenchmarkAccess:
    """What was asked of benchmark objects, past the context."""

    evaluation: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    clean: int = 0


@contextmanager
def watched_benchmarks() -> Iterator[BenchmarkAccess]:
    """Note which splits and models are asked of any benchmark while this is open; what they answer stays as it is."""
    access = BenchmarkAccess()
    split, load_split, load_model = Benchmark.split, Toy.load_split, Toy.load_model

    def note(benchmark: Benchmark, name: str) -> None:
        info = benchmark.splits().get(name)
        kept = access.evaluation if info is None or info.role == "evaluation" else access.training
        if name not in kept:
            kept.append(name)

    def watched_split(self: Benchmark, name: str) -> Split:
        note(self, name)
        return split(self, name)

    def watched_load_split(self: Toy, name: str) -> Split:
        note(self, name)
        return load_split(self, name)

    def watched_load_model(self: Toy, which: Any) -> Any:
        access.clean += which == "clean"
        return load_model(self, which)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Benchmark, "split", watched_split))
        stack.enter_context(mock.patch.object(Toy, "load_split", watched_load_split))
        stack.enter_context(mock.patch.object(Toy, "load_model", watched_load_model))
        yield access
