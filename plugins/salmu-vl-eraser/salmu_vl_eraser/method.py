"""The method: measure what retain pairs leave free, distil into it, and subtract."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    MakeMethod,
    OneOf,
    Pairs,
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss
from salmu_vl_eraser.adapters import Adapters, Site, Which, mlp_sites, watched
from salmu_vl_eraser.formulas import gain, null_basis


class EraserOptions(FitOptions):
    """Options of vl-eraser."""

    lr: float = Field(1e-3, gt=0, le=10, description="peak learning rate of the adapters")
    alpha: float = Field(1.0, ge=0, description="share of the imitation that is subtracted")
    leak: float = Field(
        0.01, ge=0, lt=1, description="share of the retain inputs' squared length in the directions that adapters see"
    )
    adapter: None = Field(None, description="fixed: it trains adapters of its own, of rank `rank`, and subtracts them")
    rank: int = Field(8, ge=1, description="rank of an adapter")
    distill: float = Field(0.5, ge=0, le=1, description="lambda: weight of imitation; the contrastive loss has 1 - lambda")
    layer: Which = Field("second", description="which layer of every MLP")
    gain_rows: int = Field(512, ge=1, description="forget pairs that decide on the adapters' lengths")
    measure_batch: int = Field(64, ge=1, description="pairs per forward pass while measuring; does not change the result")


class VLEraser(UnlearningMethod):
    """Let adapters imitate the MLPs on forget pairs where retain pairs do not notice, and subtract them."""

    name = "vl-eraser"
    summary = "Distil the MLPs on forget pairs into adapters in the null space of retain features; subtract them."
    family = "distillation"
    paper = "https://cvpr.thecvf.com/virtual/2026/poster/39075"
    data = ("forget", "retain")
    search = {
        "alpha": Between(0.1, 10),
        "leak": Between(1e-4, 0.3),
        "lr": Between(1e-4, 1e-2),
        "layer": OneOf(("second", "first")),
    }
    Options = EraserOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """One pass over retain, the distillation, one pass over some forget pairs, and the edit."""
        options = self.options
        sites = mlp_sites(ctx.model, options.tower, options.layer)
        moments = retain_moments(ctx, sites, options.measure_batch)
        bases = {name: null_basis(moment, options.leak) for name, moment in moments.items()}
        sites = {name: site for name, site in sites.items() if bases[name].shape[1]}
        if not sites:
            raise SalmuError(f"Retain pairs leave no direction of any MLP free at leak = {options.leak:g}.", "Raise leak.")
        rows = ctx.affordable_rows("forget", options.gain_rows, parts=4)
        adapters = Adapters(sites, bases, options.rank, lambda name: ctx.generator("adapter", name))
        steps = ctx.steps_of_fit(options, ("forget",), reserved={"forget": rows})
        with adapters.installed(ctx.model), watched(ctx.model, sites, adapters.imitate):
            ctx.fit(self.loss_of(adapters), options, steps=steps, params=adapters.parameters(), splits=("forget",))
        gains = measured_gains(ctx, adapters, rows, options.measure_batch)
        edits = {name: options.alpha * gains[name] * adapters.matrix(name) for name in sites}
        with torch.no_grad():
            for name, site in sites.items():
                site.layer.weight -= edits[name]
        relative = torch.stack([edits[n].norm() / s.layer.weight.detach().norm() for n, s in sites.items()]).mean()
        free = sum(basis.shape[1] for basis in bases.values()) / sum(basis.shape[0] for basis in bases.values())
        ctx.log(free_directions=free, relative_edit=float(relative))

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of the distillation, beside what is measured on forget pairs afterwards."""
        left, forget = meter.left("forget"), {"forget": rows["forget"]}
        if left is not None:
            meter.take("forget", max(1, min(self.options.gain_rows, rows["forget"], left // 4)))
        return meter.steps(self.options, forget)

    def loss_of(self, adapters: Adapters) -> Callable[[DualEncoder, Batch], dict[str, Tensor]]:
        """Imitation of every layer, and CLIP's own loss of the model with its adapters."""

        def loss(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
            adapters.losses.clear()
            features = model(batch.forget)
            weight = self.options.distill
            return {
                "distill": weight * torch.stack(adapters.losses).mean(),
                "contrastive": (1 - weight) * contrastive_loss(*features),
            }

        return loss


def encode(model: DualEncoder, pairs: Pairs, sites: Mapping[str, Site]) -> None:
    """Let a batch pass the encoders that have sites. The encoders themselves, not model(pairs): so every process measures the
    whole batch."""
    towers = {site.tower for site in sites.values()}
    if "image" in towers:
        model.encode_image(pairs.image)
    if "text" in towers:
        model.encode_text(pairs.text)


def retain_moments(ctx: UnlearnContext, sites: Mapping[str, Site], batch_size: int) -> dict[str, Tensor]:
    """The second moment of what each layer reads on retain pairs, over rows and tokens: one pass, or as many rows as the budget
    holds."""

    def measure(pairs: Pairs) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}

        def note(name: str, inputs: Tensor, counted: Tensor) -> None:
            vectors = inputs[counted]
            sums[name] = vectors.T @ vectors

        with watched(ctx.model, sites, note):
            encode(ctx.model, pairs, sites)
        return sums

    return ctx.accumulate(measure, "retain", batch_size, rows=ctx.affordable_rows("retain"), shuffle=True)


def measured_gains(ctx: UnlearnContext, adapters: Adapters, rows: int, batch_size: int) -> dict[str, Tensor]:
    """The factor of each adapter, from some forget pairs that pass the model without its adapters; counted. No adapter becomes
    larger than the layer it is subtracted from."""

    def measure(pairs: Pairs) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}

        def note(name: str, inputs: Tensor, counted: Tensor) -> None:
            vectors = inputs[counted]
            target, given = adapters.target(name, vectors), adapters.give(name, vectors)
            sums[f"{name} products"] = (target * given).sum()
            sums[f"{name} squares"] = given.square().sum()

        with watched(ctx.model, adapters.sites, note):
            encode(ctx.model, pairs, adapters.sites)
        return sums

    sums = ctx.accumulate(measure, "forget", batch_size, rows=rows, shuffle=True)
    gains = {}
    for name, site in adapters.sites.items():
        longest = site.layer.weight.detach().norm() / adapters.matrix(name).norm()
        gains[name] = gain(sums[f"{name} products"], sums[f"{name} squares"], longest)
    return gains


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """VL-Eraser."""
    return [VLEraser]
