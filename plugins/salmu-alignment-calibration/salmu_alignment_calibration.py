"""Alignment Calibration: go on training on forget and retain pairs together, and take back the pull on forget pairs."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from salmu_core import Batch, Between, DualEncoder, Features, Field, FitOptions, LossMethod, UnlearningMethod, hookimpl
from salmu_core.losses import group_mask, pair_cosine, pair_losses


def calibration_terms(
    forget: Features, retain: Features, same: Bool[Tensor, "batch batch"], alpha: float, beta: float
) -> dict[str, Float[Tensor, ""]]:
    """The two terms of Alignment Calibration (Wang et al. 2024, arXiv 2406.03603, and the authors' `algs.py`), with image and
    caption in the place of two views of an image.

    One is the contrastive loss of both batches together, in which forget pairs weigh `alpha`. The other is the mean cosine
    of forget pairs, weighted with `beta`, the forget pairs' share of the batch, and the logit scale: so at alpha = beta = 1
    a forget pair's cosine is in the loss as an alternative to the other pairs only, no more as what should be high.

    Args:
        same: the group mask of forget, then retain pairs.
    """
    image, text = torch.cat([forget.image, retain.image]), torch.cat([forget.text, retain.text])
    losses = pair_losses(image, text, forget.scale, same)
    count, others = len(forget.image), len(retain.image)
    contrastive = (alpha * losses[:count].sum() + losses[count:].sum()) / (alpha * count + others)
    share = count / (count + others)
    return {
        "contrastive": contrastive,
        "alignment": beta * share * forget.scale * pair_cosine(forget.image, forget.text).mean(),
    }


class AlignmentCalibration(LossMethod):
    """Minimise the contrastive loss of forget and retain pairs together, and the cosine of forget pairs."""

    name = "alignment-calibration"
    summary = "Go on training on forget and retain pairs together while minimising the cosine of forget pairs (MUC)."
    family = "negative pairs"
    paper = "https://arxiv.org/abs/2406.03603"
    data = ("forget", "retain")
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 3e-3), "beta": Between(0.3, 10), "alpha": Between(0, 1, log=False)}

    class Options(FitOptions):
        """Options of alignment-calibration."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        alpha: float = Field(1.0, ge=0, description="weight of forget pairs in the contrastive loss; retain pairs have 1")
        beta: float = Field(1.0, ge=0, description="weight of the mean cosine of forget pairs, in logits and by their share")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Both terms on one batch of each role."""
        forget, retain = model(batch.forget), model(batch.retain)
        # Codes of two splits cannot be compared; a pair of retain is never the same as one of forget.
        masks = [group_mask(pairs.columns["association"]) for pairs in (batch.forget, batch.retain)]
        same = torch.block_diag(*masks).bool().to(forget.image.device)
        return calibration_terms(forget, retain, same, self.options.alpha, self.options.beta)


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Alignment Calibration."""
    return [AlignmentCalibration]
