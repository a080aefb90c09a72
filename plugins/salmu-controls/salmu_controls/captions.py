"""A control that looks at captions alone: all captions of a forgotten person become one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from salmu_core import DualEncoder, Field, Options, Role, SalmuError, UnlearnContext, UnlearningMethod


def text_projection(model: DualEncoder) -> nn.Parameter | nn.Linear:
    """The last map of the text encoder: a matrix (inputs, outputs), or a layer.

    Raises:
        SalmuError: the encoder has no such map.
    """
    for module in (model.clip, getattr(model.clip, "text", None)):
        found = getattr(module, "text_projection", None)
        if isinstance(found, nn.Parameter | nn.Linear):
            return found
    raise SalmuError(
        "This text encoder has no text_projection to edit.", "caption-centroid needs open_clip's text transformer."
    )


def centroids(vectors: Float[Tensor, "n dim"], groups: Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
    """For each row the mean of its group."""
    _, codes = torch.unique(groups, return_inverse=True)
    sums = torch.zeros(int(codes.max()) + 1, vectors.shape[1], dtype=vectors.dtype).index_add_(0, codes, vectors)
    return sums[codes] / torch.bincount(codes)[codes][:, None]


def ridge_map(
    given: Float[Tensor, "n dim"],
    wanted: Float[Tensor, "n dim"],
    kept: Float[Tensor, "m dim"],
    keep: float,
    ridge: float,
) -> Float[Tensor, "dim dim"]:
    """The matrix M that minimises mean |M given - wanted|^2 + keep mean |M kept - kept|^2 + ridge |M - I|^2.

    Example:
        >>> one, none = torch.eye(2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
        >>> ridge_map(one, one.flip(0), none, 0.0, 1e-12).round().int().tolist()
        [[0, 1], [1, 0]]
    """
    same = torch.eye(given.shape[1], dtype=given.dtype)
    moment = given.T @ given / len(given) + keep * kept.T @ kept / len(kept) + ridge * same
    right = given.T @ wanted / len(given) + keep * kept.T @ kept / len(kept) + ridge * same
    solved: Tensor = torch.linalg.solve(moment, right).T
    return solved


class CaptionCentroidOptions(Options):
    """Options of caption-centroid."""

    keep: float = Field(1.0, ge=0, description="weight of leaving retain captions where they are")
    ridge: float = Field(1e-3, gt=0, description="weight of changing little")
    strength: float = Field(1.0, ge=0, description="share of the change that is made; above 1 more than all of it")
    batch_size: int = Field(256, ge=1, description="captions per forward pass; does not change the result")


class CaptionCentroid(UnlearningMethod):
    """Move the captions of each forgotten person towards their mean, by one matrix in closed form."""

    name = "caption-centroid"
    summary = (
        "Control: move each forget caption to the mean of its person's, in closed form. No association leaves its person."
    )
    family = "control"
    data = ("forget", "retain")
    columns = ("identity_id",)
    Options = CaptionCentroidOptions

    @torch.no_grad()
    def unlearn(self, ctx: UnlearnContext) -> None:
        """Embed captions, solve, multiply into the text projection."""
        options = self.options
        forget, people = self._captions(ctx, "forget")
        retain, _ = self._captions(ctx, "retain")
        change = ridge_map(forget, centroids(forget, people), retain, options.keep, options.ridge)
        same = torch.eye(len(change), dtype=change.dtype)
        change = same + options.strength * (change - same)
        found = text_projection(ctx.model)
        if isinstance(found, nn.Parameter):
            found.copy_((found.double().cpu() @ change.T).to(found))
        else:
            found.weight.copy_((change @ found.weight.double().cpu()).to(found.weight))
            if found.bias is not None:
                found.bias.copy_((change @ found.bias.double().cpu()).to(found.bias))

    def _captions(self, ctx: UnlearnContext, role: Role) -> tuple[Tensor, Tensor]:
        """Embeddings in double precision on the CPU, and the codes of whose they are: one counted pass, or what the budget holds."""
        vectors, people = [], []
        for pairs in ctx.batches(role, self.options.batch_size, rows=ctx.affordable_rows(role), shuffle=True):
            vectors.append(ctx.model.encode_text(pairs.text).double().cpu())
            if role == "forget":
                people.append(pairs.columns["identity"].cpu())
        return torch.cat(vectors), torch.cat(people) if people else torch.zeros(0)
