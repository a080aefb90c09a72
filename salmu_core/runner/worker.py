"""What a process does that carries out runs for another: the side of the worker. See `workers` for the other side.

A worker is told of runs through a connection and answers in JSON. Records are not sent: they are on the disk, where whoever asked
reads and checks them like any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from salmu_core.benchmark import Benchmark
from salmu_core.errors import PluginFailure, SalmuError, UnknownName
from salmu_core.plugins.calls import thread_left
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunSpec
from salmu_core.runner.parent import die_with_parent
from salmu_core.runner.run import run_resolved
from salmu_core.runner.settings import Settings
from salmu_core.spec.resolve import Resolved, resolve
from salmu_core.spec.study import AuditChoice

STOPPED = 130  # exit code of a program stopped with Ctrl-C


@dataclass(frozen=True)
class Job:
    """A run, as it is told to a worker.

    Args:
        relay: are its progress and its stages told to observers of the other side?
        audits: what the finished run is attacked with before the next one begins.
    """

    spec: RunSpec
    folder: Path
    settings: Settings
    relay: bool
    audits: AuditChoice = "none"


@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over, since its own are of the time when the first worker was started."""

    environment: Mapping[str, str]
    folder: str
    threads: int | None


def work(connection: Connection, surroundings: Surroundings) -> None:
    """Carry out one run after another until the other side closes the connection."""
    die_with_parent()
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # standard output is for results of the other side, even where code that is not Python prints
    os.environ.clear()
    os.environ.update(surroundings.environment)
    os.chdir(surroundings.folder)
    if surroundings.threads is not None:
        torch.set_num_threads(surroundings.threads)
    try:
        while (job := connection.recv()) is not None:
            _send(connection, _carry_out(job, connection))
    except (EOFError, BrokenPipeError):  # nobody waits any more
        pass
    except KeyboardInterrupt:  # pressed in the terminal that both sides share
        os._exit(STOPPED)


class _Told(Plugins):
    """Plugins whose observers are on the other side of a connection."""

    connection: Connection | None = None

    def tell(self, hook: str, **arguments: Any) -> None:
        if self.connection is not None and hook == "run_progress":
            _send(self.connection, {"kind": "progress", "event": asdict(arguments["event"])})


_loaded: list[_Told] = []  # of this process: plugins are imported once
_benchmarks: dict[str, Benchmark] = {}  # its data is read once and not for every run


def _carry_out(job: Job, connection: Connection) -> dict[str, Any]:
    """The answer to a job: done, or why not."""
    try:
        if not _loaded:
            _loaded.append(_Told(**vars(load_plugins())))
        plugins = _loaded[0]
        plugins.connection = connection if job.relay else None
        instance = json.dumps([job.spec.benchmark, job.spec.benchmark_options], sort_keys=True, default=str)
        resolved = resolve(job.spec, plugins, job.settings.cache_folder, _benchmarks.get(instance))
        _benchmarks[instance] = resolved.benchmark
        record = run_resolved(resolved, job.folder, job.settings, plugins)
        if job.audits != "none" and record.status == "ok":
            _send(connection, {"kind": "measured"})
            _attack(job, resolved, plugins)
    except (PluginFailure, UnknownName) as error:
        return {"kind": "failed", "message": str(error)}
    except SalmuError as error:
        return {"kind": "error", "type": type(error).__name__, "message": error.message, "hint": error.hint}
    except Exception:
        return {"kind": "bug", "message": traceback.format_exc()}
    return {"kind": "done", "thread_left": thread_left() is not None}


def _attack(job: Job, resolved: Resolved, plugins: Plugins) -> None:
    """Attack the run beside the other workers. The other side asks again in the end, reads what is there and tells what failed."""
    with contextlib.suppress(SalmuError):
        runs = [(resolved.benchmark, job.folder, resolved.title)]
        plugins.ask("attack_runs", runs=runs, audits=job.audits, settings=job.settings, plugins=plugins)


def _send(connection: Connection, message: Mapping[str, Any]) -> None:
    connection.send_bytes(json.dumps(message, default=str).encode())
