"""The numbers of a checkpoint's weights: how many there are, and that they are those of a trained model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from salmu_core.errors import BadCheckpoint


def numbers_in(weights: Mapping[str, Tensor], source: str) -> int:
    """How many numbers there are, all of which are stored.

    Raises:
        BadCheckpoint: a tensor that stores its numbers in another way, one for many, or none at all.
    """
    total = 0
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            kind = "meta" if tensor.device.type != "cpu" else str(tensor.layout).removeprefix("torch.")
            raise BadCheckpoint(
                f"'{source}' holds {name} as {kind}.", "Quantised and sparse weights are not read. Convert them."
            )
        if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise BadCheckpoint(f"'{source}' holds {name} as fewer numbers than its shape has.", "Save it contiguous.")
        total += tensor.numel()
    return total


def check_numbers(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Refuse numbers that are not those of a trained model.

    Raises:
        BadCheckpoint: quantised tensors, or weights that are not finite.
    """
    for name, tensor in weights.items():
        floats = expected[name].is_floating_point()
        if floats and (not tensor.is_floating_point() or tensor.itemsize < 2):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise BadCheckpoint(
                f"'{source}' holds {name} as {kind}.", "Quantised and sparse weights are not read. Convert them."
            )
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise BadCheckpoint(f"'{source}' holds weights that are not finite: {', '.join(bad[:3])}.")
