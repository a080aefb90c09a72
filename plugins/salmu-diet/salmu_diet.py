"""DIET: push forget embeddings to captions that are not theirs, at the boundary of hyperbolic space; sees no retain pairs."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    LossMethod,
    MakeMethod,
    OneOf,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.errors import BadData
from salmu_core.losses import group_mask

_FAR = 1e3  # costs of a pair that must not be: no plan takes it, and exp(-_FAR) is 0

# ---------------------------------------------------------------- formulas


def into_ball(rows: Float[Tensor, "rows dim"], longest: float) -> Float[Tensor, "rows dim"]:
    """Embeddings in the Poincare ball of curvature -1: cut to a length, then `tanh(|v|) v / |v|`, the exponential map at 0."""
    lengths = rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    cut = lengths.clamp(max=longest)
    moved: Tensor = torch.tanh(cut) * rows / lengths
    return moved


def busemann(points: Float[Tensor, "rows dim"], ideal: Float[Tensor, "prototypes dim"]) -> Float[Tensor, "rows prototypes"]:
    """`log(|p - z|^2 / (1 - |z|^2))`: the distance of points of the ball from each point of its boundary, up to a constant (Busemann's
    function; loss and cost of DIET, AAAI 2026).

    Args:
        ideal: rows of unit length.

    Example:
        >>> busemann(torch.tensor([[0.5, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])).round(decimals=4).tolist()
        [[-1.0986, 0.5108]]
    """
    squares = points.square().sum(dim=1, keepdim=True)
    apart = 1 + squares - 2 * points @ ideal.T  # |p|^2 is 1
    return (apart.clamp(min=1e-6)).log() - (1 - squares).clamp(min=1e-6).log()


@torch.no_grad()
def sinkhorn(cost: Float[Tensor, "rows columns"], epsilon: float, iterations: int = 100) -> Float[Tensor, "rows columns"]:
    """The entropic transport plan between uniform marginals: rows sum to 1/rows, columns to 1/columns (Cuturi 2013, arXiv 1306.0895),
    in the logarithm. The rows' marginal is exact, the columns' up to what is left after so many iterations."""
    kernel = -cost / epsilon
    rows, columns = (math.log(size) for size in cost.shape)
    left, right = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
    for _ in range(iterations):
        right = -columns - (kernel + left[:, None]).logsumexp(dim=0)
        left = -rows - (kernel + right[None, :]).logsumexp(dim=1)
    return (kernel + left[:, None] + right[None, :]).exp()


def diet_terms(
    points: Float[Tensor, "rows dim"],
    ideal: Float[Tensor, "rows dim"],
    own: Bool[Tensor, "rows rows"],
    epsilon: float,
    margin: float,
) -> dict[str, Float[Tensor, ""]]:
    """DIET's three terms for a batch: `boundary`, the mean distance from the prototype that transport assigns to each row and that is
    not its own; `transport`, what the plan costs; `repel`, `mean max(0, margin - distance)` from all other prototypes, the own ones
    among them."""
    distance = busemann(points, ideal)
    plan = sinkhorn(distance.detach().masked_fill(own, _FAR), epsilon)
    assigned = torch.zeros_like(own).scatter_(1, plan.argmax(dim=1, keepdim=True), True)
    return {
        "boundary": distance[assigned].mean(),
        "transport": (plan * distance).masked_fill(own, 0).sum(),
        "repel": (margin - distance[~assigned]).clamp(min=0).mean(),
    }


# ---------------------------------------------------------------- the method


class DietOptions(FitOptions):
    """Options of diet."""

    lr: float = Field(9e-4, gt=0, le=10, description="peak learning rate")
    batch_size: int = Field(32, ge=2, description="pairs per step; their captions are the prototypes")
    weight_decay: float = Field(1e-5, ge=0, description="decoupled; never on biases, norms and other 1-D tensors")
    tower: Literal["image"] = Field("image", description="only the image encoder is trained: captions are the prototypes")
    adapter: Literal["lora"] | None = Field("lora", description="train low-rank adapters and merge them; none: the weights")
    adapter_rank: int = Field(4, ge=1, description="rank of an adapter")
    adapter_alpha: float = Field(1.0, gt=0, description="what adapters add is multiplied with alpha / rank")
    adapter_layers: Literal["blocks", "attention", "mlp", "all"] = Field(
        "attention", description="matrices that get an adapter"
    )
    boundary_weight: float = Field(30.0, ge=0, description="weight of the distance from the assigned prototype")
    transport_weight: float = Field(1.0, ge=0, description="weight of the transport plan's cost")
    repel_weight: float = Field(20.0, ge=0, description="weight of the hinge on the distance from all other prototypes")
    margin: float = Field(1.0, description="distance below which a prototype repels")
    epsilon: float = Field(0.5, gt=0, description="entropic regularisation of the transport")
    longest: float = Field(1.0, gt=0, description="length that embeddings are cut to before they are mapped into the ball")


class Diet(LossMethod):
    """Lead forget images to captions of other associations, without a look at retain pairs."""

    name = "diet"
    summary = (
        "Push forget images to other associations' captions at the boundary of hyperbolic space; no retain pairs (DIET)."
    )
    family = "negative pairs"
    paper = "https://ojs.aaai.org/index.php/AAAI/article/view/39431"
    data = ("forget",)
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-5, 1e-2), "repel_weight": Between(1, 100), "adapter_rank": OneOf((2, 4, 8, 16))}
    Options = DietOptions

    _start: DualEncoder

    def check_forget(self, rows: int, identities: int, make_method: MakeMethod) -> None:
        """Images are led to captions of other forget pairs."""
        if rows < 2:
            raise BadData(
                f"diet leads forget images to captions of other forget pairs, and forget holds {rows}.",
                "Choose another method (`salmu list-methods`), or let it forget more at once.",
            )

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the text encoder that gives the prototypes."""
        self._start = ctx.frozen_copy()

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The three terms on a forget batch."""
        options = self.options
        image = model(batch.forget).image
        with torch.no_grad():
            ideal = self._start(batch.forget).text
        own = group_mask(batch.forget.columns["association"]).to(image.device)
        terms = diet_terms(into_ball(image, options.longest), ideal, own, options.epsilon, options.margin)
        weights = (options.boundary_weight, options.transport_weight, options.repel_weight)
        return {name: weight * term for weight, (name, term) in zip(weights, terms.items(), strict=True)}


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """DIET."""
    return [Diet]
