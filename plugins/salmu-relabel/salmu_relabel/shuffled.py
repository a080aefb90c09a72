"""Shuffled captions: every forget image is trained on with the caption of another association."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    LossMethod,
    OneOf,
    Role,
    UnlearnContext,
)
from salmu_core.losses import contrastive_loss, derangement, group_mask
from salmu_relabel.losses import grouped_contrastive_loss


class ShuffledCaptions(LossMethod):
    """Minimise CLIP's loss on forget images with the captions of other associations, drawn afresh for every batch."""

    name = "shuffled-captions"
    summary = "Train forget images on with the captions of other associations."
    family = "relabel"
    paper = "https://arxiv.org/abs/2603.26316"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 1e-3), "retain_weight": OneOf((0.0, 0.3, 1.0, 3.0))}

    class Options(FitOptions):
        """Options of shuffled-captions."""

        lr: float = Field(3e-5, gt=0, le=10, description="peak learning rate")
        retain_weight: float = Field(
            0.0, ge=0, description="weight of the contrastive loss on retain pairs; 0: none are seen"
        )
        apart: Literal["association", "identity"] = Field(
            "association", description="captions come from another association, or from another person"
        )

    _generator: Callable[..., torch.Generator]

    def reads(self) -> tuple[Role, ...]:
        """Retain pairs are seen only where they have a weight."""
        return ("forget", "retain") if self.options.retain_weight else ("forget",)

    def prepare(self, ctx: UnlearnContext) -> None:
        """Keep where generators come from."""
        self._generator = ctx.generator

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The contrastive loss of forget images with their new captions, and that of the retain batch."""
        image, text, scale = model(batch.forget)
        codes = batch.forget.columns
        # Drawn from the rows themselves: a resumed run and every process then draw alike, and no two batches are equal.
        generator = self._generator("derangement", *batch.forget.index.tolist())
        rows, other = derangement(codes[self.options.apart], generator)
        same = group_mask(codes["association"][other]).to(image.device)
        # Embeddings are exchanged, not captions: what was gathered from all processes keeps its right gradients.
        image, text = image[rows.to(image.device)], text[other.to(image.device)]
        terms = {"forget": grouped_contrastive_loss(image, text, scale, same)}
        if self.options.retain_weight:
            terms["retain"] = self.options.retain_weight * contrastive_loss(*model(batch.retain))
        return terms
