"""Looking over a plugin's shoulder: random state, settings of the process, and who reads which split."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch

from salmu_core.benchmark import Benchmark
from salmu_core.builtin.toy import Toy
from salmu_core.data.pairs import Split


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
class ProcessState:
    """State of the whole process that a plugin must leave alone."""

    python: Any
    numpy: bytes
    torch: bytes
    settings: dict[str, Any]

    @classmethod
    def now(cls) -> ProcessState:
        """As it is."""
        settings = {
            "torch.is_grad_enabled()": torch.is_grad_enabled(),
            "torch.get_default_dtype()": torch.get_default_dtype(),
            "torch.get_default_device()": str(torch.get_default_device()),
            "torch.get_num_threads()": torch.get_num_threads(),
            "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
            "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        }
        numpy_state: Any = np.random.get_state()
        drawn = bytes(numpy_state[1].tobytes()) + str(numpy_state[2:]).encode()
        return cls(random.getstate(), drawn, torch.random.get_rng_state().numpy().tobytes(), settings)

    def put_back(self) -> None:
        """Restore the settings, so that one plugin's fault does not become the next one's."""
        torch.set_grad_enabled(self.settings["torch.is_grad_enabled()"])
        torch.set_default_dtype(self.settings["torch.get_default_dtype()"])
        torch.set_num_threads(self.settings["torch.get_num_threads()"])
        torch.use_deterministic_algorithms(self.settings["torch.are_deterministic_algorithms_enabled()"])
        torch.set_float32_matmul_precision(self.settings["torch.get_float32_matmul_precision()"])

    def drawn_since(self, before: ProcessState) -> list[str]:
        """Which global generators were used since."""
        pairs = {"random": (before.python, self.python), "numpy.random": (before.numpy, self.numpy)}
        pairs["torch's default generator"] = (before.torch, self.torch)
        # Where beartype checks types while tests run, it draws from `random` itself to choose which items it looks at.
        ignored = {"random"} if "beartype" in sys.modules else set()
        return [name for name, (old, new) in pairs.items() if old != new and name not in ignored]

    def changed_since(self, before: ProcessState) -> list[str]:
        """Which settings changed since."""
        return [
            f"{name} was {old} and is {self.settings[name]}"
            for name, old in before.settings.items()
            if old != self.settings[name]
        ]


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
