"""Pure loss functions shared by methods. Inputs are unit-length embeddings of a global batch; nothing here knows a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def contrastive_loss(
    image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"], scale: Float[Tensor, ""] | float
) -> Float[Tensor, ""]:
    """The symmetric InfoNCE loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3): the mean of the image-to-text
    and the text-to-image cross-entropy, with the diagonal as the only positives.

    Args:
        image, text: unit-length rows; row i of one belongs to row i of the other.
        scale: what the cosines are multiplied with (exp of CLIP's `logit_scale`).
    """
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pair_cosine(image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Cosine of each pair, for unit-length rows."""
    return (image * text).sum(dim=-1)


def group_mask(association: Int[Tensor, " batch"]) -> Bool[Tensor, "batch batch"]:
    """True where two rows are the same pair: the diagonal, and rows that share an association.

    Several images and paraphrases express one association; a loss that treats them as negatives of each other teaches the
    very thing it should remove. Rows without an association (-1) match only themselves.
    """
    same = association[:, None] == association[None, :]
    known = (association >= 0)[:, None] & (association >= 0)[None, :]
    return (same & known) | torch.eye(len(association), dtype=torch.bool, device=association.device)
