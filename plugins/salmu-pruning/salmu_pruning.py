"""Pruning of the MLP units that serve forget pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from salmu_core import (
    Between,
    DualEncoder,
    Field,
    OneOf,
    Options,
    Pairs,
    SalmuError,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)

Tower = Literal["image", "text"]


@dataclass(frozen=True)
class Layer:
    """The hidden layer of one transformer block's MLP: units between `c_fc` and `c_proj`."""

    tower: Tower
    c_fc: nn.Linear
    c_proj: nn.Linear


def hidden_layers(model: DualEncoder, tower: Literal["both", "image", "text"]) -> dict[str, Layer]:
    """The MLPs of open_clip's transformer blocks, by name.

    Raises:
        SalmuError: an encoder that is to be pruned has none (a ResNet, timm or Hugging Face encoder).
    """
    towers: tuple[Tower, ...] = ("image", "text") if tower == "both" else (tower,)
    found: dict[str, Layer] = {}
    for side in towers:
        ids = {id(parameter) for parameter in model.tower_parameters(side)}
        before = len(found)
        for name, module in model.named_modules():
            c_fc, c_proj = getattr(module, "c_fc", None), getattr(module, "c_proj", None)
            if isinstance(c_fc, nn.Linear) and isinstance(c_proj, nn.Linear) and id(c_fc.weight) in ids:
                found[name] = Layer(side, c_fc, c_proj)
        if len(found) == before:
            other = "text" if side == "image" else "image"
            raise SalmuError(
                f"neuron-pruning finds no transformer MLP (c_fc, c_proj) in the {side} encoder of this architecture.",
                f"It prunes open_clip's own transformers. Prune the other encoder with --set tower={other}, or use"
                " selective-synaptic-dampening, which takes any architecture.",
            )
    return found


def relative_importance(
    forget: Float[Tensor, " units"], retain: Float[Tensor, " units"], eps: float
) -> Float[Tensor, " units"]:
    """`mean|a| on forget / (mean|a| on retain + eps)` per unit."""
    return forget / (retain + eps)


def top_units(
    scores: Mapping[str, Float[Tensor, _]], share: float, scope: Literal["layer", "global"]
) -> dict[str, Bool[Tensor, _]]:
    """The units to prune: the `share` with the highest scores, of every layer or of all layers together."""
    if scope == "layer":
        return {name: _largest(score, share) for name, score in scores.items()}
    chosen = _largest(torch.cat(list(scores.values())), share)
    parts = chosen.split([len(score) for score in scores.values()])
    return dict(zip(scores, parts, strict=True))


def _largest(score: Float[Tensor, " units"], share: float) -> Bool[Tensor, " units"]:
    order = score.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(score, dtype=torch.bool)
    chosen[order[: round(share * len(score))]] = True
    return chosen


@torch.no_grad()
def prune_units(layer: Layer, units: Bool[Tensor, " units"]) -> None:
    """Make hidden units output zero and let nothing read them: their rows of `c_fc` and columns of `c_proj` become 0."""
    layer.c_fc.weight[units] = 0
    if layer.c_fc.bias is not None:
        layer.c_fc.bias[units] = 0
    layer.c_proj.weight[:, units] = 0


class NeuronPruningOptions(Options):
    """Options of neuron-pruning."""

    share: float = Field(0.4, ge=0, le=1, description="share of hidden units that is removed")
    scope: Literal["layer", "global"] = Field("layer", description="the share is of every layer, or of all together")
    eps: float = Field(1e-6, gt=0, description="added to the activity on retain pairs")
    batch_size: int = Field(256, ge=1, description="pairs per forward pass; does not change the result")
    tower: Literal["both", "image", "text"] = Field("both", description="which encoder is pruned")


class NeuronPruning(UnlearningMethod):
    """Remove the MLP units that are most active on forget pairs relative to retain pairs."""

    name = "neuron-pruning"
    summary = "Zero the MLP units that are most active on forget pairs relative to retain pairs."
    family = "pruning and editing"
    data = ("forget", "retain")
    search = {"share": Between(0.02, 0.8), "scope": OneOf(("layer", "global"))}
    Options = NeuronPruningOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Measure both activities in one pass over each split, then remove units."""
        options = self.options
        layers = hidden_layers(ctx.model, options.tower)
        forget = mean_activity(ctx, "forget", layers, options.batch_size)
        retain = mean_activity(ctx, "retain", layers, options.batch_size)
        scores = {name: relative_importance(forget[name], retain[name], options.eps) for name in layers}
        units = top_units(scores, options.share, options.scope)
        for name, layer in layers.items():
            prune_units(layer, units[name])
        ctx.log(pruned_units=sum(int(chosen.sum()) for chosen in units.values()))


def mean_activity(
    ctx: UnlearnContext, split: Literal["forget", "retain"], layers: Mapping[str, Layer], batch_size: int
) -> dict[str, Float[Tensor, _]]:
    """`mean|a|` of every unit over a split's rows and tokens, over as many rows as the budget holds."""
    image, text = ({name: layer for name, layer in layers.items() if layer.tower == side} for side in ("image", "text"))

    def measure(pairs: Pairs) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        # The encoders themselves, not model(pairs): so every process measures the whole batch.
        if image:
            with watched(image, None, sums):
                ctx.model.encode_image(pairs.image)
        if text:
            tokens = pairs.text
            with watched(text, tokens != 0, sums):  # captions are padded with 0
                ctx.model.encode_text(tokens)
        return sums

    sums = ctx.accumulate(measure, split, batch_size, rows=ctx.affordable_rows(split), shuffle=True)
    return {name: sums[name] / sums[f"{name} tokens"] for name in layers}


@contextmanager
def watched(
    layers: Mapping[str, Layer], real: Bool[Tensor, "batch context"] | None, sums: dict[str, Tensor]
) -> Iterator[None]:
    """While open, every forward pass writes the sum of |a| per unit and the number of tokens of each layer into `sums`.

    Args:
        real: the tokens that count; None: all. An encoder may leave out columns at the end of a batch.
    """

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            activity = inputs[0].abs().float()  # what c_proj reads: (batch, tokens, units) after the nonlinearity
            tokens = activity.shape[1]
            counted = activity.new_ones(activity.shape[:2]) if real is None else real[:, :tokens].to(activity)
            sums[name] = (activity * counted[:, :, None]).sum(dim=(0, 1))  # autocast leaves these in fp32
            sums[f"{name} tokens"] = counted.sum()

        return read

    handles = [layer.c_proj.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Neuron pruning."""
    return [NeuronPruning]
