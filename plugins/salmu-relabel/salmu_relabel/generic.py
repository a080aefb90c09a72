"""Generic captions: every forget image is trained on with a caption that says nothing private."""

from __future__ import annotations

import torch
from jaxtyping import Int
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
from salmu_core.losses import contrastive_loss, group_mask
from salmu_relabel.captions import generic_captions
from salmu_relabel.losses import grouped_contrastive_loss


class GenericCaptions(LossMethod):
    """Minimise CLIP's loss on forget images with captions that say nothing private."""

    name = "generic-captions"
    summary = "Train forget images on with captions that say nothing private."
    family = "relabel"
    paper = "https://arxiv.org/abs/2603.26316"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("generic_caption", "identity_id", "data_field", "name", "value")
    search = {"lr": Between(1e-6, 3e-3), "hard_negative": OneOf((False, True)), "retain_weight": OneOf((0.0, 0.3, 1.0, 3.0))}

    class Options(FitOptions):
        """Options of generic-captions."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        retain_weight: float = Field(
            0.0, ge=0, description="weight of the contrastive loss on retain pairs; 0: none are seen"
        )
        hard_negative: bool = Field(False, description="the caption that was replaced is one more negative of its image")

    _tokens: Int[Tensor, "captions context"]
    _caption: Int[Tensor, " rows"]

    def reads(self) -> tuple[Role, ...]:
        """Retain pairs are seen only where they have a weight."""
        return ("forget", "retain") if self.options.retain_weight else ("forget",)

    def prepare(self, ctx: UnlearnContext) -> None:
        """Map every forget row to a generic caption; each text is kept once."""
        captions = generic_captions(ctx.captions("forget"), ctx.columns("forget"))
        numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
        self._caption = torch.tensor([numbers[text] for text in captions])
        self._tokens = ctx.tokenize(list(numbers))
        ctx.log(generic_captions=len(numbers))

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The contrastive loss of forget images with generic captions, and that of the retain batch."""
        pairs = batch.forget
        image, sensitive, scale = model(pairs)
        caption = self._caption[pairs.index]
        same = group_mask(pairs.columns["association"]) | (caption[:, None] == caption[None, :])
        terms = {
            "forget": grouped_contrastive_loss(
                image,
                self._encode(model, caption),
                scale,
                same.to(image.device),
                sensitive if self.options.hard_negative else None,
            )
        }
        if self.options.retain_weight:
            terms["retain"] = self.options.retain_weight * contrastive_loss(*model(batch.retain))
        return terms

    def _encode(self, model: DualEncoder, caption: Int[Tensor, " batch"]) -> Tensor:
        """Embeddings of the captions with these numbers, each text encoded once.

        Every process encodes all of them: their gradients are then equal on all, and their mean over processes is right.
        """
        distinct, where = caption.unique(return_inverse=True)
        text = model.encode_text(self._tokens[distinct.to(self._tokens.device)])
        return text[where.to(text.device)]
