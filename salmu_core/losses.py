"""Pure loss functions shared by methods. Inputs are unit-length embeddings of a global batch; nothing here knows a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from salmu_core.data.pairs import Features, Pairs


def contrastive_loss(
    image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"], scale: Float[Tensor, ""] | float
) -> Float[Tensor, ""]:
    """The symmetric InfoNCE loss of CLIP (Radford et al. 2021, arXiv 2103.00020, figure 3): the mean of the image-to-text
    and the text-to-image cross-entropy, with the diagonal as the only positives.

    Args:
        image, text: unit-length rows; row i of one belongs to row i of the other.
        scale: what the cosines are multiplied with (exp of CLIP's `logit_scale`).
    """
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def pairs_loss(model: Callable[[Pairs], Features], pairs: Pairs) -> Float[Tensor, ""]:
    """CLIP's own loss, which the model was trained with, on a batch: what importances of weights are measured with."""
    return contrastive_loss(*model(pairs))


def pair_losses(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "batch dim"],
    scale: Float[Tensor, ""] | float,
    same: Bool[Tensor, "batch batch"],
) -> Float[Tensor, " batch"]:
    """Per pair, `-1/2 [ log q(caption | image) + log q(image | caption) ]`: CLIP's loss (Radford et al. 2021, arXiv 2103.00020)
    row by row.

    Args:
        same: candidates that are the row's own pair. But for the pair itself they are left out of both softmaxes: a
            paraphrase is not an alternative.
    """
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)
    logits = (scale * image @ text.T).masked_fill(same & ~own, -torch.inf)
    return (logits.logsumexp(dim=1) + logits.logsumexp(dim=0)) / 2 - logits.diagonal()


def pair_cosine(image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, " batch"]:
    """Cosine of each pair, for unit-length rows."""
    return (image * text).sum(dim=-1)


def group_mask(association: Int[Tensor, " batch"]) -> Bool[Tensor, "batch batch"]:
    """True where two rows are the same pair: the diagonal, and rows that share an association.

    Several images and paraphrases express one association; a loss that treats them as negatives of each other teaches the
    very thing it should remove. Rows without an association (-1) match only themselves.
    """
    rows = torch.arange(len(association), device=association.device)
    return same_pair(association, rows, association, rows)


def same_pair(
    association: Int[Tensor, " rows"],
    index: Int[Tensor, " rows"],
    other_association: Int[Tensor, " others"],
    other_index: Int[Tensor, " others"],
) -> Bool[Tensor, "rows others"]:
    """The group mask between two sets of rows of one split: True for the same row and for rows that share an association.

    Args:
        index, other_index: row numbers in the split (`Pairs.index`).

    Example:
        >>> rows = torch.tensor([0, 1, 2])
        >>> same_pair(torch.tensor([5, -1, 5]), rows, torch.tensor([5, -1]), torch.tensor([0, 7])).tolist()
        [[True, False], [False, False], [True, False]]
    """
    shared = (association[:, None] == other_association[None, :]) & (association >= 0)[:, None]
    return shared | (index[:, None] == other_index[None, :])


def group_codes(group: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Numbers of groups from 0 on, in the order of `group`. Rows of group -1 are each a group of their own, after the others.

    Example:
        >>> group_codes(torch.tensor([7, -1, 3, 7])).tolist()
        [1, 2, 0, 1]
    """
    alone = group.max().clamp(min=-1) + 1 + torch.arange(len(group), device=group.device)
    _, codes = torch.unique(torch.where(group < 0, alone, group), return_inverse=True)
    found: Tensor = codes
    return found


def mismatched_cosine(
    image: Float[Tensor, "n dim"], text: Float[Tensor, "n dim"], group: Int[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Mean cosine of image i and caption j over all i, j of different groups, in time and memory linear in n.

    Rows of group -1 are each a group of their own. The result is NaN when all rows are of one group.
    """
    group = group_codes(group)
    image, text = image.double(), text.double()
    images = image.new_zeros(len(group), image.shape[1]).index_add(0, group, image)
    texts = text.new_zeros(len(group), text.shape[1]).index_add(0, group, text)
    pairs = len(group) ** 2 - torch.bincount(group).square().sum()
    found = (images.sum(dim=0) @ texts.sum(dim=0) - (images * texts).sum()) / pairs
    return torch.where(pairs > 0, found, torch.nan)  # rounding over 0 would be infinite


def zero_similarity_loss(image: Float[Tensor, "batch dim"], text: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """`2 mean_ij S_ij²`: the mean squared error of every cosine of the batch against 0, once per direction. The target is
    not the pair but all of the batch: any image and any caption of forget become unrelated."""
    return 2 * (image @ text.T).square().mean()


def similarity_drift(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """`2 mean_ij (S_ij - S°_ij)²` of the cosines of a batch, once per direction."""
    return 2 * F.mse_loss(student.image @ student.text.T, teacher.image @ teacher.text.T)


def embedding_drift(student: Features, teacher: Features) -> Float[Tensor, ""]:
    """`mean (u - u°)² + mean (v - v°)²` over rows and dimensions."""
    return F.mse_loss(student.image, teacher.image) + F.mse_loss(student.text, teacher.text)


def derangement(
    association: Int[Tensor, " batch"], generator: torch.Generator
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Rows, and for each of them another row of another association, drawn at random; no row is given twice.

    Rows are lined up association by association, in random order, and each is given the one a number of places further on
    (round the end). No association reaches that far when the number is at least the size of the largest, from either side.
    Where one association has more than half of the rows, as many rows as possible are given one and the others are left out.
    Rows without an association (-1) are each one of their own.
    """
    count = len(association)
    own = torch.where(association < 0, -1 - torch.arange(count), association)
    _, group = own.unique(return_inverse=True)
    sizes = group.bincount()
    rows = torch.randperm(count, generator=generator)
    places = torch.randperm(len(sizes), generator=generator)[group]
    order = rows[places[rows].argsort(stable=True)]
    largest = int(sizes.max())
    distance = largest
    if 2 * largest <= count:
        distance = int(torch.randint(largest, count - largest + 1, (), generator=generator))
    other = order.roll(-distance)
    apart = group[order] != group[other]
    return order[apart], other[apart]
