"""Zero-shot classification: a class is the direction of its prompts, a picture belongs to the nearest one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from salmu_metrics.rows import NumberType, rounded

_PROMPTS = 8192  # prompts summed at once: ImageNet has 80,000
_CHUNK = 1024  # pictures per product: bounds memory, and is fixed because another size may round differently


def class_vectors(
    prompts: Float[Tensor, "prompts dim"], classes: Int[Tensor, " prompts"], count: int
) -> Float[Tensor, "{count} dim"]:
    """Unit-length mean of each class's prompt embeddings, as in open_clip's `build_zero_shot_classifier`
    (Radford et al. 2021, arXiv 2103.00020, section 3.1.4: prompts are ensembled in embedding space).

    Args:
        prompts: fp32 rows of unit length; a class may have any number of them.
        classes: class of each prompt, 0 to count - 1; none may be missing.
        count: number of classes.

    Returns:
        fp32 rows in the order of the classes. A class whose prompts cancel out gets zeros.
    """
    # In double precision: the mean must not depend on the order in which prompts are listed.
    sums = torch.zeros(count, prompts.shape[1], dtype=torch.float64)
    for some, theirs in zip(prompts.split(_PROMPTS), classes.split(_PROMPTS), strict=True):
        sums.index_add_(0, theirs, some.double())
    means = sums / torch.bincount(classes, minlength=count)[:, None]
    return F.normalize(means, dim=-1).to(prompts.dtype)


def nearest_class(
    images: Float[Tensor, "n dim"], classes: Float[Tensor, "classes dim"], cosines: NumberType = "float32"
) -> Int[Tensor, " n"]:
    """Index of the class with the largest cosine for each image; of equal ones the first.

    Args:
        images, classes: fp32 rows of unit length.
        cosines: `float16`: rounded before they are compared.
    """
    # Of equal values argmax may give any one.
    kinds = (rounded(chunk @ classes.T, cosines) for chunk in images.split(_CHUNK))
    return torch.cat([(found == found.amax(dim=-1, keepdim=True)).int().argmax(dim=-1) for found in kinds])
