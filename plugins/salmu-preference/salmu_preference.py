"""Negative preference optimisation: gradient ascent on forget pairs that lets go of a pair once it has become unlikely."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Features,
    Field,
    FitOptions,
    LossMethod,
    Pairs,
    Role,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss, group_mask, pair_losses


def surprise(features: Features, same: Bool[Tensor, "batch batch"]) -> Float[Tensor, " batch"]:
    """The contrastive loss of each pair, in the place of a language model's negative log-likelihood (see
    `salmu_core.losses.pair_losses`)."""
    return pair_losses(*features, same)


def npo_loss(
    surprises: Float[Tensor, " batch"], reference: Float[Tensor, " batch"] | float, beta: float
) -> Float[Tensor, ""]:
    """`-(2 / beta) mean_i log sigmoid(beta (l_i - l°_i))`: NPO (Zhang et al. 2024, arXiv 2404.05868, equation 3), with l the
    negative log-likelihood and l° that of the frozen model. With a number in the place of l° it is SimNPO (Fan et al. 2024,
    arXiv 2410.07163), which knows no frozen model.

    The loss is never below 0. Its gradient is that of gradient ascent, `-dl_i`, times 2 sigmoid(-beta (l_i - l°_i)): 1 at
    the start of NPO, and 0 once the pair is far less likely than it was.
    """
    return 2 / beta * F.softplus(-beta * (surprises - reference)).mean()


def reads(retain_weight: float) -> tuple[Role, ...]:
    """Retain pairs are seen only where they have a weight."""
    return ("forget", "retain") if retain_weight else ("forget",)


def retain_term(model: DualEncoder, batch: Batch, weight: float) -> dict[str, Tensor]:
    """The weighted contrastive loss of the retain batch; no term without a weight."""
    return {"retain": weight * contrastive_loss(*model(batch.retain))} if weight else {}


def own_pair(pairs: Pairs, features: Features) -> Bool[Tensor, "batch batch"]:
    """The group mask of a batch, where its embeddings are."""
    return group_mask(pairs.columns["association"]).to(features.image.device)


class NegativePreference(LossMethod):
    """Make forget pairs less likely than the frozen model has them, and less and less hard the further they are."""

    name = "npo"
    summary = "Make forget pairs less likely than in a frozen copy, letting go as they are (NPO)."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/2404.05868"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 3e-3), "beta": Between(0.01, 10), "retain_weight": Between(0.1, 10)}

    class Options(FitOptions):
        """Options of npo."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        beta: float = Field(0.1, gt=0, description="how soon a pair is let go; towards 0 it is gradient ascent")
        retain_weight: float = Field(
            1.0, ge=0, description="weight of the contrastive loss on retain pairs; 0: none are seen"
        )

    _reference: DualEncoder

    def reads(self) -> tuple[Role, ...]:
        """Retain pairs are seen only where they have a weight."""
        return reads(self.options.retain_weight)

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the reference."""
        self._reference = ctx.frozen_copy()

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """NPO on the forget batch, and the retain term."""
        features = model(batch.forget)
        same = own_pair(batch.forget, features)
        with torch.no_grad():
            reference = surprise(self._reference(batch.forget), same)
        forget = npo_loss(surprise(features, same), reference, self.options.beta)
        return {"forget": forget, **retain_term(model, batch, self.options.retain_weight)}


class SimpleNegativePreference(LossMethod):
    """Make forget pairs unlikely, and less and less hard the more unlikely they are."""

    name = "simnpo"
    summary = "Make forget pairs unlikely, letting go as they are, without a frozen copy (SimNPO)."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/2410.07163"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("identity_id", "data_field")
    search = {
        "lr": Between(1e-6, 3e-3),
        "beta": Between(0.03, 30),
        "retain_weight": Between(0.1, 10),
        "delta": Between(0, 5, log=False),
    }

    class Options(FitOptions):
        """Options of simnpo."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        beta: float = Field(1.0, gt=0, description="how soon a pair is let go; towards 0 it is gradient ascent")
        delta: float = Field(0.0, description="contrastive loss of a pair at which it is half let go")
        retain_weight: float = Field(
            1.0, ge=0, description="weight of the contrastive loss on retain pairs; 0: none are seen"
        )

    def reads(self) -> tuple[Role, ...]:
        """Retain pairs are seen only where they have a weight."""
        return reads(self.options.retain_weight)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """SimNPO on the forget batch, and the retain term."""
        features = model(batch.forget)
        surprises = surprise(features, own_pair(batch.forget, features))
        forget = npo_loss(surprises, self.options.delta, self.options.beta)
        return {"forget": forget, **retain_term(model, batch, self.options.retain_weight)}


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """NPO and SimNPO."""
    return [NegativePreference, SimpleNegativePreference]
