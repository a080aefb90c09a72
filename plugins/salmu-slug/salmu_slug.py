"""SLUG, Single Layer Unlearning Gradient: one gradient step on one tensor, which and how far found by measuring."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salmu_core import (
    Between,
    DualEncoder,
    Field,
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
from salmu_core.errors import RAISE_BUDGET, BudgetExceeded
from salmu_core.losses import contrastive_loss, mismatched_cosine, pair_cosine, pairs_loss

#: Parts of names of tensors that are never edited, as released.
LEFT_OUT = ("bias", "logit_scale", "position", "embedding")

# ---------------------------------------------------------------- formulas


def importance(gradient: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]) -> float:
    """`||g_forget|| / ||theta||` of a tensor: the importance of SLUG (Cai, Tan, Asif 2025, arXiv 2407.11867, and the authors'
    code). Infinite for a tensor of zeros that has a gradient."""
    gradient_norm, weight_norm = float(gradient.double().norm()), float(weight.double().norm())
    if weight_norm == 0:
        return math.inf if gradient_norm else 0.0
    return gradient_norm / weight_norm


def alignment(forget: Float[Tensor, "*shape"], retain: Float[Tensor, "*shape"]) -> float:
    """`|cos(g_forget, g_retain)|` of a tensor: how much a step along one of the gradients moves along the other (SLUG). 0 where
    one of them is 0."""
    forget, retain = forget.double().flatten(), retain.double().flatten()
    norms = float(forget.norm() * retain.norm())
    return abs(float(forget @ retain)) / norms if norms else 0.0


def pareto_set(alignments: Sequence[float], importances: Sequence[float]) -> list[int]:
    """Which tensors are not beaten by another that has a smaller alignment and a larger importance at once (SLUG)."""
    points = list(zip(alignments, importances, strict=True))
    return [
        number
        for number, (aligned, important) in enumerate(points)
        if not any(other < aligned and more > important for other, more in points)
    ]


@dataclass(frozen=True)
class Trial:
    """What a step of one size does: mean cosine of forget pairs, and the contrastive loss of retain pairs."""

    size: float
    similarity: float
    retain_loss: float


def search_size(evaluate: Callable[[float], Trial], first: float, target: float, evaluations: int) -> list[Trial]:
    """Look for the smallest step after which the similarity is at most `target`: double until it is, then halve the interval.

    A step after which the similarity is not finite is too far.
    """
    low, high, size = 0.0, math.inf, first
    trials = []
    for _ in range(evaluations):
        trials.append(trial := evaluate(size))
        if trial.similarity <= target or not math.isfinite(trial.similarity):
            high = size
        else:
            low = size
        size = 2 * low if math.isinf(high) else (low + high) / 2
    return trials


def best_trial(trials: Sequence[Trial], target: float) -> int | None:
    """The number of the trial to keep: of those that reach the target the one with the lowest retain loss, or else the one with
    the lowest similarity. None if no trial gave finite numbers."""
    usable = [n for n, trial in enumerate(trials) if math.isfinite(trial.similarity) and math.isfinite(trial.retain_loss)]
    reached = [n for n in usable if trials[n].similarity <= target]
    if reached:
        return min(reached, key=lambda n: trials[n].retain_loss)
    return min(usable, key=lambda n: trials[n].similarity, default=None)


# ---------------------------------------------------------------- the method


class SlugOptions(Options):
    """Options of slug."""

    candidates: int = Field(3, ge=1, description="tensors that are tried per encoder: the most important of its Pareto set")
    evaluations: int = Field(8, ge=1, description="step sizes that are tried per tensor")
    slice_rows: int = Field(
        128, ge=2, le=4096, description="pairs of each split per evaluation; fewer where the budget holds no more"
    )
    target: float | None = Field(
        None, ge=-1, le=1, description="mean cosine of forget pairs to reach; none: that of other people's captions"
    )
    batch_size: int = Field(64, ge=2, description="pairs per gradient")
    tower: Literal["both", "image", "text"] = Field("both", description="encoders among whose tensors is chosen")


@dataclass
class _Watched:
    """Embeddings that pass by while gradients are computed."""

    image: list[Tensor] = field(default_factory=list)
    text: list[Tensor] = field(default_factory=list)
    identity: list[Tensor] = field(default_factory=list)

    def forget_cosine(self, model: DualEncoder, pairs: Pairs) -> Tensor:
        """The mean cosine of forget pairs, whose gradient is stepped against."""
        image, text, _ = model(pairs)
        self.image.append(image.detach().cpu())
        self.text.append(text.detach().cpu())
        self.identity.append(pairs.columns["identity"])
        return pair_cosine(image, text).mean()

    def unrelated(self, ctx: UnlearnContext) -> float:
        """The mean cosine of forget images and captions of other identities, or of retain where all are of one."""
        image = torch.cat(self.image)
        found = mismatched_cosine(image, torch.cat(self.text), torch.cat(self.identity))
        return float(found) if torch.isfinite(found) else ctx.similarity_to_retain(image)


class Slug(UnlearningMethod):
    """Take one step down the mean cosine of forget pairs, on one tensor, just far enough."""

    name = "slug"
    summary = "One step against the gradient of the forget cosine, on the one tensor where it costs retain least (SLUG)."
    family = "pruning and editing"
    paper = "https://arxiv.org/abs/2407.11867"
    data = ("forget", "retain")
    columns = ("identity_id",)
    search = {"target": Between(-0.2, 0.6, log=False), "candidates": OneOf((1, 3, 6))}
    Options = SlugOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Measure both gradients once, choose tensors, try steps, and keep the best."""
        options = self.options
        params = {n: p for n, p in ctx.parameters(options.tower).items() if not any(part in n for part in LEFT_OUT)}
        watched = _Watched()
        # Each over half of what is left of the budget, at most.
        measured: dict[Role, Callable[[DualEncoder, Pairs], Tensor]] = {
            "forget": watched.forget_cosine,
            "retain": pairs_loss,
        }
        forget, retain = (
            ctx.mean_gradients(loss, split, options.batch_size, params=params, rows=ctx.affordable_rows(split, parts=2))
            for split, loss in measured.items()
        )
        target = watched.unrelated(ctx) if options.target is None else options.target
        names = self.tensors_to_try(ctx, params, forget, retain)
        rows = slice_rows(ctx, options.slice_rows, len(names) * options.evaluations)
        tried: list[tuple[str, Trial]] = []
        for name in names:
            start = params[name].detach().clone()

            def evaluate(size: float, name: str = name, start: Tensor = start) -> Trial:
                step(params[name], start, forget[name], size)
                return evaluated(ctx, size, rows)

            first = float(start.norm() / forget[name].norm()) / 10
            tried += [(name, trial) for trial in search_size(evaluate, first, target, options.evaluations)]
            ctx.set_weights({name: start})
        best = best_trial([trial for _, trial in tried], target)
        if best is None:
            raise SalmuError("No step that slug tried left finite embeddings.", "Check the model that it starts from.")
        name, trial = tried[best]
        start = params[name].detach().clone()
        step(params[name], start, forget[name], trial.size)
        ctx.log(
            target=target,
            similarity=trial.similarity,
            retain_loss=trial.retain_loss,
            step_size=trial.size,
            importance=importance(forget[name], start),
            alignment=alignment(forget[name], retain[name]),
            tried_tensors=len(names),
        )

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """None: it takes no optimiser steps. Check that the budget holds one pair for each evaluation."""
        options = self.options
        evaluations = options.candidates * options.evaluations * (2 if options.tower == "both" else 1)
        least: dict[Role, int] = {"forget": 1, "retain": 2}
        for split, fewest in least.items():
            left = meter.left(split)
            if left is not None and (left := left - min(rows[split], max(1, left // 2))) < fewest * evaluations:
                raise too_few(split, left, evaluations)
        return None

    def tensors_to_try(
        self,
        ctx: UnlearnContext,
        params: Mapping[str, nn.Parameter],
        forget: Mapping[str, Tensor],
        retain: Mapping[str, Tensor],
    ) -> list[str]:
        """The most important tensors of the Pareto set of each encoder. Tensors without a gradient are left out.

        Raises:
            SalmuError: no tensor has a gradient.
        """
        chosen: list[str] = []
        for tower in ("image", "text"):
            names = [name for name in ctx.parameters(tower) if name in params and forget[name].any() and params[name].any()]
            important = [importance(forget[name], params[name].detach()) for name in names]
            aligned = [alignment(forget[name], retain[name]) for name in names]
            front = sorted(pareto_set(aligned, important), key=lambda number: -important[number])
            chosen += [names[number] for number in front[: self.options.candidates]]
        if not chosen:
            raise SalmuError("The mean cosine of forget pairs has no gradient, so slug cannot lower it.")
        return chosen


def too_few(split: str, left: int | None, evaluations: int) -> BudgetExceeded:
    """What is wrong where the budget holds no evaluations."""
    return BudgetExceeded(
        f"The {split} budget holds {left} more samples, too few for the {evaluations} evaluations of slug.",
        f"Lower candidates or evaluations, or {RAISE_BUDGET}.",
    )


def slice_rows(ctx: UnlearnContext, wanted: int, evaluations: int) -> dict[Literal["forget", "retain"], int]:
    """Rows of each split per evaluation: as wanted, or as many as the budget holds for all of them.

    Raises:
        BudgetExceeded: that is less than one, or of retain, whose loss compares rows, less than two.
    """
    rows: dict[Literal["forget", "retain"], int] = {}
    for split in ("forget", "retain"):
        left = ctx.budget_left(split)
        rows[split] = min(wanted, ctx.rows(split), wanted if left is None else left // evaluations)
        if rows[split] < (1 if split == "forget" else 2):
            raise too_few(split, left, evaluations)
    return rows


@torch.no_grad()
def step(parameter: nn.Parameter, start: Tensor, gradient: Tensor, size: float) -> None:
    """`theta <- theta_0 - size g`: the update of SLUG, down the mean cosine."""
    parameter.copy_(start - size * gradient)


@torch.no_grad()
def evaluated(ctx: UnlearnContext, size: float, rows: Mapping[Literal["forget", "retain"], int]) -> Trial:
    """What the model does with the slices of both splits, which are the same rows every time; counted."""
    image, text, _ = embedded(ctx, "forget", rows["forget"])
    similarity = float(pair_cosine(image, text).double().mean())
    return Trial(size, similarity, float(contrastive_loss(*embedded(ctx, "retain", rows["retain"]))))


def embedded(ctx: UnlearnContext, split: Literal["forget", "retain"], rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of some pairs of a split, drawn from the run's seed, and the logit scale."""
    parts = [ctx.model(pairs) for pairs in ctx.batches(split, 256, rows=rows, shuffle=True)]
    return torch.cat([part.image for part in parts]), torch.cat([part.text for part in parts]), parts[0].scale


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """SLUG."""
    return [Slug]
