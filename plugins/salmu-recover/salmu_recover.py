"""Propose, then project: let any method forget, then go back towards the start as far as forgetting allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import pair_cosine

# ---------------------------------------------------------------- formulas


def squared_distance(now: Sequence[Float[Tensor, ...]], start: Sequence[Float[Tensor, ...]]) -> Float[Tensor, ""]:
    """`sum ||theta - theta_0||^2` over tensors."""
    return torch.stack([(a - b).square().sum() for a, b in zip(now, start, strict=True)]).sum()


def violation(cosine: Float[Tensor, " batch"], target: float) -> Float[Tensor, ""]:
    """`mean_i max(0, s_i - target)`: by how much pairs are more alike than they may be. A pair that is less alike does not make up
    for one that is more."""
    return (cosine - target).clamp(min=0).mean()


def lagrangian(
    drift: Float[Tensor, ""], excess: Float[Tensor, ""], multiplier: float, mu: float
) -> dict[str, Float[Tensor, ""]]:
    """The augmented Lagrangian of "least drift with no excess": `drift + lambda c + mu/2 c^2`."""
    return {"drift": drift, "forget": multiplier * excess + mu / 2 * excess.square()}


def next_multiplier(multiplier: float, excess: float, mu: float, slack: float) -> float:
    """`max(0, lambda + mu (c - slack))`: the pressure rises while pairs are too much alike, and falls when they no longer are.

    Example:
        >>> round(next_multiplier(1.0, 0.03, 10.0, 0.01), 6), next_multiplier(0.05, 0.0, 10.0, 0.01)
        (1.2, 0.0)
    """
    return max(0.0, multiplier + mu * (excess - slack))


# ---------------------------------------------------------------- the method


class RecoverOptions(FitOptions):
    """Options of recover. Those of the loop are the second stage's."""

    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate of the way back")
    inner: str = Field("gradient-ascent-retain", description="the method that proposes; any")
    inner_options: dict[str, Any] = Field(default_factory=dict, description="its options, as JSON")
    share: float = Field(
        0.5, gt=0, lt=1, description="share of the steps that the inner method is given, if it takes epochs"
    )
    target: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="cosine that forget pairs may have; none: that of other people's captions at the start",
    )
    slack: float = Field(0.01, ge=0, description="mean excess over the target at which the pressure stops rising")
    mu: float = Field(10.0, ge=0, description="penalty of the augmented Lagrangian, and step of its multiplier")
    check_rows: int = Field(
        256, ge=2, description="forget pairs that the target is measured on; at most a tenth of the budget"
    )


class Recover(UnlearningMethod):
    """Let another method forget, then minimise the distance from the start while forget pairs stay as unrelated as others are."""

    name = "recover"
    summary = (
        "Let another method forget, then go back towards the start while forget cosines stay low (propose, then project)."
    )
    family = "retain finetuning"
    data = ("forget", "retain")
    columns = ("identity_id",)
    search = {"lr": Between(1e-6, 3e-3), "share": Between(0.2, 0.8, log=False), "mu": Between(1, 100)}
    Options = RecoverOptions

    _multiplier: float = 0.0
    _excess: float = 0.0

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Propose, then project."""
        options = self.options
        self._multiplier = 0.0
        params = ctx.parameters(options.tower)
        start = ctx.weights(params)
        # The mean of fewer than 8 says little.
        check = ctx.affordable_rows("forget", options.check_rows, parts=10, least=8)
        target = ctx.unrelated_similarity(check) if options.target is None else options.target
        given = options.inner_options
        if (
            options.tower != "both"
            and "tower" not in given
            and "tower" in type(ctx.method(options.inner, given).options).model_fields
        ):
            given = {**given, "tower": options.tower}
        left = {role: ctx.budget_left(role) for role in self.data}
        kept = {role: count - int(options.share * count) for role, count in left.items() if count is not None}
        ctx.delegate(ctx.method(options.inner, given), reserved=kept)
        way = float(squared_distance([parameter.detach() for parameter in params.values()], list(start.values())))
        if way == 0:
            raise SalmuError(
                f"{options.inner} left the weights as they were, so there is no way back.", "Raise its rate, or its share."
            )

        def loss(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
            image, text, _ = model(batch.forget)
            excess = violation(pair_cosine(image, text), target)
            self._excess = float(excess.detach())
            drift = squared_distance([model.weight_in_use(name) for name in start], list(start.values())) / way
            return lagrangian(drift, excess, self._multiplier, options.mu)

        def settle(step: int) -> None:
            self._multiplier = next_multiplier(self._multiplier, self._excess, options.mu, options.slack)

        ctx.fit(loss, options, params=params.values(), splits=("forget",), after_step=settle)
        apart = float(squared_distance([parameter.detach() for parameter in params.values()], list(start.values())))
        ctx.log(target=target, multiplier=self._multiplier, way_left=(apart / way) ** 0.5)

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of both stages, at most."""
        meter.check("forget", 3)  # the target, and a step of either stage
        return super().planned_steps(rows, meter, make_method)

    def state(self) -> dict[str, Tensor]:
        """The multiplier."""
        return {"multiplier": torch.tensor(self._multiplier, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self._multiplier = float(state["multiplier"])


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Recover."""
    return [Recover]
