"""Connect the processes of one job on this machine, and stop them when one of them has died."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch.distributed as dist

#: Processes of one job end within moments of each other. A process that waits longer than this waits for a dead one.
SECONDS_TO_FOLLOW = 60.0


def meeting_place(folder: Path) -> Path:
    """A file that no process has met in before."""
    return folder / f"meet-{uuid4().hex}"


def meet(place: Path, rank: int, processes: int) -> None:
    """Join the job's process group through a file.

    The usual way, a port that every process draws from the job's number, may lead to one that another program has: then
    the first process dies and the others wait for it for half an hour.
    """
    store = dist.FileStore(str(place), processes)  # type: ignore[attr-defined]  # documented, and missing in the types
    dist.init_process_group(store=store, rank=rank, world_size=processes)


class LocalJobs:
    """Which jobs of this machine still run.

    Args:
        seconds: how long after the first of its processes a job's last one may end.
    """

    def __init__(self, seconds: float = SECONDS_TO_FOLLOW) -> None:
        self._seconds = seconds
        self._most: dict[int, int] = {}
        self._since: dict[int, float] = {}

    def alive(self, job: int) -> bool:
        """Whether submitit's process of this number, which watches those of one job, is there.

        A job is ended where one of its processes has died and the others have not followed.
        """
        import psutil

        try:
            watcher = psutil.Process(job)
            if not _runs(watcher) or "submitit.local._local" not in watcher.cmdline():
                return False
            running = [child for child in watcher.children() if _runs(child)]
            if not self._waits_for_the_dead(job, len(running)):
                return True
            _end([*running, watcher])
        except psutil.Error:
            pass
        return False

    def _waits_for_the_dead(self, job: int, running: int) -> bool:
        self._most[job] = max(running, self._most.get(job, 0))
        if not 0 < running < self._most[job]:
            self._since.pop(job, None)
            return False
        return time.monotonic() - self._since.setdefault(job, time.monotonic()) > self._seconds


def _runs(process: Any) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # it went while it was looked at
        return False


def _end(processes: list[Any]) -> None:
    import psutil

    for process in processes:
        process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=10)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=10)
