"""SSD: shrink the weights that matter far more to forget pairs than to the rest."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from salmu_core import Between, Field, Options, UnlearnContext, UnlearningMethod
from salmu_core.losses import pairs_loss


def dampening_factor(
    whole: Float[Tensor, "*shape"], forget: Float[Tensor, "*shape"], alpha: float, dampening: float
) -> Float[Tensor, "*shape"]:
    """What each weight is multiplied with, from its importance for all data and for the forget data.

    The selection and the dampening of SSD (Foster et al. 2024, arXiv 2308.07707, and the authors' `ssd.py`):
    `min(dampening * whole / forget, 1)` where `forget > alpha * whole`, else 1.
    """
    selected = forget > alpha * whole  # never where `forget` is 0, so the quotient is finite where it is used
    return torch.where(selected, (dampening * whole / forget).clamp(max=1), torch.ones_like(whole))


class DampeningOptions(Options):
    """Options of selective-synaptic-dampening."""

    alpha: float = Field(10.0, ge=0, description="a weight is dampened when I_forget > alpha * I_whole")
    dampening: float = Field(1.0, ge=0, description="lambda of the paper: it becomes dampening * I_whole / I_forget")
    reference: Literal["retain", "train"] = Field(
        "retain", description="data of I_whole: retain alone, or retain and forget together as released"
    )
    batch_size: int = Field(64, ge=2, description="pairs per squared gradient")
    tower: Literal["both", "image", "text"] = Field("both", description="which encoder is edited")


class SelectiveSynapticDampening(UnlearningMethod):
    """Shrink the weights that matter far more to forget pairs than to the rest."""

    name = "selective-synaptic-dampening"
    summary = "Shrink weights whose squared gradients are far larger on forget pairs than on the rest (SSD)."
    family = "pruning and editing"
    paper = "https://arxiv.org/abs/2308.07707"
    data = ("forget", "retain")
    fewest_rows = 2
    former_package = "salmu-pruning"
    search = {"alpha": Between(0.5, 50), "dampening": Between(0.05, 1)}
    Options = DampeningOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Measure both importances in one pass over each split, then multiply the weights."""
        options = self.options
        params = ctx.parameters(options.tower)
        rows = {split: ctx.affordable_rows(split) for split in self.data}
        forget, whole = (
            ctx.mean_gradients(pairs_loss, split, options.batch_size, params=params, rows=rows[split], squared=True)
            for split in self.data
        )
        if options.reference == "train":
            batches, others = (math.ceil(count / options.batch_size) for count in rows.values())
            share = batches / (batches + others)
            whole = {name: share * forget[name] + (1 - share) * whole[name] for name in params}
        dampened = 0
        with torch.no_grad():
            for name, parameter in params.items():
                factor = dampening_factor(whole[name], forget[name], options.alpha, options.dampening)
                parameter.mul_(factor)
                dampened += int((factor < 1).sum())
        ctx.log(dampened=dampened, dampened_share=dampened / sum(p.numel() for p in params.values()))
