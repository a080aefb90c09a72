"""Embeddings to test formulas with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def unit_rows(seed: int, rows: int, dim: int = 8) -> Float[Tensor, "rows dim"]:
    """Random directions in double precision, the same for the same seed: rows of length 1, as a model embeds images and captions."""
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.double), dim=1)
