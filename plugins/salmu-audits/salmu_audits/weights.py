"""Attacks on the weights themselves: rounding them, and putting the original tower back."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salmu_audits.inversion import has_token_table, token_table
from salmu_audits.measures import distinct, mean_reciprocal_rank
from salmu_audits.relearning import retrieval
from salmu_core import Audit, AuditContext, DualEncoder, Field, Leak, Options
from salmu_core.metric import NotMeasurable
from salmu_core.models.dual_encoder import tower_of


def rounded(weight: Float[Tensor, ...], bits: int, dim: int) -> Float[Tensor, ...]:
    """Round to the nearest of `2^bits - 1` symmetric levels, scaled by the largest magnitude along all dimensions but `dim`
    (one scale for each output channel). Zhang et al. 2024 (arXiv 2410.16454) found that this brings unlearned knowledge
    back, where the change that unlearning made is smaller than a level."""
    highest = 2 ** (bits - 1) - 1
    others = tuple(axis for axis in range(weight.ndim) if axis != dim % weight.ndim)
    scale = weight.abs().amax(dim=others, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / highest
    found: Tensor = (weight / scale).round().clamp(-highest, highest) * scale
    return found


@torch.no_grad()
def round_model(model: DualEncoder, bits: int) -> int:
    """Round every weight matrix in place: linear layers, attention, convolutions, token embeddings, projections. Biases, norms,
    positions and the logit scale stay. Returns how many numbers were rounded."""
    count = 0
    seen: set[int] = set()
    for module in model.clip.modules():
        for name, parameter in module.named_parameters(recurse=False):
            layer = isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd | nn.MultiheadAttention)
            projection = name in ("proj", "text_projection")  # used as `x @ projection`: its columns are the channels
            if parameter.ndim < 2 or id(parameter) in seen or not (layer or projection):
                continue
            seen.add(id(parameter))
            parameter.copy_(rounded(parameter, bits, -1 if projection else 0))
            count += parameter.numel()
    return count


class RoundingOptions(Options):
    """Options of both rounding attacks."""

    before: bool = Field(True, description="also measure the model before it is rounded")


class Rounding(Audit):
    """Round all weight matrices and test what was forgotten."""

    bits: ClassVar[int]
    paper = "https://arxiv.org/abs/2410.16454"
    version = "2"
    Options = RoundingOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """Rounding needs no data at all."""
        forget = ctx.split("forget")
        extras = {"before": retrieval(ctx, forget)} if self.options.before else {}
        round_model(ctx.model, self.bits)
        return Leak(retrieval(ctx, forget), extras)


class Int8Rounding(Rounding):
    """Round to 8 bits."""

    name = "int8-rounding"
    summary = "Round all weight matrices to 8 bits for each channel; reciprocal rank of the forgotten captions."
    bits = 8


class Int4Rounding(Rounding):
    """Round to 4 bits."""

    quick = {"before": False}

    name = "int4-rounding"
    summary = "Round all weight matrices to 4 bits for each channel; reciprocal rank of the forgotten captions."
    bits = 4


Part = Literal["image", "text", "tokens"]


def changed_parts(model: DualEncoder, original: DualEncoder) -> set[Part]:
    """Which of the image encoder, the token table and the rest of the text encoder differ from the original's in any bit."""
    table = {id(token_table(model).weight)} if has_token_table(model) else set()
    named = dict(model.clip.named_parameters()) | dict(model.clip.named_buffers())
    own, theirs = model.weights(), original.weights()
    found: set[Part] = set()
    for name, tensor in own.items():
        tower = tower_of(name)
        if tower is not None and not torch.equal(tensor.cpu(), theirs[name].cpu()):
            found.add("tokens" if id(named.get(name)) in table else tower)
    return found


class PartSwap(Audit):
    """Put one part of the original model back, and keep what else was unlearned."""

    original: ClassVar[Part]
    version = "3"
    references = ("compromised",)

    def attack(self, ctx: AuditContext) -> Leak:
        """Whoever has the original model can do this: a jump means that only the fit of the parts was undone.

        Raises:
            NotMeasurable: the part was never changed, so that putting it back does nothing; or nothing else was, so that
                putting it back gives the original model.
        """
        compromised = ctx.reference("compromised")
        changed = changed_parts(ctx.model, compromised)
        words = {"image": "the image encoder", "text": "the text encoder", "tokens": "the token table"}[self.original]
        mine: set[Part] = {"text", "tokens"} if self.original == "text" else {self.original}
        if changed and not changed & mine:
            raise NotMeasurable(f"{words} was not changed, so putting it back says nothing")
        if changed and not changed - mine:
            raise NotMeasurable(
                f"{words} is all that was changed, so putting it back gives the original model and says nothing"
            )
        return Leak(self.swapped(ctx, compromised))

    def swapped(self, ctx: AuditContext, compromised: DualEncoder) -> float:
        """Reciprocal rank of the forgotten captions with the original part."""
        forget = ctx.split("forget")
        captions, own = distinct(forget.render(None))
        images = ctx.images(forget, compromised if self.original == "image" else None)
        texts = ctx.texts(captions, compromised if self.original == "text" else None)
        return mean_reciprocal_rank(images, texts, own)


class OriginalTokenTable(PartSwap):
    """The unlearned model with the original token table."""

    name = "original-token-table"
    summary = "Put the original token table into the unlearned model; reciprocal rank of the forgotten captions."
    original = "tokens"
    version = "2"

    def swapped(self, ctx: AuditContext, compromised: DualEncoder) -> float:
        """What the rest of both encoders still does with words as they were."""
        with torch.no_grad():
            token_table(ctx.model).weight.copy_(token_table(compromised).weight)
        return retrieval(ctx, ctx.split("forget"))


class OriginalImageTower(PartSwap):
    """The original image encoder with the unlearned text encoder."""

    name = "original-image-tower"
    summary = "Pair the original image encoder with the unlearned text encoder; reciprocal rank of the forgotten captions."
    original = "image"


class OriginalTextTower(PartSwap):
    """The unlearned image encoder with the original text encoder."""

    name = "original-text-tower"
    summary = "Pair the unlearned image encoder with the original text encoder; reciprocal rank of the forgotten captions."
    original = "text"


class SoupOptions(Options):
    """Options of soup-back."""

    points: int = Field(8, ge=2, description="steps of the line from the unlearned weights to the original ones")


class SoupBack(Audit):
    """Go from the unlearned weights towards the original ones, and see where the facts return."""

    name = "soup-back"
    summary = (
        "On the line to the original weights, how early half of what Compromised holds is back: 1 at once, 0 at its end."
    )
    paper = "https://arxiv.org/abs/2203.05482"
    version = "2"
    references = ("compromised",)
    Options = SoupOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """1 less the share of the original weights, interpolated between the points. A model near its original comes back early: read
        it beside Clean, which was trained apart."""
        forget = ctx.split("forget")
        compromised = ctx.reference("compromised").weights()
        start = {name: tensor.detach().clone() for name, tensor in ctx.model.weights().items()}
        shares = [step / self.options.points for step in range(self.options.points + 1)]
        found: list[float] = []
        for share in shares:
            with torch.no_grad():
                for name, tensor in ctx.model.weights().items():
                    if tensor.is_floating_point():
                        tensor.copy_(torch.lerp(start[name], compromised[name].to(tensor.device), share))
            found.append(retrieval(ctx, forget))
        extras = {f"at {share:g}": value for share, value in zip(shares, found, strict=True)}
        return Leak(1 - first_crossing(shares, found, found[-1] / 2), extras)


def first_crossing(at: list[float], values: list[float], level: float) -> float:
    """Where a broken line first reaches a level; its last place where it never does.

    >>> first_crossing([0.0, 0.5, 1.0], [0.0, 0.2, 1.0], 0.6)
    0.75
    """
    if values[0] >= level:
        return at[0]
    for (left, low), (right, high) in pairwise(zip(at, values, strict=True)):
        if low < level <= high:
            return left + (right - left) * (level - low) / (high - low)
    return at[-1]
