"""Retain finetuning: train on with retain pairs and let what is no longer rehearsed fade."""

from __future__ import annotations

from torch import Tensor

from salmu_core import Batch, Between, DualEncoder, Field, FitOptions, LossMethod, UnlearningMethod, hookimpl
from salmu_core.losses import contrastive_loss


class RetainFinetuning(LossMethod):
    """Minimise CLIP's own loss (Radford et al. 2021, arXiv 2103.00020) on retain pairs; forget pairs are never seen."""

    name = "retain-finetuning"
    summary = "Go on training on retain pairs only; forget pairs are never seen."
    family = "retain finetuning"
    paper = "https://arxiv.org/abs/2603.26316"
    data = ("retain",)
    search = {"lr": Between(1e-6, 1e-2)}

    class Options(FitOptions):
        """Options of retain-finetuning."""

        lr: float = Field(3e-3, gt=0, le=10, description="peak learning rate")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The contrastive loss of the retain batch."""
        return {"retain": contrastive_loss(*model(batch.retain))}


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Finetuning on retain pairs."""
    return [RetainFinetuning]
