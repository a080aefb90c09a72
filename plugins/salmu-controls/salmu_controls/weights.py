"""Controls of whole models: noise as large as a method's change, and the Clean model itself."""

from __future__ import annotations

import torch
from torch import Tensor

from salmu_core import Field, Options, Role, UnlearnContext, UnlearningMethod


def noise_like(change: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise with the L2 norm of `change`, in its shape.

    Example:
        >>> noise = noise_like(torch.tensor([3.0, 4.0]), torch.Generator().manual_seed(0))
        >>> round(float(noise.norm()), 4)
        5.0
    """
    noise = torch.randn(change.shape, generator=generator, dtype=torch.float64)
    norm = noise.norm()
    return (noise * (change.detach().double().cpu().norm() / norm if norm > 0 else 0.0)).to(change)


class MatchedNoiseOptions(Options):
    """Options of matched-noise."""

    method: str | None = Field(
        None, description="an installed method, with its defaults, whose change is matched tensor by tensor; none: `size`"
    )
    size: float = Field(0.05, ge=0, description="without a method: norm of the noise over the norm of each tensor")


class MatchedNoise(UnlearningMethod):
    """Noise of the size of what a method changes, in place of the change."""

    name = "matched-noise"
    summary = "Control: random noise in every tensor, as large as a given method's change, or of a given relative size."
    family = "control"
    data = ("forget", "retain")
    Options = MatchedNoiseOptions

    def reads(self) -> tuple[Role, ...]:
        """Nothing where only a size is given."""
        return self.data if self.options.method is not None else ()

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Let the method run, take its change back, and put noise of the same norm in each tensor."""
        parameters = ctx.parameters()
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        if self.options.method is not None:
            ctx.delegate(ctx.method(self.options.method, {}))
        generator = ctx.generator("noise")
        with torch.no_grad():
            for name, parameter in parameters.items():
                start = before[name]
                change = self.options.size * start if self.options.method is None else parameter - start
                parameter.copy_(start + noise_like(change, generator))


class CleanOracle(UnlearningMethod):
    """Hand back the model that never saw the sensitive pairs."""

    name = "clean-oracle"
    summary = (
        "Control: the Clean model itself, which has forgotten everything sensitive, the holdouts too. It has to score 0."
    )
    family = "control"
    data = ()
    oracle = True

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Copy Clean's weights."""
        clean = ctx.clean_model()
        with torch.no_grad():
            for own, other in zip(ctx.model.parameters(), clean.parameters(), strict=True):
                own.copy_(other)
            for kept, value in zip(ctx.model.buffers(), clean.buffers(), strict=True):
                kept.copy_(value)
