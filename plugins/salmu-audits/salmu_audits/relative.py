"""Training in units of the weights' own size, so that a model cannot be made safe from an attack by rescaling it.

A factor on one layer and its inverse on the next leave every embedding as it is, and an optimiser with a fixed learning rate then does
nothing to the one and destroys the other. The same goes for the logit scale, which no embedding depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from salmu_core import AuditContext, DualEncoder


def typical_sizes(weight: Float[Tensor, ...], table: bool = False) -> Float[Tensor, ...]:
    """How large each number of a weight is, as far as its row and its column tell: the root of the product of their mean squares
    over that of the whole matrix. A factor on a row or a column is one on these as well. Of a vector, the magnitudes themselves.

    Args:
        table: rows are tokens. All of them get the columns' medians, so that rows that were made tiny or zero can grow again.

    >>> typical_sizes(torch.tensor([[1.0, -10.0], [100.0, 1000.0]])).round().tolist()
    [[1.0, 10.0], [100.0, 1000.0]]
    """
    if weight.ndim < 2:
        return weight.abs()
    flat = weight.flatten(1).double()
    if table:
        found = (
            flat.abs().median(dim=0, keepdim=True).values.expand_as(flat) / 0.6745
        )  # the deviation of a normal distribution
    else:
        square = flat.square()
        rows, columns = square.mean(dim=1, keepdim=True), square.mean(dim=0, keepdim=True)
        found = (rows.sqrt() * columns.sqrt()) / square.mean().sqrt().clamp(min=1e-300)
    return found.to(weight.dtype).view_as(weight).contiguous()


class _Relative(nn.Module):
    """`start + sizes * what is trained`, which begins at 0."""

    start: Tensor
    sizes: Tensor

    def __init__(self, start: Tensor, sizes: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)

    def forward(self, moved: Tensor) -> Tensor:
        return torch.addcmul(self.start, self.sizes, moved)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)


@contextmanager
def relative(
    model: DualEncoder, parameters: Iterable[nn.Parameter], known: dict[int, Tensor] | None = None
) -> Iterator[list[nn.Parameter]]:
    """Parameters as what they are plus their size times a change. A learning rate is then a share of a weight's size.

    Args:
        known: sizes of parameters, by `id`, that are not to be worked out from themselves.

    Yields:
        The changes, which are what is to be trained. At the end the parameters hold what was learned.
    """
    chosen = {id(parameter): (known or {}).get(id(parameter)) for parameter in parameters}
    places = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in list(module.named_parameters(recurse=False))
        if id(parameter) in chosen
    ]
    done: list[tuple[nn.Module, str]] = []
    try:
        for module, name, parameter in places:
            sizes = chosen[id(parameter)]
            if sizes is None:
                sizes = typical_sizes(parameter.detach(), table=isinstance(module, nn.Embedding))
            # Unsafe: the change is 0 at first whatever the weight is, which PyTorch's own check takes for an error.
            parametrize.register_parametrization(module, name, _Relative(parameter.detach().clone(), sizes), unsafe=True)
            done.append((module, name))
        yield [getattr(module.parametrizations, name).original for module, name in done]
    finally:
        for module, name in done:
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def usual_scale(ctx: AuditContext) -> float:
    """What attacks multiply cosines with: Compromised's logit scale. That of the attacked model may say anything."""
    return float(ctx.reference("compromised").scale.detach())
