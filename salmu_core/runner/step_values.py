"""Losses and gradient norms as numbers, without making the device wait for the host at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class StepValue:
    """What one step found.

    Args:
        step: counted from 1.
        terms: loss terms by name, and their sum as `total`.
        total: the sum of the terms.
        norm: global gradient norm before clipping.
    """

    step: int
    terms: dict[str, float]
    total: float
    norm: float


@dataclass(frozen=True)
class _Pending:
    step: int
    names: tuple[str, ...]
    values: Tensor
    copied: torch.cuda.Event | None


def reading_lag(device: torch.device) -> int:
    """Steps that reading should stay behind: on CUDA one, so that the GPU has work while the host reads; elsewhere none."""
    return 1 if device.type == "cuda" else 0


class StepValues:
    """Values of the steps in order, each handed out `lag` steps late."""

    def __init__(self, lag: int = 0) -> None:
        self._lag = lag
        self._pending: deque[_Pending] = deque()

    def put(self, step: int, terms: Mapping[str, Float[Tensor, ""]], total: Float[Tensor, ""], norm: Tensor) -> None:
        """Keep what a step found, still on the device."""
        packed = torch.stack([value.detach().reshape(()).float() for value in (*terms.values(), total, norm)])
        copied = None
        if packed.is_cuda and self._lag:
            host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            packed = host.copy_(packed, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._pending.append(_Pending(step, tuple(terms), packed, copied))

    def take(self, *, everything: bool = False) -> list[StepValue]:
        """Values of the steps that are `lag` behind, or `everything` that is left."""
        found = []
        while len(self._pending) > (0 if everything else self._lag):
            item = self._pending.popleft()
            if item.copied is not None:
                item.copied.synchronize()
            *terms, total, norm = item.values.tolist()
            found.append(StepValue(item.step, dict(zip(item.names, terms, strict=True)), total, norm))
        return found
