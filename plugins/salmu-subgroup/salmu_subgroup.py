"""Forget, remind, restore: layers chosen by relative Fisher information, and a soup with the weights from before."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    MakeMethod,
    OneOf,
    Options,
    Pairs,
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss, pair_cosine

_BLOCK = re.compile(r"^(.*?\.(?:attn|mlp))\.")
Split = Literal["forget", "retain"]
#: Of forget: the target, a look at the gradient, a step, and one share that is tried.
FEWEST_SAMPLES = 4

# ---------------------------------------------------------------- formulas


def relative_fisher(forget: Mapping[str, Float[Tensor, ...]], retain: Mapping[str, Float[Tensor, ...]]) -> dict[str, float]:
    """`sum E_forget[g^2] / sum E_retain[g^2]` per layer, for sums of squared gradients of the pairs' cosine by tensor: the relative
    Fisher information of Zhang et al. 2025 (arXiv 2506.03117). An attention or an MLP is one layer. Layers without a gradient on
    retain pairs are left out: nothing says what they would cost.

    Example:
        >>> forget = {"x.attn.a": torch.tensor([4.0, 2.0]), "x.attn.b": torch.tensor([3.0]), "y": torch.tensor([1.0])}
        >>> retain = {"x.attn.a": torch.tensor([1.0, 1.0]), "x.attn.b": torch.tensor([1.0]), "y": torch.tensor([4.0])}
        >>> relative_fisher(forget, retain)
        {'x.attn': 3.0, 'y': 0.25}
    """
    above: dict[str, float] = {}
    below: dict[str, float] = {}
    for name, square in forget.items():
        layer = layer_of(name)
        above[layer] = above.get(layer, 0.0) + float(square.double().sum())
        below[layer] = below.get(layer, 0.0) + float(retain[name].double().sum())
    return {layer: above[layer] / below[layer] for layer in above if below[layer] > 0}


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to: an attention or an MLP as a whole, anything else by itself."""
    return found.group(1) if (found := _BLOCK.match(name)) else name


def soup(
    start: Mapping[str, Float[Tensor, ...]], end: Mapping[str, Float[Tensor, ...]], alpha: float
) -> dict[str, Float[Tensor, ...]]:
    """`alpha theta + (1 - alpha) theta_0`, tensor by tensor; exactly one of the two at 0 and at 1."""
    if alpha in (0.0, 1.0):
        return {name: (end if alpha else start)[name].clone() for name in start}
    return {name: alpha * end[name] + (1 - alpha) * start[name] for name in start}


def moving_average(mean: Float[Tensor, "*shape"], value: Float[Tensor, "*shape"], decay: float) -> Float[Tensor, "*shape"]:
    """`decay mean + (1 - decay) value`."""
    return decay * mean + (1 - decay) * value


def first_share(reaches: Callable[[float], bool], points: int) -> float:
    """The smallest of the shares 1/points, 2/points, ... that reaches a goal, tried in this order; 1 if not one before it does."""
    return next((k / points for k in range(1, points) if reaches(k / points)), 1.0)


# ---------------------------------------------------------------- soup around any method


class SoupOptions(Options):
    """Options of soup."""

    lr: float = Field(1e-3, gt=0, le=10, description="peak learning rate of the inner method, where it has one")
    inner: str = Field(
        "gradient-ascent-retain", description="the method whose weights are mixed with those from before; any"
    )
    inner_options: dict[str, Any] = Field(default_factory=dict, description="its other options, as JSON")
    alpha: float | None = Field(
        None, ge=0, le=1, description="share of the forgetful weights; none: as little as forgets enough"
    )
    points: int = Field(10, ge=2, le=100, description="shares that are tried, evenly spaced")
    target: float | None = Field(
        None, ge=-1, le=1, description="cosine that is enough; none: that of other people's captions at the start"
    )
    check_rows: int = Field(256, ge=2, description="forget pairs per share that is tried; a fifth of the budget in all")


class Soup(UnlearningMethod):
    """Mix the weights that another method made with those from before, with as little of the former as forgets enough."""

    name = "soup"
    summary = "Mix another method's weights with those from before, with as little change as forgets enough (model soup)."
    family = "pruning and editing"
    paper = "https://arxiv.org/abs/2506.03117"
    data = ("forget", "retain")
    columns = ("identity_id",)
    search = {"lr": Between(1e-6, 3e-3), "alpha": OneOf((None, 0.3, 0.5, 0.7, 0.9))}
    Options = SoupOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Let the inner method work, then look for the share."""
        options = self.options
        params = ctx.parameters()
        start = ctx.weights(params)
        rows = check_rows(ctx, options.check_rows, 1 if options.alpha is not None else options.points)
        points = points_within_budget(ctx, options.points, rows)
        measures = 0 if options.alpha is not None else points  # the target, and all shares but the last
        target = options.target
        if options.alpha is None and target is None:
            target = ctx.unrelated_similarity(rows)
        inner = ctx.method(options.inner, {"lr": options.lr, **options.inner_options})
        ctx.delegate(inner, reserved={"forget": rows * measures})
        if (alpha := options.alpha) is None:
            alpha = restore(ctx, params, start, points, target, rows)
        else:
            ctx.set_weights(soup(start, ctx.weights(params), alpha))
        ctx.log(alpha=alpha, **({} if target is None else {"target": target}))

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of the inner method, at most."""
        if self.options.alpha is None:
            meter.check("forget", FEWEST_SAMPLES)
        return self.inner_steps(self.options.inner, self.options.inner_options, rows, meter, make_method)


def restore(
    ctx: UnlearnContext,
    params: Mapping[str, nn.Parameter],
    start: Mapping[str, Tensor],
    points: int,
    target: float | None,
    rows: int,
) -> float:
    """Mix in place with as little of the weights as they are now as brings the forget cosine down to the target. Returns how much."""
    end = ctx.weights(params)

    def reaches(alpha: float) -> bool:
        ctx.set_weights(soup(start, end, alpha))
        similarity = ctx.forget_similarity(rows)
        ctx.log(tried_alpha=alpha, similarity=similarity)
        return target is not None and similarity <= target

    alpha = first_share(reaches, points)
    ctx.set_weights(soup(start, end, alpha))
    return alpha


# ---------------------------------------------------------------- the three stages


class SubgroupOptions(FitOptions):
    """Options of subgroup-forgetting. Those of the loop hold for the first two stages."""

    lr: float = Field(1e-2, gt=0, le=10, description="peak learning rate of the first two stages")
    adapter: Literal["lora"] | None = Field("lora", description="train low-rank adapters and merge them; none: the weights")
    adapter_layers: Literal["blocks", "attention", "mlp", "all"] = Field(
        "all", description="matrices of the chosen layers that get an adapter"
    )
    layers: int = Field(6, ge=1, description="layers with the largest relative Fisher information, which are trained")
    forget_share: float = Field(0.5, gt=0, lt=1, description="share of the steps that forget; the others remind")
    decay: float = Field(0.9, ge=0, lt=1, description="of the moving average of the weights while reminding")
    points: int = Field(10, ge=1, le=100, description="shares of the soup that are tried; 1: no soup")
    target: float | None = Field(
        None, ge=-1, le=1, description="cosine that is enough; none: that of other people's captions at the start"
    )
    check_rows: int = Field(256, ge=2, description="forget pairs per share that is tried; a fifth of the budget in all")


class SubgroupForgetting(UnlearningMethod):
    """Lower forget cosines on a few chosen layers, remind them of retain pairs, and mix in the weights from before."""

    name = "subgroup-forgetting"
    summary = "Forget on layers chosen by relative Fisher information, remind of retain pairs, restore by a soup."
    family = "negative pairs"
    paper = "https://arxiv.org/abs/2506.03117"
    data = ("forget", "retain")
    columns = ("identity_id",)
    search = {"lr": Between(1e-5, 1e-1), "layers": OneOf((2, 6, 12)), "forget_share": Between(0.2, 0.8, log=False)}
    Options = SubgroupOptions

    def __init__(self, options: SubgroupOptions | None = None) -> None:
        super().__init__(options)
        self._mean: dict[str, Tensor] = {}

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Choose layers, forget, remind, restore."""
        options = self.options
        self._mean = {}
        rows = check_rows(ctx, options.check_rows, options.points + 1)
        points = points_within_budget(ctx, options.points, rows)
        target = ctx.unrelated_similarity(rows) if options.target is None else options.target
        params = self._chosen(ctx)
        start = ctx.weights(params)
        forgetting, reminding = self._steps(ctx, rows * points)

        def forget(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
            image, text, _ = model(batch.forget)
            return {"forget": (pair_cosine(image, text) - target).clamp(min=0).mean()}

        def remind(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
            return {"retain": contrastive_loss(*model(batch.retain))}

        def average(step: int) -> None:
            for name in params:
                now = ctx.model.weight_in_use(name).detach()
                self._mean[name] = (
                    moving_average(self._mean[name], now, options.decay) if name in self._mean else now.clone()
                )

        trained = list(params.values())
        ctx.fit(forget, options, steps=forgetting, params=trained, splits=("forget",))
        ctx.fit(remind, options, steps=reminding, params=trained, splits=("retain",), after_step=average)
        ctx.set_weights(self._mean)
        alpha = restore(ctx, params, start, points, target, rows)
        ctx.log(alpha=alpha, target=target)

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of both stages, at most."""
        meter.check("forget", FEWEST_SAMPLES)
        return super().planned_steps(rows, meter, make_method)

    def state(self) -> dict[str, Tensor]:
        """The moving average."""
        return dict(self._mean)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._mean = dict(state)

    def _chosen(self, ctx: UnlearnContext) -> dict[str, nn.Parameter]:
        """The matrices of the layers with the largest relative Fisher information.

        Raises:
            SalmuError: no layer has a gradient on retain pairs.
        """
        options = self.options
        matrices = {name: p for name, p in ctx.parameters(options.tower).items() if p.ndim > 1 and "embedding" not in name}
        # Each over a quarter of what is left of the budget, at most.
        forget, retain = (
            ctx.mean_gradients(
                mean_cosine,
                split,
                options.batch_size,
                params=matrices,
                rows=ctx.affordable_rows(split, parts=4),
                squared=True,
            )
            for split in self.data
        )
        scores = relative_fisher(forget, retain)
        if not scores:
            raise SalmuError("No layer has a gradient on retain pairs, so none can be chosen.")
        best = sorted(scores, key=lambda layer: -scores[layer])[: options.layers]
        ctx.log(largest_relative_fisher=scores[best[0]], smallest_relative_fisher=scores[best[-1]])
        return {name: p for name, p in matrices.items() if layer_of(name) in best}

    def _steps(self, ctx: UnlearnContext, reserved: int) -> tuple[int, int]:
        """Steps that forget and steps that remind, at least one of each."""
        options = self.options
        total = ctx.steps_of_fit(options, reserved={"forget": reserved})
        if options.epochs is not None:
            total = max(2, total)
            forgetting = min(max(1, round(options.forget_share * total)), total - 1)
            return forgetting, total - forgetting
        return max(1, round(options.forget_share * total)), max(1, round((1 - options.forget_share) * total))


# ---------------------------------------------------------------- what both need


def mean_cosine(model: DualEncoder, pairs: Pairs) -> Tensor:
    """The mean cosine of a batch's pairs."""
    image, text, _ = model(pairs)
    return pair_cosine(image, text).mean()


def check_rows(ctx: UnlearnContext, wanted: int, measures: int) -> int:
    """As many forget pairs as wanted, but so that all measurements together take at most a fifth of what the budget holds."""
    return ctx.affordable_rows("forget", wanted, parts=5 * measures, least=4)  # the mean of fewer says nothing


def points_within_budget(ctx: UnlearnContext, points: int, rows: int) -> int:
    """As many shares as asked for, or as half of what the budget holds, where a request of few rows allows fewer."""
    left = ctx.budget_left("forget")
    return points if left is None else min(points, max(2, left // (2 * rows)))


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """The soup around any method, and the three stages."""
    return [Soup, SubgroupForgetting]
