"""Processes that begin with torch imported. A server imports it once for all tests of a test process and forks the others."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["open_clip", "accelerate", "salmu_core.runner.run"])


def start(work: Callable[..., None], *arguments: Any, **variables: str) -> multiprocessing.process.BaseProcess:
    """Start a function of a module in a process of its own, with environment variables of its own."""
    process = _CONTEXT.Process(target=_begin, args=({**os.environ, **variables}, work, arguments), daemon=True)
    process.start()
    return process


def start_ranks(world: int, meeting: Path, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """Start a function in several processes as a launcher would; they meet in a file."""
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # asked for and not used
    return [
        start(_met, meeting, rank, world, work, arguments, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(world)
    ]


def run_toy(methods: list[str], out: Path, steps: Connection | None = None, pause: float = 0.0) -> None:
    """Run toy methods, each in OUT/METHOD, with a checkpoint at every step.

    Args:
        steps: told the number of every training step.
        pause: seconds after each of them.
    """
    from salmu_core.runner.run import Settings, run
    from toy_methods import Hooks, toy_plugins

    plugins = toy_plugins()

    def run_progress(event: Any) -> None:
        if event.stage == "unlearn" and steps is not None:
            steps.send(event.done)
            time.sleep(pause)

    plugins.watch(Hooks(run_progress=run_progress))
    settings = Settings(cache=out.parent / "cache", checkpoint_seconds=0, cpu=True)
    for method in methods:
        run(method, benchmark="toy", out=out / method, settings=settings, plugins=plugins)


def pipe() -> tuple[Connection, Connection]:
    """What to read from, and what a process writes to."""
    return _CONTEXT.Pipe(duplex=False)


def _begin(environment: Mapping[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ.clear()  # the server's is from when it was started
    os.environ.update(environment)
    torch.set_num_threads(1)
    gc.freeze()  # as a worker does
    work(*arguments)


def _met(meeting: Path, rank: int, world: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    work(*arguments)
    dist.barrier()
    dist.destroy_process_group()
