"""Which of several data-parallel processes this is."""

from __future__ import annotations

import os

import torch.distributed as dist


def process_count() -> int:
    """Processes that run together; 1 without a launcher."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """This process's number; 0 is the one that writes and prints."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def processes_here() -> int:
    """Processes of the same run on this machine. Variables that another launcher left behind do not count."""
    given = os.environ.get("LOCAL_WORLD_SIZE", "1") if process_count() > 1 else "1"
    return max(1, int(given)) if given.isdigit() else 1


def wait_for_all() -> None:
    """Wait until every process is here."""
    if process_count() > 1:
        dist.barrier()


def share_of_batch(rows: int) -> slice:
    """The rows of a global batch that this process encodes; all of them where they cannot be shared out evenly."""
    world = process_count()
    if rows % world:
        return slice(0, rows)
    share = rows // world
    return slice(process_index() * share, (process_index() + 1) * share)
