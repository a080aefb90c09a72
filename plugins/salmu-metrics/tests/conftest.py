"""What the tests share: shape annotations checked while tests run, and embeddings made by hand or at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# Before anything imports the package.
with install_import_hook("salmu_metrics", "beartype.beartype"):
    import salmu_metrics  # noqa: F401

from salmu_core import Embedded

Embed = Callable[..., Embedded]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture
def embed() -> Embed:
    """Rows of numbers as a view; they are normalised."""

    def make(
        vectors: Any, texts: Sequence[str] | None = None, columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Embedded:
        rows = torch.as_tensor(np.asarray(vectors, dtype=np.float64))
        return Embedded(torch.nn.functional.normalize(rows, dim=-1).float(), columns or {}, texts)

    return make


@pytest.fixture
def nothing() -> Embed:
    """A view without rows, with the columns and captions of a full one."""

    def make(dim: int = 4) -> Embedded:
        columns: dict[str, list[Any]] = {"identity_id": [], "label": []}
        return Embedded(torch.zeros(0, dim), columns, [])

    return make
