"""Gradient ascent: climb the contrastive loss on forget pairs, alone, while descending it on retain pairs, or until forget
pairs are no more similar than strangers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
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
    MakeMethod,
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.errors import RAISE_BUDGET, BadData, BudgetExceeded
from salmu_core.losses import contrastive_loss, mismatched_cosine, pair_cosine


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
    fewest_rows = 2
    search = {"lr": Between(1e-6, 1e-3)}

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
    fewest_rows = 2
    search = {"lr": Between(1e-6, 3e-3), "alpha": Between(0.05, 0.99, log=False)}

    class Options(FitOptions):
        """Options of gradient-ascent-retain."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        alpha: float = Field(0.5, ge=0, le=1, description="weight of the retain term; the forget term has 1 - alpha")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """NegGrad+ on one batch of each role."""
        return negative_gradient_terms(model(batch.forget), model(batch.retain), self.options.alpha)


def most_steps(samples: int, batch: int, probes: int, every: int) -> int:
    """The most steps of `batch` samples, with a measurement of `probes` samples after each `every` of them, that `samples`
    hold."""
    rounds, rest = divmod(samples, every * batch + probes)
    return rounds * every + min(rest // batch, every - 1)


class AnchoredAscent(LossMethod):
    """Maximise the contrastive loss on forget pairs until they are no more similar than strangers were at the start."""

    name = "anchored-ascent"
    summary = "Maximise the contrastive loss on forget pairs until their cosine has come down to an anchor."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/1911.04933"
    data = ("forget",)
    fewest_rows = 2
    columns = ("identity_id",)
    search = {"lr": Between(1e-6, 1e-3)}

    class Options(FitOptions):
        """Options of anchored-ascent."""

        lr: float = Field(3e-5, gt=0, le=10, description="peak learning rate")
        anchor: float | None = Field(
            None, ge=-1, le=1, description="mean cosine at which the ascent ends; none: that of other people's captions"
        )
        every: int = Field(10, ge=1, description="steps between two measurements")
        probes: int = Field(256, ge=1, description="forget pairs that are measured, always the same ones")

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Measure where to stop, then climb and measure in turn. What is measured counts as seen."""
        options, rows = self.options, ctx.rows("forget")
        probes = min(options.probes, rows)
        cosine, strangers = probe(ctx, probes)
        anchor = strangers if options.anchor is None else options.anchor
        if anchor != anchor:  # more identities than the probes met
            raise SalmuError(
                "The anchor of anchored-ascent cannot be measured: all probes are of one identity.",
                "Give it: --set anchor=0.2, or take more: --set probes=1000",
            )
        ctx.log(anchor=anchor, probe_cosine=cosine)
        if cosine <= anchor:
            return
        left = ctx.budget_left("forget")
        steps = None if left is None else self._steps_within(left, rows)

        def reached(step: int) -> bool:
            if step % options.every:
                return False
            cosine, _ = probe(ctx, probes)
            ctx.log(step=step, probe_cosine=cosine)
            return cosine <= anchor

        ctx.fit(self.loss, options, steps=steps, params=self.trainable(ctx.model), after_step=reached)

    def check_forget(self, rows: int, identities: int, make_method: MakeMethod) -> None:
        """The anchor is measured among different identities, unless it is given."""
        super().check_forget(rows, identities, make_method)
        if self.options.anchor is None and identities < 2:
            raise BadData(
                "anchored-ascent measures its anchor among different identities, and forget holds one.",
                "Give it: --set anchor=0.2, or choose a method that sees retain.",
            )

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those that are left after the first measurement, with one after each few of them."""
        meter.check("forget", probes := min(self.options.probes, rows["forget"]))
        left = meter.left("forget")
        return meter.steps(self.options, rows) if left is None else self._steps_within(left - probes, rows["forget"])

    def _steps_within(self, left: int, rows: int) -> int:
        """Steps that so many samples hold: the measurements between the steps need room as well.

        Raises:
            BudgetExceeded: fewer than the epochs ask for, or not one.
        """
        options = self.options
        probes, batch = min(options.probes, rows), min(options.batch_size, rows)
        most = most_steps(left, batch, probes, options.every)
        steps = most if options.epochs is None else max(1, int(options.epochs * rows / batch))
        if not 0 < steps <= most:
            raise BudgetExceeded(
                f"anchored-ascent asks for {max(1, steps)} steps, and {left} forget samples are left, which hold {most}"
                f" with {probes} probes after each {options.every}.",
                f"Use fewer epochs or probes, or {RAISE_BUDGET}.",
            )
        return steps

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The negated contrastive loss of the forget batch."""
        return {"forget": ascent_loss(model(batch.forget))}


def probe(ctx: UnlearnContext, rows: int) -> tuple[float, float]:
    """Mean cosine of some forget pairs, and of their images with the captions of other identities among them. The rows are
    drawn from the run's seed, so they are the same in every call; they count."""
    images, texts, identities = [], [], []
    with torch.no_grad():
        for pairs in ctx.batches("forget", 256, rows=rows, shuffle=True):
            image, text, _ = ctx.model(pairs)
            images.append(image.cpu())
            texts.append(text.cpu())
            identities.append(pairs.columns["identity"])
    image, text = torch.cat(images), torch.cat(texts)
    return float(pair_cosine(image, text).mean()), float(mismatched_cosine(image, text, torch.cat(identities)))


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Gradient ascent without and with a retain term, and up to an anchor."""
    return [GradientAscent, GradientAscentRetain, AnchoredAscent]
