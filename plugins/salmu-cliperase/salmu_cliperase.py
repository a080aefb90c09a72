"""CLIPErase: lower the cosines of forget pairs, keep CLIP's loss on retain pairs, and stay close to the frozen model there."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Features,
    Field,
    FitOptions,
    LossMethod,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss, pair_cosine


def forgetting_loss(image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """`mean_i u_i · v_i`: the forgetting module of CLIPErase (arXiv 2410.23330). Bounded by -1 and 1, but its gradient does
    not fade at any cosine."""
    return pair_cosine(image, text).mean()


def consistency_loss(
    student: Features, teacher: Features, distribution: Literal["batch", "embedding"] = "batch"
) -> Float[Tensor, ""]:
    """`mean_i [KL(p°_i || p_i) of images + the same of captions]`: the consistency module of CLIPErase (arXiv 2410.23330).

    Args:
        distribution: what p is. "batch": for an image the softmax of its logits over the batch's captions, for a caption
            over the batch's images, both with the teacher's scale. "embedding": the softmax of the embedding's entries.
    """
    if distribution == "embedding":
        return _divergence(student.image, teacher.image) + _divergence(student.text, teacher.text)
    ours = teacher.scale * student.image @ student.text.T
    theirs = teacher.scale * teacher.image @ teacher.text.T
    return _divergence(ours, theirs) + _divergence(ours.T, theirs.T)


def _divergence(logits: Float[Tensor, "rows n"], target: Float[Tensor, "rows n"]) -> Float[Tensor, ""]:
    """Mean over rows of KL(softmax(target) || softmax(logits))."""
    return F.kl_div(logits.log_softmax(dim=1), target.log_softmax(dim=1), reduction="batchmean", log_target=True)


class ClipErase(LossMethod):
    """Lower forget cosines, keep the contrastive loss on retain pairs, keep the frozen model's distributions there."""

    name = "cliperase"
    summary = "Minimise forget cosines beside the contrastive loss and the frozen model's distributions on retain pairs."
    family = "negative pairs"
    paper = "https://arxiv.org/abs/2410.23330"
    data = ("forget", "retain")
    search = {"lr": Between(1e-6, 3e-3), "forget_weight": Between(0.1, 10)}

    class Options(FitOptions):
        """Options of cliperase."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        retain_weight: float = Field(1.0, ge=0, description="weight of the contrastive loss on retain pairs")
        forget_weight: float = Field(3.0, ge=0, description="weight of the mean cosine of forget pairs")
        consistency_weight: float = Field(3.0, ge=0, description="weight of the divergence from the frozen model on retain")
        distribution: Literal["batch", "embedding"] = Field(
            "batch", description="what must not diverge: softmax over the batch's candidates, or over an embedding's entries"
        )

    _teacher: DualEncoder

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the teacher."""
        self._teacher = ctx.frozen_copy()

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The three modules on one batch of each role."""
        options = self.options
        image, text, _ = model(batch.forget)
        retain = model(batch.retain)
        with torch.no_grad():
            teacher = self._teacher(batch.retain)
        return {
            "forget": options.forget_weight * forgetting_loss(image, text),
            "retain": options.retain_weight * contrastive_loss(*retain),
            "consistency": options.consistency_weight * consistency_loss(retain, teacher, options.distribution),
        }


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """CLIPErase."""
    return [ClipErase]
