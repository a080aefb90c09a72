"""Task vectors: learn the forget pairs even better, and go as far in the opposite direction."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    MakeMethod,
    OneOf,
    Role,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss


def negate(start: Float[Tensor, "*shape"], vector: Float[Tensor, "*shape"], strength: float) -> Float[Tensor, "*shape"]:
    """`theta_0 - strength * tau`: forgetting by negation, Ilharco et al. 2023 (arXiv 2212.04089), section 3."""
    return start - strength * vector


def sign_consensus(vectors: Float[Tensor, "vectors ..."]) -> Float[Tensor, "*shape"]:
    """The mean of task vectors where all of them have one sign, 0 elsewhere: NegMerge (Kim et al. 2024, arXiv 2410.05583).

    A coordinate that one of the vectors leaves at 0 has no common sign.
    """
    agreed = vectors.sign().sum(dim=0).abs() == len(vectors)
    return torch.where(agreed, vectors.mean(dim=0), torch.zeros_like(vectors[0]))


def learning_rates(lr: float, spread: float, vectors: int) -> list[float]:
    """One rate per task vector, evenly spaced on a logarithmic scale from `lr / spread` to `lr * spread`."""
    if vectors == 1:
        return [lr]
    return [lr * spread ** (2 * k / (vectors - 1) - 1) for k in range(vectors)]


def learn_forget(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
    """CLIP's own loss on forget pairs: what training did with them, once more."""
    return {"forget": contrastive_loss(*model(batch.forget))}


class TaskVectorNegation(UnlearningMethod):
    """Train a copy further on the forget pairs, and subtract what that changed."""

    name = "task-vector-negation"
    summary = "Train a copy further on forget pairs and subtract the change of its weights."
    family = "pruning and editing"
    paper = "https://arxiv.org/abs/2212.04089"
    data = ("forget",)
    fewest_rows = 2
    search = {"lr": Between(1e-6, 3e-3), "strength": Between(0.05, 10)}

    class Options(FitOptions):
        """Options of task-vector-negation."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        strength: float = Field(1.0, ge=0, description="lambda of the paper: how often the task vector is subtracted")

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Fit, and go the same way from the start in the opposite direction."""
        params = ctx.parameters(self.options.tower)
        start = ctx.weights(params)
        ctx.fit(learn_forget, self.options, params=params.values())
        vectors = {name: parameter.detach() - start[name] for name, parameter in params.items()}
        ctx.log(vector_norm=norm(vectors))
        ctx.set_weights({name: negate(start[name], vectors[name], self.options.strength) for name in params})


class NegMerge(UnlearningMethod):
    """Task vectors of several fits; only what all of them change in one direction is subtracted."""

    name = "negmerge"
    summary = "Subtract from the weights what several fits on forget pairs change in the same direction (NegMerge)."
    family = "pruning and editing"
    paper = "https://arxiv.org/abs/2410.05583"
    data = ("forget",)
    fewest_rows = 2
    search = {"lr": Between(1e-6, 3e-3), "strength": Between(0.05, 10), "vectors": OneOf((2, 3, 5))}

    class Options(FitOptions):
        """Options of negmerge."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate in the middle of the fits")
        epochs: float | None = Field(
            None, gt=0, description="passes over forget per fit; none: an equal share of the budget that is left"
        )
        strength: float = Field(1.0, ge=0, description="how often the merged vector is subtracted")
        vectors: int = Field(3, ge=1, le=50, description="fits, each from the start and with batches of its own")
        spread: float = Field(3.0, ge=1, le=100, description="learning rates go from lr / spread to lr * spread")

    def unlearn(self, ctx: UnlearnContext) -> None:
        """One fit per vector, each from the weights that unlearning starts from; then merge and negate."""
        options = self.options
        params = ctx.parameters(options.tower)
        start = ctx.weights(params)
        steps = self.steps_each(ctx)
        found: list[dict[str, Tensor]] = []
        for rate in learning_rates(options.lr, options.spread, options.vectors):
            ctx.set_weights(start)
            # A fit's number is part of what its batches are drawn from, so the order differs as well as the rate.
            ctx.fit(learn_forget, options.model_copy(update={"lr": rate}), steps=steps, params=params.values())
            found.append({name: parameter.detach() - start[name] for name, parameter in params.items()})
        stacked = {name: torch.stack([vectors[name] for vectors in found]) for name in params}
        merged = {name: sign_consensus(vectors) for name, vectors in stacked.items()}
        kept = sum(int((vector != 0).sum()) for vector in merged.values())
        changed = sum(int((vectors != 0).any(dim=0).sum()) for vectors in stacked.values())
        ctx.log(vector_norm=norm(merged), agreement=kept / max(1, changed))
        ctx.set_weights({name: negate(start[name], merged[name], options.strength) for name in params})

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of all fits together."""
        fits, size = self.options.vectors, meter.batch_sizes(self.options, rows)["forget"]
        left, epochs = meter.left("forget"), self.options.epochs
        each = max(1, left // size // fits) if epochs is None and left is not None else meter.steps(self.options, rows)
        meter.check("forget", fits * each * size)
        return int(fits * each)

    def steps_each(self, ctx: UnlearnContext) -> int:
        """Steps per fit: the epochs that are given, or an equal share of what the budget holds."""
        steps = ctx.steps_of_fit(self.options)
        return steps if self.options.epochs is not None else steps // self.options.vectors


def norm(vectors: Mapping[str, Tensor]) -> float:
    """Length of a task vector over all parameters."""
    return float(torch.stack([vector.square().sum() for vector in vectors.values()]).sum().sqrt())


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Task-vector negation and NegMerge."""
    return [TaskVectorNegation, NegMerge]
