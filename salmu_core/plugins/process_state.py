"""State of the whole process that a plugin must leave as it found it: taken before its code runs, compared and put back after.

Later runs share the process. A method that leaves gradients off, or metrics that change the default number type, would change what
others get; here it costs a sentence in the record of the one that did it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from salmu_core.plugins.code_state import CodeState

#: Environment variables that libraries set when they are first imported: taken back without a word.
_OF_LIBRARIES = ("KMP_", "TORCHINDUCTOR_", "TRITON_", "QT_", "TF_", "CUDA_MODULE_LOADING", "PYTORCH_NVML")
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_forward_hooks_always_called",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
    "_global_buffer_registration_hooks",
)
_left_open: list[Any] = []  # modes that take another one back: they hold for as long as they live


@dataclass(frozen=True)
class _Setting:
    """One thing that can be read, compared and written."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    #: Are values shown in the sentence? Those of the environment may be secrets.
    shown: bool = True


def _leave_inference_mode(before: bool) -> None:
    mode = torch.inference_mode(before)
    mode.__enter__()
    _left_open.append(mode)


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _set_gradients(before: bool) -> None:
    torch.set_grad_enabled(before)


def _autocast(device: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    def write(before: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])

    return lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), write


def _deterministic(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _hooks() -> dict[str, dict[Any, Any]]:
    from torch.nn.modules import module
    from torch.optim import optimizer

    found = {name: dict(getattr(module, name)) for name in _GLOBAL_HOOKS if hasattr(module, name)}
    for name in ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks"):
        found[name] = dict(getattr(optimizer, name, {}))
    return found


def _put_hooks_back(before: dict[str, dict[Any, Any]]) -> None:
    from torch.nn.modules import module
    from torch.optim import optimizer

    for name, kept in before.items():
        held = getattr(module, name, None)
        held = getattr(optimizer, name, None) if held is None else held
        if held is not None:
            held.clear()
            held.update(kept)


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


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _enter_folder(before: str | None) -> None:
    if before is not None:
        with contextlib.suppress(OSError):
            os.chdir(before)


def _write_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _alarm() -> bool:
    return bool(hasattr(signal, "getitimer") and signal.getitimer(signal.ITIMER_REAL)[0])


def _stop_alarm(before: bool) -> None:
    if not before:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _error_filters() -> list[Any]:
    return [item for item in warnings.filters if item[0] == "error"]


def _drop_error_filters(before: list[Any]) -> None:
    kept = [item for item in warnings.filters if item[0] != "error" or item in before]
    kept += [item for item in before if item not in kept]
    warnings.filters[:] = kept  # type: ignore[index]
    getattr(warnings, "_filters_mutated", getattr(warnings, "_filters_mutated_lock_held", lambda: None))()


def _settings() -> Iterator[_Setting]:
    """Everything that is compared, in the order in which it is put back."""
    yield _Setting("inference mode", torch.is_inference_mode_enabled, _leave_inference_mode)
    yield _Setting("whether gradients are taken", torch.is_grad_enabled, _set_gradients)
    yield _Setting("the default number type", torch.get_default_dtype, torch.set_default_dtype)
    yield _Setting(
        "the default device",
        lambda: str(torch.get_default_device()),
        lambda before: torch.set_default_device(None if before == "cpu" else before),
    )
    yield _Setting("torch's function modes", _modes, _pop_modes)
    yield _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads)
    yield _Setting(
        "deterministic algorithms",
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _deterministic,
    )
    yield _Setting(
        "the precision of matrix products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    )
    for name in ("enabled", "benchmark", "deterministic", "allow_tf32"):
        yield _Setting(f"torch.backends.cudnn.{name}", *_attribute(torch.backends.cudnn, name))
    for name in ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        yield _Setting(f"torch.backends.cuda.matmul.{name}", *_attribute(torch.backends.cuda.matmul, name))
    yield _Setting("torch.backends.mkldnn", torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled)
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        read = getattr(torch.backends.cuda, f"{name}_sdp_enabled", None)
        write = getattr(torch.backends.cuda, f"enable_{name}_sdp", None)
        if read is not None and write is not None:
            yield _Setting(f"attention by {name}", read, write)
    for device in ("cpu", "cuda"):
        yield _Setting(f"autocast on {device}", *_autocast(device))
    yield _Setting("torch's anomaly detection", torch.is_anomaly_enabled, torch.set_anomaly_enabled)
    yield _Setting("torch's global hooks", _hooks, _put_hooks_back, shown=False)
    yield _Setting("how NumPy treats floating-point errors", np.geterr, lambda before: np.seterr(**before) and None)
    yield _Setting("the working directory", _folder, _enter_folder)
    yield _Setting("environment variables", lambda: dict(os.environ), _write_environment, shown=False)
    yield _Setting("an alarm that is set", _alarm, _stop_alarm)
    yield _Setting("warnings that are turned into errors", _error_filters, _drop_error_filters, shown=False)
    yield _Setting("logging", lambda: (logging.root.manager.disable, logging.root.level), _write_logging)
    yield _Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield _Setting("garbage collection", gc.isenabled, lambda before: gc.enable() if before else gc.disable())
    for name in ("stdout", "stderr", "excepthook"):
        yield _Setting(f"sys.{name}", *_attribute(sys, name), shown=False)
    yield _Setting("sys.path", lambda: list(sys.path), lambda before: sys.path.__setitem__(slice(None), before), shown=False)


def _write_logging(before: tuple[int, int]) -> None:
    logging.disable(before[0])
    logging.root.setLevel(before[1])


#: Read once: the same functions serve every run.
_SETTINGS = tuple(_settings())


class ProcessState:
    """What the process was like when this was made."""

    def __init__(self) -> None:
        self._values = {setting.name: _read(setting) for setting in _SETTINGS}
        self._randomness = _randomness()
        self._code = CodeState()
        self._threads = set(threading.enumerate())

    def put_back(self, own: str = "") -> list[str]:
        """Put back what changed since, and say what it was: `changed the working directory from A to B`, ...

        Random state is put back without a word: what draws from it changes only itself.

        Args:
            own: the top-level module of the plugin that ran, which may change what is its own.
        """
        sentences = [
            sentence for setting in _SETTINGS if (sentence := _put_back(setting, self._values[setting.name])) is not None
        ]
        found = self._code.put_back(own)
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            sentences.append(f"replaced code of others: {', '.join(found[:3])}{more}")
        _put_randomness_back(self._randomness)
        return sentences

    def left_running(self, own: str) -> list[threading.Thread]:
        """Threads begun since that are in a plugin's code, and do not end within a second.

        Args:
            own: the plugin's top-level module.
        """
        found = [thread for thread in threading.enumerate() if thread not in self._threads and _runs(thread, own)]
        for thread in found:
            thread.join(1.0 / len(found))
        return [thread for thread in found if thread.is_alive()]

    def drawn(self) -> list[str]:
        """Which global generators were used since."""
        now = _randomness()
        # Where beartype checks types while tests run, it draws from `random` itself to choose which items it looks at.
        ignored = {"random"} if "beartype" in sys.modules else set()
        return [name for name, state in self._randomness.items() if not _same(state, now.get(name)) and name not in ignored]


def _runs(thread: threading.Thread, top: str) -> bool:
    frame = sys._current_frames().get(thread.ident or 0) if thread is not threading.current_thread() else None
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == top:
            return True
        frame = frame.f_back
    return False


def _read(setting: _Setting) -> Any:
    """A value; what this build of torch does not have counts as unchanged."""
    try:
        return setting.read()
    except (RuntimeError, AttributeError, ValueError):
        return None


def _put_back(setting: _Setting, before: Any) -> str | None:
    now = _read(setting)
    if now == before or before is None:
        return None
    setting.write(before)
    if setting.name == "environment variables":
        names = sorted(
            name
            for name in {*before, *now}
            if before.get(name) != now.get(name) and not (name not in before and name.startswith(_OF_LIBRARIES))
        )
        return f"changed the environment variable{'s'[: len(names) > 1]} {', '.join(names)}" if names else None
    return f"changed {setting.name} from {before} to {now}" if setting.shown else f"changed {setting.name}"


def _randomness() -> dict[str, Any]:
    found: dict[str, Any] = {
        "random": random.getstate(),
        "numpy.random": np.random.get_state(),
        "torch's default generator": torch.random.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        found["torch.cuda's generators"] = torch.cuda.get_rng_state_all()
    return found


def _put_randomness_back(before: dict[str, Any]) -> None:
    random.setstate(before["random"])
    np.random.set_state(before["numpy.random"])
    torch.random.set_rng_state(before["torch's default generator"])
    if "torch.cuda's generators" in before:
        torch.cuda.set_rng_state_all(before["torch.cuda's generators"])


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, torch.Tensor | np.ndarray):
        return bool((before == now).all())
    if isinstance(before, list | tuple):
        return len(before) == len(now) and all(_same(old, new) for old, new in zip(before, now, strict=True))
    return bool(before == now)
