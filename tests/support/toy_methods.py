"""Small methods and a metric for tests of core, registered the way a plugin's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from salmu_core import (
    Batch,
    DualEncoder,
    Embedded,
    Field,
    FitOptions,
    LossMethod,
    Metric,
    Score,
    UnlearningMethod,
    View,
    builtin,
    hookimpl,
)
from salmu_core.losses import contrastive_loss, pair_cosine
from salmu_core.plugins.loading import Plugins, add_plugin, new_manager
from salmu_core.records.schema import Package
from salmu_core.runner.context import UnlearnContext


class Ascent(LossMethod):
    """Ascend on forget, descend on retain."""

    name = "ascent"
    summary = "A loss-only method."
    family = "gradient ascent"

    class Options(FitOptions):
        lr: float = Field(1e-3, gt=0)
        batch_size: int = Field(12, ge=1)

    def loss(self, model: DualEncoder, batch: Batch) -> Mapping[str, Tensor]:
        return {"forget": -contrastive_loss(*model(batch.forget)), "retain": contrastive_loss(*model(batch.retain))}


class TwoStages(UnlearningMethod):
    """Two fits with a teacher made between them, a random draw and a weight edit: everything a resume has to replay."""

    name = "two-stages"
    summary = "Several fits."
    family = "distillation"
    Options = FitOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        first = FitOptions(lr=1e-3, batch_size=12, epochs=1)
        ctx.fit(lambda model, batch: pair_cosine(*model(batch.forget)[:2]).mean(), first, splits=("forget",))
        teacher = ctx.frozen_copy()
        noise = torch.rand(1, generator=ctx.generator("noise")).item()
        with torch.no_grad():
            next(iter(ctx.parameters().values())).mul_(1 + 0.01 * noise)

        def towards(model: DualEncoder, batch: Batch) -> Tensor:
            # Towards the other tower: a loss that starts at zero would have AdamW blow rounding up to full steps.
            return (model(batch.retain).image - teacher(batch.retain).text).square().sum(dim=-1).mean()

        ctx.fit(towards, FitOptions(lr=1e-3, batch_size=12, epochs=1), splits=("retain",))


class Combined(UnlearningMethod):
    """Another method's steps along the combined gradients of its terms."""

    name = "combined"
    summary = "Wraps ascent and weighs the gradients of its terms."
    family = "gradient ascent"

    def unlearn(self, ctx: UnlearnContext) -> None:
        def weigh(terms: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
            return {name: terms["retain"][name] + 0.1 * gradient for name, gradient in terms["forget"].items()}

        ctx.delegate(ctx.method("ascent", {"lr": 1e-3}), combine=weigh)


class WeightEdit(UnlearningMethod):
    """No training: shrink weights where the forget gradient is large."""

    name = "weight-edit"
    summary = "Edits weights from gradients."
    family = "pruning and editing"
    data = ("forget",)

    def unlearn(self, ctx: UnlearnContext) -> None:
        for gradients in ctx.gradients(lambda model, pairs: contrastive_loss(*model(pairs)), "forget", 12):
            with torch.no_grad():
                for name, parameter in ctx.parameters().items():
                    parameter.mul_(1 - 0.01 * (gradients[name].abs() > 0).float())


class Explodes(LossMethod):
    """Its loss becomes infinite after a few steps."""

    name = "explodes"
    summary = "Diverges."
    family = "gradient ascent"
    data = ("forget",)
    Options = Ascent.Options

    def loss(self, model: DualEncoder, batch: Batch) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return pair_cosine(*model(batch.forget)[:2]).mean() * (float("inf") if self.calls > 3 else 1.0)


class Raises(UnlearningMethod):
    """Has a bug."""

    name = "raises"
    summary = "Raises."
    family = "baseline"

    def unlearn(self, ctx: UnlearnContext) -> None:
        raise ZeroDivisionError("a bug of the method")


class Greedy(UnlearningMethod):
    """Asks for more than its budget."""

    name = "greedy"
    summary = "Too many samples."
    family = "baseline"

    def unlearn(self, ctx: UnlearnContext) -> None:
        while True:
            ctx.accumulate(lambda pairs: {}, "forget")


class ManyCaptions(UnlearningMethod):
    """Encodes captions on their own until it is stopped."""

    name = "many-captions"
    summary = "Captions without end."
    family = "baseline"
    data = ("forget",)
    rows = 64

    def unlearn(self, ctx: UnlearnContext) -> None:
        captions = ctx.captions("forget")
        tokens = ctx.tokenize((list(captions) * self.rows)[: self.rows])
        while True:
            with torch.no_grad():
                ctx.model.encode_text(tokens)


class MeanCosine(Metric):
    """Mean cosine of forget pairs."""

    name = "MeanCosine"
    summary = "Mean cosine of forget pairs."
    target = "clean"
    aspect = "forgetting"
    primary = True

    def needs(self) -> Mapping[str, View]:
        return {"image": View("forget", "image"), "text": View("forget", "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        rows = pair_cosine(image.vectors, text.vectors).numpy()
        return Score(float(rows.mean()), rows, image.columns["identity_id"])


METHODS = [Ascent, TwoStages, Combined, WeightEdit, Explodes, Raises, Greedy, ManyCaptions]


class Hooks:
    """A plugin object with the given hooks."""

    def __init__(self, **hooks: Any) -> None:
        vars(self).update({name: hookimpl(hook) for name, hook in hooks.items()})


def as_plugin(methods: list[type] | None = None, metrics: list[type] | None = None) -> object:
    """An object with the register hooks, as an entry point would give."""
    return Hooks(register_methods=lambda: methods or [], register_metrics=lambda: metrics or [])


def toy_plugins(*more: type) -> Plugins:
    """A registry with core's own parts and the toy ones."""
    plugins = Plugins(new_manager())
    add_plugin(plugins, builtin, Package(name="salmu", version="0"), "core")
    add_plugin(plugins, as_plugin([*METHODS, *more], [MeanCosine]), Package(name="toy-methods", version="1.0"), "toy")
    assert not plugins.problems, plugins.problems
    return plugins
