"""Forget pairs as negative pairs: push their cosines down, without end or until they reach a floor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    LossMethod,
    MakeMethod,
    OneOf,
    Pairs,
    Role,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss, mismatched_cosine, pair_cosine


def similarity_loss(image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """`mean_i s_i`, s_i the cosine of pair i: direct similarity minimisation, a baseline of SALMUBench (Selvas-Sala et al.
    2026, arXiv 2603.26316), and up to a constant the gradient-ascent baseline of SLUG (arXiv 2407.11867)."""
    return pair_cosine(image, text).mean()


def hinge_loss(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    floor: Float[Tensor, ""] | float,
    power: int,
) -> Float[Tensor, ""]:
    """`mean_i max(0, s_i - floor)^power`: pairs at or below the floor are left alone (the negative half of the margin-based
    cosine loss; power 2 also fades as the floor comes near)."""
    return F.relu(pair_cosine(image, text) - floor).pow(power).mean()


class DirectSimilarityMinimisation(LossMethod):
    """Minimise the cosine of every forget pair, with nothing that says when to stop."""

    name = "direct-similarity-minimisation"
    summary = "Minimise the cosine of forget pairs, without a floor."
    family = "negative pairs"
    paper = "https://arxiv.org/abs/2603.26316"
    data = ("forget",)
    search = {"lr": Between(1e-6, 1e-3)}

    class Options(FitOptions):
        """Options of direct-similarity-minimisation."""

        lr: float = Field(3e-5, gt=0, le=10, description="peak learning rate")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The mean cosine of the forget batch."""
        image, text, _ = model(batch.forget)
        return {"forget": similarity_loss(image, text)}


class HingeNegativePairs(LossMethod):
    """Push the cosine of forget pairs down to a floor, not further, and hold retain pairs with CLIP's own loss."""

    name = "hinge-negative-pairs"
    summary = "Push the cosine of forget pairs down to a floor while retain pairs keep the contrastive loss."
    family = "negative pairs"
    data = ("forget", "retain")
    columns = ("identity_id",)
    search = {"lr": Between(1e-6, 3e-3), "retain_weight": Between(0.1, 10), "power": OneOf((1, 2))}

    class Options(FitOptions):
        """Options of hinge-negative-pairs."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        floor: float | None = Field(
            None, ge=-1, le=1, description="cosine at which a pair is left alone; none: that of other people's captions"
        )
        power: int = Field(2, ge=1, le=2, description="exponent of the hinge")
        retain_weight: float = Field(1.0, ge=0, description="weight of the contrastive loss on retain pairs")

    _floor: float

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those that measuring the floor leaves room for."""
        if self.options.floor is None:
            meter.take("forget", rows["forget"])
        return super().planned_steps(rows, meter, make_method)

    def prepare(self, ctx: UnlearnContext) -> None:
        """Take the floor from the options, or measure what an image and a stranger's caption have in common anyway."""
        self._floor = measure_floor(ctx) if self.options.floor is None else self.options.floor
        ctx.log(floor=self._floor)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The hinge on the forget batch and the weighted contrastive loss of the retain batch."""
        image, text, _ = model(batch.forget)
        return {
            "forget": hinge_loss(image, text, self._floor, self.options.power),
            "retain": self.options.retain_weight * contrastive_loss(*model(batch.retain)),
        }


def measure_floor(ctx: UnlearnContext) -> float:
    """Mean cosine of forget images with the forget captions of other identities, or with captions of retain where there is one
    identity; one counted pass over forget."""
    parts: list[tuple[Pairs, Tensor, Tensor]] = []
    with torch.no_grad():
        for pairs in ctx.batches("forget", 256):
            image, text, _ = ctx.model(pairs)
            parts.append((pairs, image.cpu(), text.cpu()))
    identity = torch.cat([pairs.columns["identity"] for pairs, _, _ in parts])
    image = torch.cat([part[1] for part in parts])
    found = mismatched_cosine(image, torch.cat([part[2] for part in parts]), identity)
    return float(found) if torch.isfinite(found) else ctx.similarity_to_retain(image)


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Direct similarity minimisation and the hinge."""
    return [DirectSimilarityMinimisation, HingeNegativePairs]
