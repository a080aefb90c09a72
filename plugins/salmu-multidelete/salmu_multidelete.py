"""MultiDelete: give forget pairs the cosines that unrelated pairs had, and hold fused and single embeddings of retain pairs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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
from salmu_core.losses import derangement, embedding_drift


def decoupling_loss(
    student: Features, teacher: Features, rows: Int[Tensor, " rows"], other: Int[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Modality decoupling of MultiDelete (arXiv 2311.12047, and its retrieval code): `2 mean (S_i,rows - S°_i,other)²` over
    all images i, once per direction. The cosine of an image and a caption should be what the frozen model gave that image
    and the caption that took its place.

    Over many draws the target of every cosine is the mean of its row over the batch, so it is bounded and fades when it is
    reached. No rows: no loss.
    """
    change = student.image @ student.text[rows].T - teacher.image @ teacher.text[other].T
    return 2 * change.square().sum() / max(1, change.numel())


def multimodal_loss(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """Multimodal knowledge retention (arXiv 2311.12047): the mean squared error of the fused embedding. A dual encoder has
    no fusion encoder; as in SALMUBench's port the normalised mean of both embeddings takes its place."""
    return F.mse_loss(_fused(student), _fused(teacher))


def _fused(features: Features) -> Float[Tensor, "batch dim"]:
    return F.normalize((features.image + features.text) / 2, dim=1)


class MultiDelete(LossMethod):
    """Give forget pairs the cosines that images and other associations' captions had, and hold retain embeddings."""

    name = "multidelete"
    summary = (
        "Give forget pairs the cosines of unrelated pairs; hold fused and single embeddings of retain pairs (VLUnlearn)."
    )
    family = "distillation"
    paper = "https://arxiv.org/abs/2311.12047"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 3e-3), "decoupling_weight": Between(0.03, 30)}

    class Options(FitOptions):
        """Options of multidelete."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        decoupling_weight: float = Field(1.0, ge=0, description="weight of modality decoupling, on forget pairs")
        multimodal_weight: float = Field(1.0, ge=0, description="weight of multimodal retention, on retain pairs")
        unimodal_weight: float = Field(1.0, ge=0, description="weight of unimodal retention, on retain pairs")

    _teacher: DualEncoder
    _generator: Callable[..., torch.Generator]

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the teacher."""
        self._teacher = ctx.frozen_copy()
        self._generator = ctx.generator

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The three terms on one batch of each role."""
        options = self.options
        forget, retain = model(batch.forget), model(batch.retain)
        with torch.no_grad():
            forget_before, retain_before = self._teacher(batch.forget), self._teacher(batch.retain)
        # Drawn from the rows themselves: a resumed run and every process then draw alike, and no two batches are equal.
        generator = self._generator("derangement", *batch.forget.index.tolist())
        rows, other = derangement(batch.forget.columns["association"], generator)
        device = forget.image.device
        return {
            "forget": options.decoupling_weight * decoupling_loss(forget, forget_before, rows.to(device), other.to(device)),
            "multimodal": options.multimodal_weight * multimodal_loss(retain, retain_before),
            "unimodal": options.unimodal_weight * embedding_drift(retain, retain_before),
        }


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """MultiDelete."""
    return [MultiDelete]
