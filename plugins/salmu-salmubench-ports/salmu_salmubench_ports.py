"""What the public code of one of SALMUBench's authors computes under the names CLIPErase and DELETE."""

from __future__ import annotations

import torch
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
from salmu_core.losses import embedding_drift, similarity_drift, zero_similarity_loss


class _Port(LossMethod):
    """Send every cosine of a forget batch to 0; `keep` says what holds a retain batch."""

    family = "negative pairs"
    paper = "https://arxiv.org/abs/2603.26316"
    data = ("forget", "retain")
    search = {"lr": Between(1e-6, 3e-3), "forget_weight": Between(0.01, 10)}

    class Options(FitOptions):
        """Options of both ports."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        forget_weight: float = Field(1.0, ge=0, description="weight of the forget term; each retain term has 1")

    _teacher: DualEncoder

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the teacher."""
        self._teacher = ctx.frozen_copy()

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The terms of the port on one batch of each role."""
        image, text, _ = model(batch.forget)
        retain = model(batch.retain)
        with torch.no_grad():
            teacher = self._teacher(batch.retain)
        return {"forget": self.options.forget_weight * zero_similarity_loss(image, text), **self.keep(retain, teacher)}

    def keep(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        """What holds a retain batch where the teacher has it."""
        raise NotImplementedError


class ClipEraseSalmubench(_Port):
    """Send every cosine of a forget batch to 0 and hold cosines and embeddings of retain pairs where they were."""

    name = "cliperase-salmubench"
    summary = "Send all cosines among forget pairs to 0; hold cosines and embeddings of retain pairs (CLIPErase port)."
    former_package = "salmu-cliperase"

    def keep(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        """Cosines and embeddings."""
        return {"retain": similarity_drift(student, teacher), "consistency": embedding_drift(student, teacher)}


class DeleteSalmubench(_Port):
    """Send every cosine of a forget batch to 0 and hold the cosines of a retain batch where they were."""

    name = "delete-salmubench"
    summary = "Send all cosines among forget pairs to 0; hold those among retain pairs (SALMUBench's port of DELETE)."
    former_package = "salmu-distillation"

    def keep(self, student: Features, teacher: Features) -> dict[str, Tensor]:
        """Cosines."""
        return {"retain": similarity_drift(student, teacher)}


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Both ports."""
    return [ClipEraseSalmubench, DeleteSalmubench]
