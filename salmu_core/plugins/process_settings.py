"""Settings of the whole process that change what others compute: how each is read, and written back."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.library
from PIL import Image, ImageFile
from torch.nn.modules import module
from torch.optim import optimizer

from salmu_core.files.writing import umask

resource: Any = importlib.import_module("resource") if os.name == "posix" else None
#: Environment variables that libraries set when they are first imported: taken back without a word.
OF_LIBRARIES = ("KMP_", "TORCHINDUCTOR_", "TRITON_", "QT_", "TF_", "CUDA_MODULE_LOADING", "PYTORCH_NVML")
_TIMERS = [getattr(signal, name) for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF") if hasattr(signal, name)]
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
_SAVED_BY = torch._C._autograd._top_saved_tensors_default_hooks
UNREADABLE = "nothing that can be read"
_left_open: list[Any] = []  # modes that take another one back: they hold for as long as they live


@dataclass(frozen=True)
class Setting:
    """One thing that can be read, compared and written."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    #: Are values shown in the sentence? Those of the environment may be secrets.
    shown: bool = True


def _leave_inference_mode(before: bool) -> None:
    mode = torch.inference_mode(before)
    mode.__enter__()
    _left_open.append(mode)


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _autocast(device: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    def write(before: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])

    return lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), write


def _deterministic(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _hook_tables() -> list[dict[Any, Any]]:
    held = [*vars(module).items(), *vars(optimizer).items()]
    return [value for name, value in held if name.startswith("_global_") and isinstance(value, dict)]


def _hooks() -> list[dict[Any, Any]]:
    return [dict(table) for table in _hook_tables()]


def _put_hooks_back(before: list[dict[Any, Any]]) -> None:
    for table, kept in zip(_hook_tables(), before, strict=True):
        table.clear()
        table.update(kept)


def _modes() -> list[int]:
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    return [len(_get_current_function_mode_stack()), len(_get_current_dispatch_mode_stack())]


def _pop_modes(before: list[int]) -> None:
    from torch.overrides import _pop_mode as pop_function_mode
    from torch.utils._python_dispatch import _pop_mode as pop_dispatch_mode

    functions, dispatches = _modes()
    for _ in range(functions - before[0]):
        pop_function_mode()
    for _ in range(dispatches - before[1]):
        pop_dispatch_mode()


def _put_saved_by_back(before: Any) -> None:
    while (now := _SAVED_BY(True)) is not None and now != before:
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _kernels() -> frozenset[str]:
    """Operators of torch's own that Python code computes instead (`torch.library`). Torch itself adds such that infer shapes."""
    return _own_kernels(frozenset(torch.library._impls))


@lru_cache(maxsize=1)
def _own_kernels(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name in names if name.startswith("aten/") and name.endswith(("CPU", "CUDA")))


def _drop_kernels(before: frozenset[str]) -> None:
    for item in gc.get_objects():
        if type(item) is torch.library.Library and item.ns == "aten" and item._op_impls - before:
            item._destroy()


def _put_limits_back(before: dict[int, tuple[int, int]]) -> None:
    for number, limits in before.items():
        with contextlib.suppress(OSError, ValueError):  # what only an administrator may raise again
            resource.setrlimit(number, limits)


def _enter_folder(before: str) -> None:
    with contextlib.suppress(OSError):
        os.chdir(before)


def _write_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _alarms() -> list[bool]:
    return [bool(signal.getitimer(timer)[0]) for timer in _TIMERS]


def _stop_alarms(before: list[bool]) -> None:
    for timer, was_set in zip(_TIMERS, before, strict=True):
        if not was_set:
            signal.setitimer(timer, 0)


def _error_filters() -> list[Any]:
    return [item for item in warnings.filters if item[0] == "error"]


def _drop_error_filters(before: list[Any]) -> None:
    kept = [item for item in warnings.filters if item[0] != "error" or item in before]
    kept += [item for item in before if item not in kept]
    warnings.filters[:] = kept  # type: ignore[index]
    getattr(warnings, "_filters_mutated", getattr(warnings, "_filters_mutated_lock_held", lambda: None))()


def _settings() -> Iterator[Setting]:
    """Everything that is compared, in the order in which it is put back."""
    yield Setting("inference mode", torch.is_inference_mode_enabled, _leave_inference_mode)
    yield Setting("whether gradients are taken", torch.is_grad_enabled, torch.set_grad_enabled)
    yield Setting("the default number type", torch.get_default_dtype, torch.set_default_dtype)
    yield Setting(
        "the default device",
        lambda: str(torch.get_default_device()),
        lambda before: torch.set_default_device(None if before == "cpu" else before),
    )
    yield Setting("torch's function modes", _modes, _pop_modes)
    yield Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads)
    yield Setting(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _deterministic,
    )
    yield Setting("the precision of matrix products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision)
    for name in ("enabled", "benchmark", "deterministic", "allow_tf32"):
        yield Setting(f"torch.backends.cudnn.{name}", *_attribute(torch.backends.cudnn, name))
    for name in ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        yield Setting(f"torch.backends.cuda.matmul.{name}", *_attribute(torch.backends.cuda.matmul, name))
    yield Setting("torch.backends.mkldnn", torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled)
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        read = getattr(torch.backends.cuda, f"{name}_sdp_enabled", None)
        write = getattr(torch.backends.cuda, f"enable_{name}_sdp", None)
        if read is not None and write is not None:
            yield Setting(f"attention by {name}", read, write)
    for device in ("cpu", "cuda"):
        yield Setting(f"autocast on {device}", *_autocast(device))
    yield Setting("whether tiny numbers count as zero", _flushes_denormal, torch.set_flush_denormal)
    for name in ("enabled", "strategy"):
        yield Setting(f"torch.backends.opt_einsum.{name}", *_attribute(torch.backends.opt_einsum, name))
    yield Setting(
        "the fast path of attention", torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled
    )
    yield Setting("torch's anomaly detection", torch.is_anomaly_enabled, torch.set_anomaly_enabled)
    yield Setting("torch's global hooks", _hooks, _put_hooks_back, shown=False)
    yield Setting("how Pillow takes pictures that are cut short", *_attribute(ImageFile, "LOAD_TRUNCATED_IMAGES"))
    yield Setting("Pillow's limit on pixels", *_attribute(Image, "MAX_IMAGE_PIXELS"))
    yield Setting("how NumPy treats floating-point errors", np.geterr, lambda before: np.seterr(**before))
    yield Setting("the working directory", os.getcwd, _enter_folder)
    yield Setting("environment variables", lambda: dict(os.environ), _write_environment, shown=False)
    yield Setting("an alarm that is set", _alarms, _stop_alarms, shown=False)
    yield Setting("warnings that are turned into errors", _error_filters, _drop_error_filters, shown=False)
    yield Setting("logging", _logging, _write_logging, shown=False)
    yield Setting("the mode of new files", umask, os.umask)
    yield Setting("sys.settrace", sys.gettrace, sys.settrace, shown=False)
    yield Setting("sys.setprofile", sys.getprofile, sys.setprofile, shown=False)
    yield Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Setting("garbage collection", gc.isenabled, lambda before: gc.enable() if before else gc.disable())
    yield Setting(
        "what is called when garbage is collected",
        lambda: list(gc.callbacks),
        lambda before: gc.callbacks.__setitem__(slice(None), before),
        shown=False,
    )
    for name in ("stdout", "stderr", "excepthook"):
        yield Setting(f"sys.{name}", *_attribute(sys, name), shown=False)
    yield Setting("sys.path", lambda: list(sys.path), lambda before: sys.path.__setitem__(slice(None), before), shown=False)


def _logging() -> tuple[int, int, list[Any], list[Any]]:
    return logging.root.manager.disable, logging.root.level, list(logging.root.handlers), list(logging.root.filters)


def _write_logging(before: tuple[int, int, list[Any], list[Any]]) -> None:
    logging.disable(before[0])
    logging.root.setLevel(before[1])
    logging.root.handlers[:], logging.root.filters[:] = before[2], before[3]


def _flushes_denormal() -> bool:
    return not bool(torch.tensor([1e-310], dtype=torch.float64).mul(0.5))


#: Read once: the same functions serve every run.
SETTINGS = (
    *_settings(),
    Setting("what autograd keeps of a pass", lambda: _SAVED_BY(True), _put_saved_by_back, shown=False),
    Setting("limits of the process", lambda: {n: resource.getrlimit(n) for n in _LIMITS}, _put_limits_back, shown=False),
    Setting("kernels of torch", _kernels, _drop_kernels, shown=False),
)
