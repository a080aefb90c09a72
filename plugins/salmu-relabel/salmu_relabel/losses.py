"""CLIP's loss with candidates left out or added."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from salmu_core.losses import pair_cosine


def grouped_contrastive_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""],
    same: Bool[Tensor, "batch batch"],
    instead_of: Float[Tensor, "batch dim"] | None = None,
) -> Float[Tensor, ""]:
    """CLIP's loss (Radford et al. 2021, arXiv 2103.00020) in which rows that say the same are not each other's negatives.

    Args:
        same: rows of which neither is a negative of the other. The diagonal is the positive whatever it says there.
        instead_of: captions that the rows' own replace: one more negative for each image, its own old caption.
    """
    logits = scale * image @ text.T
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(same & ~own, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    candidates = logits
    if instead_of is not None:
        candidates = torch.cat([logits, scale * pair_cosine(image, instead_of)[:, None]], dim=1)
    losses = F.cross_entropy(candidates, target, reduction="sum") + F.cross_entropy(logits.T, target, reduction="sum")
    return losses / (2 * max(1, len(logits)))
