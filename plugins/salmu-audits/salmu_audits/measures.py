"""How strongly images and captions are tied, in the few numbers that the attacks are measured with. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core.data.splits import Split
from salmu_core.evaluation.mismatch import mismatch
from salmu_core.metric import NotMeasurable

_CHUNK = 4096  # images whose similarities are held at a time
_EQUAL = 1e-6  # cosines that are nearer than this differ by rounding


def distinct(captions: Sequence[str]) -> tuple[list[str], Int[Tensor, " n"]]:
    """Distinct captions in order of first appearance, and the number of every row's own one."""
    number: dict[str, int] = {}
    own = torch.tensor([number.setdefault(caption, len(number)) for caption in captions], dtype=torch.long)
    return list(number), own


def one_each(vectors: Float[Tensor, "n dim"], own: Int[Tensor, " n"]) -> Float[Tensor, "m dim"]:
    """Of rows with numbers as `distinct` gives them, the vector of each number.

    >>> one_each(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([0, 1, 0])).tolist()
    [[1.0], [2.0]]
    """
    found = vectors.new_empty(int(own.max()) + 1, vectors.shape[1])
    found[own] = vectors
    return found


def mean_reciprocal_rank(images: Float[Tensor, "n dim"], texts: Float[Tensor, "m dim"], own: Int[Tensor, " n"]) -> float:
    """Mean of 1 / rank of each image's own caption among all `m`, as in `reciprocal_ranks`.

    Raises:
        NotMeasurable: there are fewer than two captions to tell apart.
    """
    if len(texts) < 2 or len(images) == 0:
        raise NotMeasurable("there are fewer than two captions to tell apart")
    total = 0.0
    for start in range(0, len(images), _CHUNK):
        total += float(reciprocal_ranks(images[start : start + _CHUNK] @ texts.T, own[start : start + _CHUNK]).sum())
    return total / len(images)


def area_under_curve(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"]) -> float:
    """Probability that a member scores higher than another row, ties counted half (the Mann-Whitney statistic)."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([members, others]))
    n, m = len(members), len(others)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def found_at(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"], false_alarms: float) -> float:
    """True positive rate: the share of members above the score that at most `false_alarms` of the others reach (Carlini et al. 2022,
    arXiv 2112.03570). What an attacker is sure of, where the area under the curve averages over guesses.

    >>> found_at(np.array([0.9, 0.8, 0.3]), np.array([0.7, 0.2, 0.1, 0.0]), 0.25)
    1.0
    >>> round(found_at(np.array([0.9, 0.8, 0.3]), np.array([0.7, 0.2, 0.1, 0.0]), 0.0), 3)
    0.667
    """
    allowed = int(false_alarms * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -np.inf
    return float((members > threshold).mean())


def reciprocal_ranks(similarity: Float[Tensor, "n m"], own: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 / rank of each row's own candidate; where others are as similar, up to rounding, the mean over the orders that they can have:
    a model that tells no candidate from another gets what guessing gets. Candidates that a row does not have are -inf.

    >>> reciprocal_ranks(torch.tensor([[0.2, 0.9, 0.1], [0.5, 0.5, 0.1]]), torch.tensor([0, 1]))
    tensor([0.5000, 0.7500], dtype=torch.float64)
    """
    mine = similarity.gather(1, own[:, None])
    above = (similarity > mine + _EQUAL).sum(dim=1)
    last = (similarity >= mine - _EQUAL).sum(dim=1)
    harmonic = torch.cat([torch.zeros(1), 1.0 / torch.arange(1, similarity.shape[1] + 1)]).double().cumsum(dim=0)
    return (harmonic[last] - harmonic[above]) / (last - above)


def standard_error(values: Sequence[float]) -> float:
    """Of a mean of independent values; 1 where there are fewer than two.

    >>> standard_error([0.0, 1.0, 0.0, 1.0])
    0.28867513459481287
    """
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 1.0


def strangers(split: Split, generator: torch.Generator) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Rows, and for each another row of the same field and another identity, drawn at random: pairs that nobody learned. Pictures
    and captions that both identities have are left out of it.

    Raises:
        NotMeasurable: no field is known of two identities that differ in pictures and captions.
    """
    rows, other = mismatch(
        split.columns["identity_id"],
        split.columns["data_field"],
        generator,
        pictures=() if split.images is None else split.image_keys,
        captions=split.texts or (),
    )
    if not rows:
        raise NotMeasurable(
            "no field is known of two identities that share neither picture nor caption: none can be mismatched"
        )
    return torch.tensor(rows), torch.tensor(other)


def associations(split: Split) -> list[tuple[str, str]]:
    """Identity and field of every row."""
    return [(str(i), str(f)) for i, f in zip(split.columns["identity_id"], split.columns["data_field"], strict=True)]


def sample_rows(count: int, most: int, generator: torch.Generator) -> list[int]:
    """At most `most` row numbers, in order."""
    return sorted(torch.randperm(count, generator=generator)[:most].tolist())
