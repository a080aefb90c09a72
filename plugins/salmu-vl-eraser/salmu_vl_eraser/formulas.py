"""Null spaces, the loss of imitation, and how much of it is subtracted. Nothing here knows a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def null_basis(moment: Float[Tensor, "dim dim"], leak: float) -> Float[Tensor, "dim kept"]:
    """An orthonormal basis of the directions that hold next to nothing of some vectors: as many of the smallest eigenvectors
    of their second moment as together have at most the share `leak` of all squared length.

    With `leak` 0 this is the null space that VL-Eraser (Wang et al. 2026, CVPR) takes from a singular value decomposition, up
    to rounding. It is empty as soon as there are enough vectors, hence the share.
    """
    values, vectors = torch.linalg.eigh(moment.double())  # smallest first
    values = values.clamp(min=0)
    rounding = len(values) * torch.finfo(moment.dtype).eps
    within = values.cumsum(dim=0) <= (leak + rounding) * values.sum()
    kept: Tensor = vectors[:, : int(within.sum())].to(moment.dtype)
    return kept


def imitation_loss(
    target: Float[Tensor, "rows tokens out"],
    given: Float[Tensor, "rows tokens out"],
    counted: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, ""]:
    """`1 - cos(target, given)` per token, averaged over the counted tokens of a row, then over rows: the distillation of
    VL-Eraser. Between 0 and 2, whatever the lengths of the vectors."""
    apart = 1 - F.cosine_similarity(target.float(), given.float(), dim=-1)
    return ((apart * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)).mean()


def gain(
    products: Float[Tensor, ""], squares: Float[Tensor, ""], longest: Float[Tensor, ""] | float = float("inf")
) -> Float[Tensor, ""]:
    """The factor that makes the imitation nearest to its target in squared length, from the sums of `target . given` and of
    `|given|^2`. A cosine says nothing about lengths.

    Not below 0: what points the other way is no imitation. Not above `longest`: where an adapter sees nothing but rounding,
    the nearest factor is huge.
    """
    found = products / squares.clamp(min=torch.finfo(squares.dtype).tiny)
    return found.clamp(min=0).minimum(torch.as_tensor(longest, dtype=found.dtype, device=found.device))
