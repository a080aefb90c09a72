"""Embed the toy benchmark as one of several processes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from salmu_core import View
from salmu_core.builtin.toy import Toy
from salmu_core.data.cache import DataCache
from salmu_core.evaluation.embed import EmbeddingCache, embed_views
from salmu_core.files.writing import write_tensors

#: 600 forget rows: chunks for more than one process, the last of them not full.
TOY = Toy.Options(identities=100)
VIEWS = [View("forget", "image"), View("retain", "image"), View("forget", "text"), View("forget", "text", "{name} {value}")]


def embed_as(rank: int, world: int, meeting: Path, cache: Path) -> dict[str, torch.Tensor]:
    """Embeddings of every view, from a process group that lives only for this."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        benchmark = Toy(TOY)
        model = benchmark.load_model("compromised")
        result = embed_views(model, benchmark, VIEWS, EmbeddingCache(cache / "embeddings"), data=DataCache(cache))
        return {str(number): result[view].vectors for number, view in enumerate(VIEWS)}
    finally:
        dist.destroy_process_group()


def write_as(rank: int, world: int, meeting: Path, cache: Path, out: Path) -> None:
    """Write those embeddings to a file."""
    write_tensors(out, embed_as(rank, world, meeting, cache))
