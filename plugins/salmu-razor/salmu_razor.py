"""RAZOR: train the layers that matter to forget pairs and not to retain pairs, and take in more of them until it is enough."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
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
    Pairs,
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss, pair_cosine, pairs_loss

_BLOCK = re.compile(r"^(.*?\.(?:attn|mlp))\.")
Split = Literal["forget", "retain"]
FEWEST = 8  # pairs that a mean is taken of at least


# ---------------------------------------------------------------- formulas


def ratio_score(
    forget: Sequence[Float[Tensor, ...]],
    retain: Sequence[Float[Tensor, ...]],
    weights: Sequence[Float[Tensor, ...]],
    alpha: float,
) -> float:
    """`||g_forget|| / ||theta|| (1 - cos(g_forget, g_retain))^alpha` of a layer, over all its tensors together: the score of RAZOR
    (Ranjan et al. 2026, arXiv 2603.14819). 0 where the layer has no forget gradient; without a retain gradient the cosine is 0.

    Both gradients are of losses that say how well pairs are fitted: where they point the same way, what forgets also harms.

    Example:
        >>> g, r, w = torch.tensor([3.0, 4.0]), torch.tensor([-4.0, 3.0]), torch.tensor([6.0, 8.0])
        >>> ratio_score([g], [r], [w], 2.0), ratio_score([g], [g], [w], 2.0), ratio_score([g], [-g], [w], 2.0)
        (0.5, 0.0, 2.0)
    """

    def product(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
        return sum(float((a.double() * b.double()).sum()) for a, b in zip(first, second, strict=True))

    pressure, kept, size = (math.sqrt(product(part, part)) for part in (forget, retain, weights))
    if pressure == 0:
        return 0.0
    if size == 0:
        return math.inf
    cosine = product(forget, retain) / (pressure * kept) if kept else 0.0
    score: float = pressure / size * max(0.0, 1 - cosine) ** alpha
    return score


def relative_drift(now: Sequence[Float[Tensor, ...]], start: Sequence[Float[Tensor, ...]]) -> Float[Tensor, ""]:
    """`sum ||theta - theta_0||^2 / sum ||theta_0||^2` over tensors."""
    change = torch.stack([(a - b).square().sum() for a, b in zip(now, start, strict=True)]).sum()
    return change / torch.stack([b.square().sum() for b in start]).sum()


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to: an attention or an MLP as a whole, any other matrix by itself.

    Example:
        >>> layer_of("clip.visual.transformer.resblocks.3.attn.out_proj.weight"), layer_of("clip.text_projection")
        ('clip.visual.transformer.resblocks.3.attn', 'clip.text_projection')
    """
    found = _BLOCK.match(name)
    return found.group(1) if found else name


# ---------------------------------------------------------------- the method


class RazorOptions(FitOptions):
    """Options of razor."""

    lr: float = Field(1e-3, gt=0, le=10, description="peak learning rate of every round")
    alpha: float = Field(1.0, ge=0, description="how much an alignment with the retain gradient counts against a layer")
    layers: int = Field(4, ge=1, description="layers that are edited in the first round, and added in every further one")
    rounds: int = Field(6, ge=1, le=50, description="rounds at most; they share the steps")
    retain_weight: float = Field(1.0, ge=0, description="weight of the contrastive loss on retain pairs")
    drift_weight: float = Field(
        1.0, ge=0, description="weight of the relative squared distance of edited layers from the start"
    )
    target: float | None = Field(
        None, ge=-1, le=1, description="cosine that forget pairs are lowered to; none: that of other people's captions"
    )
    check_rows: int = Field(256, ge=2, description="forget pairs that decide after a round whether it was enough")


class Razor(UnlearningMethod):
    """Lower forget cosines by editing a few well-chosen layers, and more of them while that is not enough."""

    name = "razor"
    summary = (
        "Train the layers with much forget and little retain gradient; add layers in rounds until it is enough (RAZOR)."
    )
    family = "pruning and editing"
    paper = "https://arxiv.org/abs/2603.14819"
    data = ("forget", "retain")
    columns = ("identity_id",)
    search = {"lr": Between(1e-6, 3e-3), "layers": OneOf((2, 4, 8)), "drift_weight": Between(0.01, 100)}
    Options = RazorOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Score all layers once, then train, check and take in more."""
        options = self.options
        matrices = {name: p for name, p in ctx.parameters(options.tower).items() if p.ndim > 1 and "embedding" not in name}
        # Each over a quarter of what is left of the budget, at most.
        measured: dict[Role, Callable[[DualEncoder, Pairs], Tensor]] = {"forget": forget_loss, "retain": pairs_loss}
        forget, retain = (
            ctx.mean_gradients(loss, split, options.batch_size, params=matrices, rows=ctx.affordable_rows(split, parts=4))
            for split, loss in measured.items()
        )
        ranked = ranked_layers(matrices, forget, retain, options.alpha)
        rows, steps = self._plan(ctx)
        target = ctx.unrelated_similarity(rows) if options.target is None else options.target
        start = ctx.weights(matrices)
        similarity, used = math.inf, 0
        for number, count in enumerate(steps):
            used = min(len(ranked), (number + 1) * options.layers)
            names = [name for layer in ranked[:used] for name in matrices if layer_of(name) == layer]
            self._train(ctx, names, {name: matrices[name] for name in names}, start, target, count)
            similarity = ctx.forget_similarity(rows)
            ctx.log(round=number + 1, layers=used, similarity=similarity, target=target)
            if similarity <= target:
                break

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of all rounds, at most."""
        meter.check("forget", 4)  # a gradient, the target, a step and a check
        return super().planned_steps(rows, meter, make_method)

    def _train(
        self,
        ctx: UnlearnContext,
        names: Sequence[str],
        params: Mapping[str, nn.Parameter],
        start: Mapping[str, Tensor],
        target: float,
        steps: int,
    ) -> None:
        """One round on some layers."""
        options = self.options
        first = [start[name] for name in names]

        def loss(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
            image, text, _ = model(batch.forget)
            return {
                "forget": (pair_cosine(image, text) - target).clamp(min=0).mean(),
                "retain": options.retain_weight * contrastive_loss(*model(batch.retain)),
                "drift": options.drift_weight * relative_drift([model.weight_in_use(name) for name in names], first),
            }

        ctx.fit(loss, options, steps=steps, params=params.values())

    def _plan(self, ctx: UnlearnContext) -> tuple[int, list[int]]:
        """Forget pairs of a check, and the steps of every round: what is left of the budget, or the epochs asked for, in nearly equal
        parts. Rounds that would have no step are left out."""
        options = self.options
        measures = options.rounds + 1  # the target is one more
        check = ctx.affordable_rows("forget", options.check_rows, parts=4 * measures, least=FEWEST)
        total = ctx.steps_of_fit(options, reserved={"forget": check * measures})
        rounds = min(options.rounds, total)
        return check, [max(1, (number + 1) * total // rounds - number * total // rounds) for number in range(rounds)]


def ranked_layers(
    matrices: Mapping[str, Tensor], forget: Mapping[str, Tensor], retain: Mapping[str, Tensor], alpha: float
) -> list[str]:
    """Layers by falling score. Layers without a forget gradient are left out.

    Raises:
        SalmuError: not one has a gradient.
    """
    layers: dict[str, list[str]] = {}
    for name in matrices:
        layers.setdefault(layer_of(name), []).append(name)
    scores = {
        layer: ratio_score(
            [forget[n] for n in names], [retain[n] for n in names], [matrices[n].detach() for n in names], alpha
        )
        for layer, names in layers.items()
    }
    ranked = sorted((layer for layer, score in scores.items() if score > 0), key=lambda layer: -scores[layer])
    if not ranked:
        raise SalmuError("No layer has a forget gradient that is not one of retain too, so razor finds nothing to edit.")
    return ranked


# ---------------------------------------------------------------- measuring


def forget_loss(model: DualEncoder, pairs: Pairs) -> Tensor:
    """One minus the mean cosine of forget pairs: what the released code of SLUG takes the gradient of, too."""
    image, text, _ = model(pairs)
    return 1 - pair_cosine(image, text).mean()


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """RAZOR."""
    return [Razor]
