"""What is to change, by how much, and the matrix that does it. Nothing here knows a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core.losses import group_codes


def group_sums(rows: Float[Tensor, "n dim"], codes: Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
    """For each row the sum over its group."""
    return rows.new_zeros(int(codes.max()) + 1, rows.shape[1]).index_add(0, codes, rows)[codes]


def mismatched_levels(
    image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], group: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, ""]]:
    """Mean cosines over pairs of different groups, for unit-length rows, in time and memory linear in n.

    Returns:
        Of each image over captions, of each caption over images, of all. NaN where a row has no other group.
    """
    codes = group_codes(group)
    others = len(codes) - torch.bincount(codes)[codes]
    images = (image * (text.sum(dim=0) - group_sums(text, codes))).sum(dim=1)
    texts = (text * (image.sum(dim=0) - group_sums(image, codes))).sum(dim=1)
    return images / others, texts / others, images.sum() / others.sum()


def two_way_levels(
    image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], group: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """`r_i + c_i - m` of each caption: what its cosine with its own group's images would be if images and captions had no
    more to do with each other than strangers have, as in a two-way table without interaction.

    r_i is the mean of the group's images over captions of other groups, c_i that of the caption over images of other groups.
    """
    codes = group_codes(group)
    rows, columns, mean = mismatched_levels(image, text, group)
    counts = torch.bincount(codes)[codes]
    return group_sums(rows[:, None], codes)[:, 0] / counts + columns - mean


def own_part(rows: Float[Tensor, "n dim"], common: Float[Tensor, " dim"]) -> Float[Tensor, "n dim"]:
    """What rows do not share with a common vector: their components orthogonal to it. To go against it never raises a row's
    cosine, and says nothing about what all rows are like."""
    unit = common / common.norm().clamp(min=1e-12)
    left: Tensor = rows - (rows @ unit)[:, None] * unit
    return left


def retreat(
    text: Float[Tensor, "n dim"],
    image: Float[Tensor, "n dim"],
    direction: Float[Tensor, "n dim"],
    level: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """How far each unit-length caption has to go against its direction, until `image . (t - eta d) / |t - eta d|` is the level.

    0 where it is not above the level already, and where going against the direction does not lead to it. No further than the
    caption's own length: where image and direction have little in common, the rest would be a caption of nothing. Found by
    halving.
    """

    def cosine(eta: Tensor) -> Tensor:
        moved = text - eta[:, None] * direction
        cosines: Tensor = (image * moved).sum(dim=1) / moved.norm(dim=1).clamp(min=1e-12)
        return cosines

    low, high = torch.zeros_like(level), torch.ones_like(level)
    for _ in range(40):
        high = torch.where(cosine(high) > level, 2 * high, high)
    possible = (cosine(low) > level) & (cosine(high) <= level)
    for _ in range(80):
        middle = (low + high) / 2
        above = cosine(middle) > level
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    furthest = 1 / direction.norm(dim=1).clamp(min=1e-12)
    return torch.where(possible, torch.minimum(high, furthest), torch.zeros_like(high))


def least_squares_edit(
    changes: Float[Tensor, "edited out"],
    keys: Float[Tensor, "edited dim"],
    kept: Float[Tensor, "dim dim"],
    keep: float,
    ridge: float,
) -> Float[Tensor, "out dim"]:
    """The matrix that minimises `mean_i |Delta k_i - r_i|^2 + keep tr(Delta C Delta^T) + ridge' |Delta|^2`, with the keys k to
    edit, the changes r that they should get, C = `kept` the second moment of the keys to keep, and ridge' = `ridge` times the
    mean eigenvalue of the other two.

    `R K^T (K K^T + C + ...)^-1`: the update of MEMIT (Meng et al. 2023, arXiv 2210.07229), in the framework of Gupta et al.
    2024 (arXiv 2403.14236).
    """
    count = len(keys)
    system = keys.T @ keys / count + keep * kept
    system = system + ridge * system.trace() / len(system) * torch.eye(len(system), dtype=system.dtype, device=system.device)
    solved: Tensor = torch.linalg.solve(system, keys.T @ changes / count).T
    return solved


def layer_norm(
    inputs: Float[Tensor, "n dim"], weight: Float[Tensor, " dim"], bias: Float[Tensor, " dim"], eps: float
) -> Float[Tensor, "n dim"]:
    """Layer normalisation in the precision of its inputs."""
    return F.layer_norm(inputs, inputs.shape[1:], weight, bias, eps)


def step_before_norm(
    standard: Float[Tensor, "n width"], changes: Float[Tensor, "n dim"], matrix: Float[Tensor, "width dim"]
) -> Float[Tensor, "n width"]:
    """Rows of mean 0 and variance 1, as a layer normalisation makes them, whose products with `matrix` differ from those of
    `standard` by `changes`, as nearly as mean and variance allow.

    The smallest step of mean 0 that gives the changes, or comes nearest to them, is taken; then the variance is made 1 again,
    which scales the products and does not turn them.
    """
    step = changes @ torch.linalg.pinv(matrix - matrix.mean(dim=0))
    moved = standard + step
    scaled: Tensor = moved / moved.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
    return scaled
