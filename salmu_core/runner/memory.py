"""How much memory training takes, worked out from the architecture without computing anything. An estimate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from salmu_core.method import FitOptions
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.execution import Execution

#: Share of fp32 activations that is left under autocast to 16 bits: matrix products halve, norms and residuals stay.
_AUTOCAST_SHARE = 0.6


@dataclass(frozen=True)
class ModelCost:
    """What the memory of a step depends on, in bytes in fp32.

    Args:
        weights: all weights.
        image_row, text_row: what an encoder keeps of one image, or one caption of full length, for the backward pass.
        image_row_checkpointed, text_row_checkpointed: the same with activation checkpoints.
    """

    weights: int
    image_row: int
    text_row: int
    image_row_checkpointed: int
    text_row_checkpointed: int


def model_cost(model: DualEncoder) -> ModelCost:
    """Count what autograd keeps of a pass of tensors without content."""
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    empty = copy.deepcopy(model).to("meta")
    empty.autocast, empty.micro_batch = None, None
    images = torch.empty(1, *model.processor.image_shape, device="meta")
    tokens = torch.zeros(1, model.processor.context_length, dtype=torch.long, device="meta")
    rows = [_kept_bytes(empty.clip, "encode_image", images), _kept_bytes(empty.clip, "encode_text", tokens)]
    try:
        empty.checkpoint_activations()
        # Beside what goes into the layers, one layer's own activations while it is computed again: about one of twelve.
        less = [
            _kept_bytes(empty.clip, "encode_image", images) + rows[0] // 12,
            _kept_bytes(empty.clip, "encode_text", tokens) + rows[1] // 12,
        ]
    except Exception:  # not possible for this architecture, and said so where it is asked for
        less = rows
    return ModelCost(weights, *rows, *less)


def training_bytes(
    cost: ModelCost,
    options: FitOptions,
    rows: Mapping[str, int],
    precision: Literal["no", "bf16", "fp16"],
    execution: Execution,
    processes: int = 1,
) -> int:
    """Device memory of a training step: weights, gradients, optimiser state, and activations of what is encoded at a time.

    Without micro-batches the activations of every role's batch are held at once, with them those of one micro-batch. Frozen
    teachers, logits and what a method keeps for itself come on top.
    """
    states = {"adamw": 2, "sgd": 1}[options.optimizer]
    fixed = cost.weights * (2 + states)
    share = 1.0 if precision == "no" else _AUTOCAST_SHARE
    image, text = (
        (cost.image_row_checkpointed, cost.text_row_checkpointed)
        if execution.checkpoint_activations
        else (cost.image_row, cost.text_row)
    )
    batches = [-(-min(options.batch_size, count) // options.accumulate) for count in rows.values()]
    batches = [-(-size // processes) for size in batches]
    if execution.micro_batch is None:
        return fixed + int(share * sum(batches) * (image + text))
    return fixed + int(share * max(min(size, execution.micro_batch) for size in batches) * max(image, text))


def _kept_bytes(clip: nn.Module, encode: str, inputs: Tensor) -> int:
    """Bytes that autograd keeps of one call, weights left out and shared memory counted once."""
    own = {id(parameter) for parameter in clip.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in own:
            kept[id(base)] = base
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = getattr(clip, encode)(inputs)
        found = sum(tensor.nbytes for tensor in kept.values())
    del result
    return found
