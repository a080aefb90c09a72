"""Caption null space: take the directions along which forget captions differ out of an encoder's final projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salmu_core import (
    Between,
    DualEncoder,
    Field,
    OneOf,
    Options,
    Pairs,
    Role,
    SalmuError,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)

Tower = Literal["image", "text"]

# ---------------------------------------------------------------- formulas


def covariance(
    products: Float[Tensor, "dim dim"], total: Float[Tensor, " dim"], rows: Float[Tensor, ""]
) -> Float[Tensor, "dim dim"]:
    """The covariance of vectors, from the sums of their outer products and of themselves."""
    mean = total / rows
    return products / rows - torch.outer(mean, mean)


def top_directions(symmetric: Float[Tensor, "dim dim"], rank: int) -> Float[Tensor, "dim rank"]:
    """Orthonormal eigenvectors of the `rank` largest eigenvalues, as columns, the largest first."""
    _, vectors = torch.linalg.eigh(symmetric)
    largest: Tensor = vectors.flip(dims=(1,))[:, :rank]
    return largest


def without(symmetric: Float[Tensor, "dim dim"], basis: Float[Tensor, "dim kept"]) -> Float[Tensor, "dim dim"]:
    """A covariance with the span of an orthonormal basis taken out: `Q C Q` with `Q = I - B B^T`."""
    rest = symmetric - basis @ (basis.T @ symmetric)
    return rest - (rest @ basis) @ basis.T


def project_out(rows: Float[Tensor, "n dim"], basis: Float[Tensor, "dim rank"], alpha: float) -> Float[Tensor, "n dim"]:
    """`rows (I - alpha U U^T)`: the partial projection of CCUP (arXiv 2512.14137), as its abstract describes it."""
    return rows - alpha * (rows @ basis) @ basis.T


# ---------------------------------------------------------------- where it is folded in


@dataclass(frozen=True)
class Projection:
    """The last linear map of an encoder.

    Attributes:
        matrix: (inputs, outputs) where the encoder multiplies with it, or a layer's weight (outputs, inputs).
        bias: of a layer.
        outputs_first: it is a layer's weight.
    """

    matrix: Tensor
    bias: Tensor | None = None
    outputs_first: bool = False

    @torch.no_grad()
    def fold(self, basis: Tensor, alpha: float) -> None:
        """Let the map's results be multiplied with `I - alpha U U^T`."""
        weight = self.matrix.T if self.outputs_first else self.matrix
        result = project_out(weight.double(), basis.to(weight.device), alpha).to(weight.dtype)
        self.matrix.copy_(result.T if self.outputs_first else result)
        if self.bias is not None:
            self.bias.copy_(project_out(self.bias.double()[None], basis.to(weight.device), alpha)[0].to(weight.dtype))


#: Where open_clip's encoders keep their last linear map.
_PLACES: dict[Tower, tuple[str, ...]] = {
    "image": ("visual.proj", "visual.attnpool.c_proj", "visual.head"),
    "text": ("text_projection", "text.text_projection", "text.proj"),
}


def final_projection(model: DualEncoder, tower: Tower) -> Projection:
    """The last linear map of an encoder, whose results are normalised and nothing else.

    Raises:
        SalmuError: the encoder has no such projection.
    """
    for place in _PLACES[tower]:
        found: object = model.clip
        for part in place.split("."):
            found = getattr(found, part, None)
        if isinstance(found, nn.Sequential) and len(found) > 0:
            found = found[-1]
        if isinstance(found, nn.Parameter):
            return Projection(found)
        if isinstance(found, nn.Linear):
            return Projection(found.weight, found.bias, outputs_first=True)
    other = "text" if tower == "image" else "image"
    raise SalmuError(
        f"caption-null-space finds no final projection in the {tower} encoder of this architecture.",
        f"It knows those of open_clip's transformers and ResNets, and linear heads of timm and Hugging Face encoders. Project"
        f" the other encoder with --set tower={other}.",
    )


# ---------------------------------------------------------------- the methods


class NullSpaceOptions(Options):
    """Options of caption-null-space."""

    rank: int = Field(8, ge=0, description="directions that are taken out, at most one less than the embedding has")
    alpha: float = Field(1.0, ge=0, le=1, description="share of each direction that is taken out")
    batch_size: int = Field(256, ge=1, description="captions per forward pass; does not change the result")
    tower: Literal["both", "image", "text"] = Field("image", description="encoders whose embeddings lose the directions")


class CaptionNullSpace(UnlearningMethod):
    """Take the main directions of forget captions out of the embeddings of images, captions, or both."""

    name = "caption-null-space"
    summary = "Project the main directions of forget captions out of the final projection of an encoder."
    family = "closed form"
    paper = "https://arxiv.org/abs/2512.14137"
    data: tuple[Role, ...] = ("forget",)
    fewest_rows = 2
    search = {"rank": OneOf((1, 2, 4, 8, 16, 32)), "alpha": Between(0.1, 1, log=False)}
    Options = NullSpaceOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Embed the forget captions once, find their directions, and change the projection."""
        options = self.options
        towers: tuple[Tower, ...] = ("image", "text") if options.tower == "both" else (options.tower,)
        projections = [final_projection(ctx.model, tower) for tower in towers]  # before anything is computed
        products, total, rows = caption_moments(ctx, "forget", options.batch_size)
        spread = covariance(products, total, rows)
        kept = self.protected(ctx, len(total))
        if options.rank + kept.shape[1] >= len(total):
            raise SalmuError(
                f"The embedding has {len(total)} directions: {options.rank} cannot be taken out"
                + (f" and {kept.shape[1]} protected." if kept.shape[1] else "."),
                "Lower rank.",
            )
        basis = top_directions(without(spread, kept), options.rank)
        for projection in projections:
            projection.fold(basis, options.alpha)
        ctx.log(explained=float((basis * (spread @ basis)).sum() / spread.trace()))

    def protected(self, ctx: UnlearnContext, dim: int) -> Float[Tensor, "dim kept"]:
        """Directions that are left alone: none."""
        return torch.zeros(dim, 0, dtype=torch.float64, device=ctx.model.device)


class ProtectedNullSpaceOptions(NullSpaceOptions):
    """Options of caption-null-space-retain."""

    protect: int = Field(4, ge=0, description="main directions of retain captions, their mean among them, that stay")


class CaptionNullSpaceRetain(CaptionNullSpace):
    """The same, with the main directions of retain captions left alone."""

    name = "caption-null-space-retain"
    summary = "Project the main directions of forget captions out, except what retain captions mainly use."
    data = ("forget", "retain")
    fewest_rows = 2
    search = {**CaptionNullSpace.search, "protect": OneOf((2, 4, 8, 16))}
    Options = ProtectedNullSpaceOptions

    def protected(self, ctx: UnlearnContext, dim: int) -> Float[Tensor, "dim kept"]:
        """The main directions of retain captions around 0, so that what they have in common is the first of them."""
        products, _, rows = caption_moments(ctx, "retain", self.options.batch_size)
        return top_directions(products / rows, min(self.options.protect, dim))


def caption_moments(
    ctx: UnlearnContext, split: Literal["forget", "retain"], batch_size: int
) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, " dim"], Float[Tensor, ""]]:
    """Sums of outer products and of unit-length caption embeddings, and their number: one pass over a split, or over as many
    rows as the budget holds."""

    def measure(pairs: Pairs) -> dict[str, Tensor]:
        # The encoder itself, not model(pairs): images are not needed.
        text = ctx.model.encode_text(pairs.text).double()
        return {"products": text.T @ text, "total": text.sum(dim=0), "rows": text.new_tensor(len(text))}

    sums = ctx.accumulate(measure, split, batch_size, rows=ctx.affordable_rows(split), shuffle=True)
    return sums["products"], sums["total"], sums["rows"]


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Projecting captions out, without and with protected directions."""
    return [CaptionNullSpace, CaptionNullSpaceRetain]
