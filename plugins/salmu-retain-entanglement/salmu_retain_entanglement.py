"""Retain-forget entanglement: pin remote retain pairs while forget pairs are climbed, then restore the pairs near them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Features,
    Field,
    FitOptions,
    MakeMethod,
    Pairs,
    Role,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import contrastive_loss, group_mask, pair_losses

Gradients = Mapping[str, Tensor]

# ---------------------------------------------------------------- formulas


def clipped(losses: Float[Tensor, " batch"], ceiling: float) -> Float[Tensor, ""]:
    """Average losses whose gradient ends at `ceiling`; their values do not.

    Source: Retain-Forget Entanglement (ICLR 2026, arXiv 2603.26569), `ClippedCrossEntropyLoss` in the authors' code.

    Example:
        >>> x = torch.tensor([1.0, 4.0], requires_grad=True)
        >>> clipped(x, 3.0).backward()
        >>> x.grad.tolist()
        [0.5, 0.0]
    """
    return torch.where(losses < ceiling, losses, losses.detach()).mean()


def sorted_distance(now: Float[Tensor, " batch"], then: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Compute the squared 2-Wasserstein distance of two samples of equal size, `mean_i (now_(i) - then_(i))^2` after sorting.

    Source: arXiv 2603.26569, equation 7.

    Example:
        >>> sorted_distance(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])).item()
        0.5
    """
    return (now.sort().values - then.sort().values).square().mean()


def project_off(primary: Gradients, first: Gradients, second: Gradients) -> dict[str, Tensor]:
    """Take the span of two gradients out of a third, over all tensors together (arXiv 2603.26569, equation 10).

    Solves the 2 x 2 Gram system in float64, with 1e-8 on its diagonal, relative to its trace; a gradient of zeros takes nothing out.

    Example:
        >>> one = lambda *v: {"w": torch.tensor(v)}
        >>> project_off(one(1.0, 2.0, 3.0), one(1.0, 0.0, 0.0), one(1.0, 1.0, 0.0))["w"].round(decimals=4).tolist()
        [0.0, 0.0, 3.0]
    """
    bases = [_flat(first, primary), _flat(second, primary)]
    basis = torch.stack(bases)
    gram = basis @ basis.T
    ridge = 1e-8 * float(gram.trace()) * torch.eye(2, dtype=torch.float64, device=gram.device)
    if not gram.any():
        return {name: gradient.clone() for name, gradient in primary.items()}
    weights = torch.linalg.solve(gram + ridge, basis @ _flat(primary, primary))
    return {
        name: gradient - (weights[0] * first[name].double() + weights[1] * second[name].double()).to(gradient.dtype)
        for name, gradient in primary.items()
    }


def _flat(gradients: Gradients, order: Gradients) -> Float[Tensor, " n"]:
    return torch.cat([gradients[name].double().flatten() for name in order])


def near_rows(retain: Float[Tensor, "rows dim"], forget: Float[Tensor, "others dim"], share: float) -> Bool[Tensor, " rows"]:
    """Mark the `share` of the retain images that come nearest to any forget image, by cosine; at least one, never all.

    Example:
        >>> near_rows(torch.eye(3), torch.tensor([[0.0, 1.0, 0.0]]), 0.4).tolist()
        [False, True, False]
    """
    nearest = (retain @ forget.T).max(dim=1).values
    count = min(max(1, round(share * len(nearest))), len(nearest) - 1)
    marked = torch.zeros(len(nearest), dtype=torch.bool, device=nearest.device)
    marked[nearest.argsort(descending=True, stable=True)[:count]] = True
    return marked


def losses_of(found: Features, pairs: Pairs) -> Float[Tensor, " batch"]:
    """The contrastive loss of each pair among its batch; rows of one association are no alternatives for each other."""
    return pair_losses(found.image, found.text, found.scale, group_mask(pairs.columns["association"]))


# ---------------------------------------------------------------- the method


class EntanglementOptions(FitOptions):
    """Options of retain-forget-entanglement."""

    lr: float = Field(3e-5, gt=0, le=10, description="peak learning rate of the first stage")
    batch_size: int = Field(64, ge=8, description="forget pairs, and retain pairs, per step")
    gamma: float = Field(1.0, gt=0, description="weight of the ascent")
    mu: float = Field(10.0, ge=0, description="penalty of the pin, and step of its multiplier")
    ceiling: float = Field(10.0, gt=0, description="loss of a forget pair beyond which it is climbed no further")
    first_share: float = Field(0.5, gt=0, lt=1, description="share of the steps that the first stage takes")
    restore_lr: float = Field(3e-3, gt=0, le=10, description="peak learning rate of the second stage, plain SGD")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the restoring gradient, taken before it is projected")
    alpha: float = Field(
        0.5, ge=0, le=1, description="weight of the Wasserstein term in the forget loss of the second stage"
    )
    near: float = Field(0.25, gt=0, lt=1, description="share of a retain batch that counts as near the forget batch")


class RetainForgetEntanglement(UnlearningMethod):
    """Climb forget pairs under a pin on remote retain pairs, then restore near ones off both gradients."""

    name = "retain-forget-entanglement"
    summary = "Ascent under a pin on remote retain pairs, then near retain pairs restored by projected gradients."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/2603.26569"
    data = ("forget", "retain")
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 1e-3), "restore_lr": Between(1e-5, 1e-1), "mu": Between(1, 100)}
    Options = EntanglementOptions

    _multiplier: float = 0.0
    _constraint: float = 0.0
    _velocity: dict[str, Tensor]
    _start: DualEncoder
    _climbed: DualEncoder

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Climb under the pin, then restore."""
        options = self.options
        self._multiplier, self._velocity = 0.0, {}
        self._start = ctx.frozen_copy()
        params = ctx.parameters(options.tower)
        steps = max(2, ctx.steps_of_fit(options))
        first = min(max(1, round(options.first_share * steps)), steps - 1)

        def settle(step: int) -> None:
            self._multiplier += options.mu * self._constraint

        ctx.fit(self.climb, options, steps=first, params=params.values(), after_step=settle)
        ctx.log(multiplier=self._multiplier)
        self._climbed = ctx.frozen_copy()
        # The projection holds for plain steps alone: AdamW would turn them.
        plain = {"lr": options.restore_lr, "optimizer": "sgd", "beta1": 0.0, "weight_decay": 0.0}
        ctx.fit(
            self.restore,
            options.model_copy(update=plain),
            steps=steps - first,
            params=params.values(),
            combine=self.projected,
        )

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of both stages together, at least one for each."""
        sizes = meter.batch_sizes(self.options, rows)
        steps = max(2, meter.steps(self.options, rows))
        for role, size in sizes.items():
            meter.check(role, steps * size)
        return steps

    def climb(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """`-gamma clipped(L_forget) + lambda c + mu/2 c^2` with `c = L_remote(theta) - L_remote(theta_0)` (equations 2 to 4)."""
        options = self.options
        forget = -options.gamma * clipped(losses_of(model(batch.forget), batch.forget), options.ceiling)
        remote = batch.retain.take((~self._near(batch)).nonzero().flatten())
        with torch.no_grad():
            pinned = contrastive_loss(*self._start(remote))
        constraint = contrastive_loss(*model(remote)) - pinned
        self._constraint = float(constraint.detach())
        return {"forget": forget, "pin": self._multiplier * constraint + options.mu / 2 * constraint.square()}

    def restore(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The three losses whose gradients `projected` settles between."""
        alpha = self.options.alpha
        near = self._near(batch)
        now = -losses_of(model(batch.forget), batch.forget)
        with torch.no_grad():
            then = -losses_of(self._climbed(batch.forget), batch.forget)
        return {
            "forget": (1 - alpha) * now.mean() + alpha * sorted_distance(now, then),
            "near": contrastive_loss(*model(batch.retain.take(near.nonzero().flatten()))),
            "remote": contrastive_loss(*model(batch.retain.take((~near).nonzero().flatten()))),
        }

    def projected(self, terms: Mapping[str, Gradients]) -> dict[str, Tensor]:
        """The momentum of the near gradient without its parts along the forget and the remote gradient."""
        velocity = {
            name: gradient + self.options.momentum * self._velocity[name] if name in self._velocity else gradient
            for name, gradient in terms["near"].items()
        }
        self._velocity = project_off(velocity, terms["forget"], terms["remote"])
        return {name: tensor.clone() for name, tensor in self._velocity.items()}

    def state(self) -> dict[str, Tensor]:
        """The multiplier of the first stage and the momentum of the second."""
        kept = {f"velocity.{name}": tensor for name, tensor in self._velocity.items()}
        return {"multiplier": torch.tensor(self._multiplier, dtype=torch.float64), **kept}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._multiplier = float(state["multiplier"])
        self._velocity = {n.removeprefix("velocity."): t for n, t in state.items() if n.startswith("velocity.")}

    def _near(self, batch: Batch) -> Bool[Tensor, " rows"]:
        """Which retain pairs of a step look like its forget pairs to the model that unlearning starts from."""
        with torch.no_grad():
            retain, forget = self._start(batch.retain).image, self._start(batch.forget).image
        return near_rows(retain, forget, self.options.near)


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """The method of both stages."""
    return [RetainForgetEntanglement]
