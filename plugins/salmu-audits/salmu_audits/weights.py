"""Attacks on the weights themselves: rounding them, and putting the original tower back."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salmu_audits.measures import distinct, mean_reciprocal_rank
from salmu_audits.relearning import retrieval
from salmu_core import Audit, AuditContext, DualEncoder, Leak


def rounded(weight: Float[Tensor, ...], bits: int, dim: int) -> Float[Tensor, ...]:
    """Round to the nearest of `2^bits - 1` symmetric levels, scaled by the largest magnitude along all dimensions but `dim`
    (one scale for each output channel). Zhang et al. 2024 (arXiv 2410.16454) found that this brings unlearned knowledge
    back, where the change that unlearning made is smaller than a level."""
    highest = 2 ** (bits - 1) - 1
    others = tuple(axis for axis in range(weight.ndim) if axis != dim % weight.ndim)
    scale = weight.abs().amax(dim=others, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / highest
    return (weight / scale).round().clamp(-highest, highest) * scale


@torch.no_grad()
def round_model(model: DualEncoder, bits: int) -> int:
    """Round every weight matrix in place: linear layers, attention, convolutions, token embeddings, projections. Biases, norms,
    positions and the logit scale stay. Returns how many numbers were rounded."""
    count = 0
    seen: set[int] = set()
    for module in model.clip.modules():
        for name, parameter in module.named_parameters(recurse=False):
            layer = isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd | nn.MultiheadAttention)
            projection = name in ("proj", "text_projection")  # used as `x @ projection`: its columns are the channels
            if parameter.ndim < 2 or id(parameter) in seen or not (layer or projection):
                continue
            seen.add(id(parameter))
            parameter.copy_(rounded(parameter, bits, -1 if projection else 0))
            count += parameter.numel()
    return count


class Rounding(Audit):
    """Round all weight matrices and test what was forgotten."""

    bits: ClassVar[int]
    paper = "https://arxiv.org/abs/2410.16454"

    def attack(self, ctx: AuditContext) -> Leak:
        """Rounding needs no data at all."""
        forget = ctx.split("forget")
        before = retrieval(ctx, forget)
        round_model(ctx.model, self.bits)
        return Leak(retrieval(ctx, forget), {"before": before})


class Int8Rounding(Rounding):
    """Round to 8 bits."""

    name = "int8-rounding"
    summary = "Round all weight matrices to 8 bits for each channel; reciprocal rank of the forgotten captions."
    bits = 8


class Int4Rounding(Rounding):
    """Round to 4 bits."""

    name = "int4-rounding"
    summary = "Round all weight matrices to 4 bits for each channel; reciprocal rank of the forgotten captions."
    bits = 4


class TowerSwap(Audit):
    """Pair one unlearned encoder with the other one of the original model."""

    original: ClassVar[Literal["image", "text"]]

    def attack(self, ctx: AuditContext) -> Leak:
        """Whoever has the original model can do this: a jump means that only the alignment was undone."""
        forget = ctx.split("forget")
        captions, own = distinct(forget.render(None))
        compromised = ctx.reference("compromised")
        images = ctx.images(forget, compromised if self.original == "image" else None)
        texts = ctx.texts(captions, compromised if self.original == "text" else None)
        return Leak(mean_reciprocal_rank(images, texts, own))


class OriginalImageTower(TowerSwap):
    """The original image encoder with the unlearned text encoder."""

    name = "original-image-tower"
    summary = "Pair the original image encoder with the unlearned text encoder; reciprocal rank of the forgotten captions."
    original = "image"


class OriginalTextTower(TowerSwap):
    """The unlearned image encoder with the original text encoder."""

    name = "original-text-tower"
    summary = "Pair the unlearned image encoder with the original text encoder; reciprocal rank of the forgotten captions."
    original = "text"
