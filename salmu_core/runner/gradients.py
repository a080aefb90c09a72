"""Gradients that are handed out instead of being left in the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

#: Called with the gradient of every trained parameter, by name, before clipping; changes them in place.
OnGradients = Callable[[Mapping[str, Tensor]], None]
#: Called with the gradients of every term of the loss; returns those to descend along, by parameter name.
Combine = Callable[[Mapping[str, Mapping[str, Tensor]]], Mapping[str, Tensor]]


def gradients_of(
    value: Tensor, parameters: Mapping[str, nn.Parameter], processes: int, keep: bool = False
) -> dict[str, Tensor]:
    """The gradient of a scalar over the global batch, by parameter name: the same on every process; zeros where it does not
    depend on a parameter.

    Args:
        value: a scalar; embeddings gathered from all processes sum their gradients over them, so the mean is right.
        keep: the graph is needed again.
    """
    if not value.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, retain_graph=keep)
    result = {}
    for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        if processes > 1:
            gradient = gradient.contiguous()
            dist.all_reduce(gradient)
            gradient = gradient / processes
        result[name] = gradient
    return result
