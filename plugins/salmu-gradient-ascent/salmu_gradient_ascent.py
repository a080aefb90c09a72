"""Gradient ascent: climb the contrastive loss on forget pairs, alone or while descending it on retain pairs."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from salmu_core import Batch, DualEncoder, Features, Field, FitOptions, LossMethod, UnlearningMethod, hookimpl
from salmu_core.losses import contrastive_loss


def ascent_loss(forget: Features) -> Float[Tensor, ""]:
    """`-L_CLIP(forget)`: NegGrad, the baseline of Golatkar et al. 2020 (arXiv 1911.04933), on CLIP's own loss."""
    return -contrastive_loss(*forget)


def negative_gradient_terms(forget: Features, retain: Features, alpha: float) -> dict[str, Float[Tensor, ""]]:
    """`alpha L_CLIP(retain) - (1 - alpha) L_CLIP(forget)`, term by term: NegGrad+ as in the code of SCRUB
    (Kurmanji et al. 2023, arXiv 2302.09880), there with cross-entropies."""
    return {"forget": (1 - alpha) * ascent_loss(forget), "retain": alpha * contrastive_loss(*retain)}


class GradientAscent(LossMethod):
    """Maximise the contrastive loss on forget pairs and look at nothing else."""

    name = "gradient-ascent"
    summary = "Maximise the contrastive loss on forget pairs."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/1911.04933"
    data = ("forget",)

    class Options(FitOptions):
        """Options of gradient-ascent."""

        lr: float = Field(3e-5, gt=0, le=10, description="peak learning rate")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The negated contrastive loss of the forget batch."""
        return {"forget": ascent_loss(model(batch.forget))}


class GradientAscentRetain(LossMethod):
    """Maximise the contrastive loss on forget pairs while minimising it on retain pairs."""

    name = "gradient-ascent-retain"
    summary = "Maximise the contrastive loss on forget pairs and minimise it on retain pairs (NegGrad+)."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/2302.09880"
    data = ("forget", "retain")

    class Options(FitOptions):
        """Options of gradient-ascent-retain."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        alpha: float = Field(0.5, ge=0, le=1, description="weight of the retain term; the forget term has 1 - alpha")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """NegGrad+ on one batch of each role."""
        return negative_gradient_terms(model(batch.forget), model(batch.retain), self.options.alpha)


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Gradient ascent without and with a retain term."""
    return [GradientAscent, GradientAscentRetain]
