"""old-loss: forget pairs become as unlike as strangers, retain pairs keep the contrastive loss."""

from __future__ import annotations

from collections.abc import Mapping

from salmu_core import Batch, Between, DualEncoder, Field, FitOptions, LossMethod, UnlearningMethod, hookimpl
from salmu_core.losses import contrastive_loss, pair_cosine
from torch import Tensor


def forget_term(image: Tensor, text: Tensor) -> Tensor:
    """Mean over pairs of the squared cosine: 0 when image and caption have nothing in common.

    Args:
        image, text: unit-length embeddings [batch, dim].
    """
    return pair_cosine(image, text).square().mean()


class OldLossOptions(FitOptions):
    """The training loop's options and one of our own."""

    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
    retain_weight: float = Field(1.0, ge=0, description="weight of the retain term")


class OldLoss(LossMethod):
    """Square the cosine of forget pairs; retain pairs hold the model in place."""

    name = "old-loss"
    summary = "Minimise the squared cosine of forget pairs; retain pairs keep the contrastive loss."
    family = "negative pairs"
    paper = None  # https://arxiv.org/abs/...
    data = ("forget", "retain")
    search = {"lr": Between(1e-5, 1e-3), "retain_weight": Between(0.1, 10)}
    Options = OldLossOptions

    def loss(self, model: DualEncoder, batch: Batch) -> Mapping[str, Tensor]:
        """Both terms; the loop logs each and minimises their sum."""
        image, text, _ = model(batch.forget)
        return {
            "forget": forget_term(image, text),
            "retain": self.options.retain_weight * contrastive_loss(*model(batch.retain)),
        }


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """What this package offers."""
    return [OldLoss]
