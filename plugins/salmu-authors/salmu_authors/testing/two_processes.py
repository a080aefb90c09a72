"""The same method in two data-parallel processes on the toy benchmark: what `accelerate launch --num_processes 2` would give.

A program of its own, which imports torch once and forks the processes of every task: the caller may be any script or test, its
`__main__` is not run again, and nothing of its threads is inherited. It ends with its caller, whose end closes its standard input.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import multiprocessing
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from salmu_authors.testing.context import toy_context
from salmu_authors.testing.declarations import own_module
from salmu_core.builtin.toy import Toy
from salmu_core.files.writing import write_tensors
from salmu_core.method import UnlearningMethod

PROCESSES = 2
_IDLE_SECONDS = 60.0  # without any work done by any of the processes: they wait for each other
_SECONDS = 3600.0  # what never ends has to end some time


class TwoProcessFailure(Exception):
    """A process raised or did not come to an end; says what happened."""


def two_process_weights(cls: type[UnlearningMethod], options: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """The weights that each of two processes holds after the method.

    Args:
        cls: a class at the top level of a module, which the processes import by name or from its file.

    Raises:
        TwoProcessFailure: one of them failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = {
            "module": cls.__module__,
            "file": own_module(cls),
            "name": cls.__qualname__,
            "options": dict(options),
            "path": sys.path,
            "directory": os.getcwd(),
            "environment": {**os.environ, "OMP_NUM_THREADS": "1"},
        }
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        _carry_out(folder)
        for rank in range(PROCESSES):
            failed = folder / f"{rank}.error"
            if failed.is_file():
                raise TwoProcessFailure(f"Process {rank} of {PROCESSES}: {failed.read_text(encoding='utf-8')}")
        missing = [rank for rank in range(PROCESSES) if not (folder / f"{rank}.safetensors").is_file()]
        if missing:
            printed = folder / "printed"
            said = printed.read_text(encoding="utf-8", errors="replace").strip()[-500:] if printed.is_file() else ""
            raise TwoProcessFailure(f"Process {missing[0]} of {PROCESSES} ended early: {said}")
        return [load_file(folder / f"{rank}.safetensors") for rank in range(PROCESSES)]


# ------------------------------------------------------------------ the caller's side


@dataclass
class _Server:
    """The program below, and what it answers."""

    running: subprocess.Popen[str]
    answers: queue.Queue[str]


_server: _Server | None = None


def _carry_out(folder: Path) -> None:
    """Have the task of a folder carried out.

    Raises:
        TwoProcessFailure: its processes wait for each other, or the program itself came to an end.
    """
    global _server
    if _server is None or _server.running.poll() is not None:
        _server = _start()
    running, answers = _server.running, _server.answers
    assert running.stdin is not None
    try:
        running.stdin.write(f"{folder}\n")
        running.stdin.flush()
        _wait(int(answers.get()), answers)
    except (OSError, ValueError):
        _server = None
        running.kill()
        raise TwoProcessFailure("The program that starts both processes came to an end.") from None


def _start() -> _Server:
    command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    answers: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in running.stdout or ():
            answers.put(line)
        answers.put("")  # nobody waits for ever for a program that died

    threading.Thread(target=listen, name="two-processes", daemon=True).start()
    atexit.register(_stop, running)
    return _Server(running, answers)


def _stop(running: subprocess.Popen[str]) -> None:
    with contextlib.suppress(OSError):
        if running.stdin is not None:
            running.stdin.close()
    running.wait()


def _wait(pid: int, answers: queue.Queue[str]) -> None:
    """Wait for the end of a task, however slow a busy machine is; what does no work any more hangs.

    Raises:
        TwoProcessFailure: it hangs.
    """
    started = moved = time.monotonic()
    before = -1.0
    family: list[psutil.Process] = []
    while True:
        with contextlib.suppress(queue.Empty):
            int(answers.get(timeout=2.0))  # looking at every process of the machine takes time, so seldom
            return
        now, spent = time.monotonic(), before
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            family = [parent, *parent.children(recursive=True)]
            spent = sum(sum(process.cpu_times()[:2]) for process in family)
        if spent > before + 0.05:
            before, moved = spent, now
        if now - moved > _IDLE_SECONDS or now - started > _SECONDS:
            for process in reversed(family):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            answers.get()
            raise TwoProcessFailure(
                "One process waits for the other for ever: both must take the same steps, whatever their numbers are."
            )


# ------------------------------------------------------------------ the program's side


def serve() -> None:
    """Read folders of tasks from standard input; answer each with the number of the process that carries it out, and its exit code."""
    torch.set_num_threads(1)
    Toy().load_model("compromised")  # imports all that a context needs, once for every task
    gc.freeze()  # collections after every fit need not look at what all share
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # answers alone go to standard output
    for line in sys.stdin:
        process = _context().Process(target=_main, args=(Path(line.rstrip("\n")),))
        process.start()
        print(process.pid, file=out, flush=True)
        process.join()
        print(process.exitcode, file=out, flush=True)
    os._exit(0)  # libraries have nothing to tidy up, and some complain


def _context() -> Any:
    return multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")


def _main(folder: Path) -> None:
    printed = os.open(folder / "printed", os.O_WRONLY | os.O_CREAT)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    os.environ.clear()
    os.environ.update(task["environment"])
    os.chdir(task["directory"])
    torch.set_num_threads(1)
    context = _context()
    if context.get_start_method() == "fork":  # once for both
        with contextlib.suppress(Exception):  # each process will say what is wrong
            _find(task)
        gc.freeze()
    processes = [context.Process(target=_work, args=(rank, folder, task), daemon=True) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _work(rank: int, folder: Path, task: Mapping[str, Any]) -> None:
    try:
        _unlearn(rank, folder, task)
    except BaseException as error:  # told to the process that asked
        (folder / f"{rank}.error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        os._exit(1)  # not waiting for the other one, which may wait for this one


def _unlearn(rank: int, folder: Path, task: Mapping[str, Any]) -> None:
    torch.set_num_threads(1)
    cls = _find(task)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
        "ACCELERATE_USE_CPU": "true",
        "MASTER_ADDR": "127.0.0.1",  # asked for and not used: the processes have met in a file
        "MASTER_PORT": "29500",
    }
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    method: UnlearningMethod = cls(cls.Options(**task["options"]))
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        write_tensors(folder / f"{rank}.safetensors", ctx.model.weights())
    dist.barrier()
    dist.destroy_process_group()


def _find(task: Mapping[str, Any]) -> Any:
    """The class, from its module or else from the file that it stands in."""
    sys.path[:] = task["path"]
    try:
        found: Any = importlib.import_module(task["module"])
        if found.__name__ == "__main__":
            raise ImportError("the class is in a script")
    except ImportError:
        spec = importlib.util.spec_from_file_location("plugin_under_check", task["file"])
        if spec is None or spec.loader is None:
            raise
        found = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = found
        spec.loader.exec_module(found)
    for part in task["name"].split("."):
        found = getattr(found, part)
    return found
