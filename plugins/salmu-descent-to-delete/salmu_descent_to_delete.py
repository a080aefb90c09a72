"""Descent-to-Delete: publish the weights with the Gaussian noise that its theorem asks for. A negative control."""

from __future__ import annotations

import math
from typing import Literal

import torch

from salmu_core import Between, Field, Options, UnlearnContext, UnlearningMethod, hookimpl


def noise_deviation(
    lipschitz: float,
    smoothness: float,
    convexity: float,
    dataset_size: int,
    iterations: int,
    epsilon: float,
    delta: float,
) -> float:
    """The standard deviation of the noise that hides what was deleted: theorem 3.1 of Neel et al. 2021 (arXiv 2007.02923),

        4 sqrt(2) L g^I / ( m n (1 - g^I) (sqrt(ln(1/delta) + epsilon) - sqrt(ln(1/delta))) ),   g = (b - m) / (b + m).

    It holds for a loss that is L-Lipschitz, b-smooth and m-strongly convex, and after I steps of gradient descent on the n
    points that stay. None of that is true of CLIP.
    """
    contraction = ((smoothness - convexity) / (smoothness + convexity)) ** iterations
    budget = math.sqrt(math.log(1 / delta) + epsilon) - math.sqrt(math.log(1 / delta))
    return 4 * math.sqrt(2) * lipschitz * contraction / (convexity * dataset_size * (1 - contraction) * budget)


class DescentToDeleteOptions(Options):
    """Options of descent-to-delete."""

    sigma: float | None = Field(None, ge=0, description="standard deviation of the noise; none: from the options below")
    dataset_size: int = Field(400_000_000, ge=2, description="pairs that the model was trained on")
    weight_decay: float = Field(1e-3, gt=0, lt=2, description="w in L = 1 + w, b = 4 - w, m = w")
    iterations: int = Field(1, ge=1, description="steps of gradient descent that the formula assumes")
    epsilon: float = Field(5.0, gt=0, description="first of the two numbers of the guarantee")
    delta: float | None = Field(None, gt=0, lt=1, description="second; none: 1 / dataset_size²")
    tower: Literal["both", "image", "text"] = Field("both", description="which encoder gets noise")


class DescentToDelete(UnlearningMethod):
    """Add Gaussian noise to all weights and look at no data."""

    name = "descent-to-delete"
    summary = "Add the Gaussian noise of Descent-to-Delete's theorem to the weights; sees no data."
    family = "baseline"
    paper = "https://arxiv.org/abs/2007.02923"
    data = ()
    search = {"sigma": Between(1e-5, 1e-1)}
    Options = DescentToDeleteOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Add the noise, drawn for each tensor on its own."""
        sigma = self.sigma()
        params = ctx.parameters(self.options.tower)
        with torch.no_grad():
            for name, parameter in params.items():
                noise = torch.randn(parameter.shape, generator=ctx.generator("noise", name))
                parameter.add_(sigma * noise.to(parameter.device))
        ctx.log(sigma=sigma)

    def sigma(self) -> float:
        """The deviation that was given, or the theorem's."""
        options = self.options
        if options.sigma is not None:
            return float(options.sigma)
        return noise_deviation(
            lipschitz=1 + options.weight_decay,
            smoothness=4 - options.weight_decay,
            convexity=options.weight_decay,
            dataset_size=options.dataset_size,
            iterations=options.iterations,
            epsilon=options.epsilon,
            delta=options.dataset_size**-2 if options.delta is None else options.delta,
        )


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Descent-to-Delete."""
    return [DescentToDelete]
