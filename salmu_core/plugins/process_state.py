"""State of the whole process that a plugin must leave as it found it: taken before its code runs, compared and put back after.

Later runs share the process. A method that leaves gradients off, or metrics that change the default number type, would change what
others get; here it costs a sentence in the record of the one that did it.
"""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import numpy as np
import torch

from salmu_core.files.names import some
from salmu_core.plugins.code_state import CodeState
from salmu_core.plugins.process_settings import OF_LIBRARIES, SETTINGS, UNREADABLE, Setting


class ProcessState:
    """What the process was like when this was made.

    Args:
        code: look at functions and constants too, which takes tens of milliseconds.
    """

    def __init__(self, code: bool = True) -> None:
        self._values = {setting.name: _read(setting) for setting in SETTINGS}
        self._randomness = _randomness()
        self._code = CodeState() if code else None
        self._threads = set(threading.enumerate())

    def put_back(self, own: str = "") -> list[str]:
        """Put back what changed since, and say what it was: `changed the working directory from A to B`, ...

        Random state is put back without a word: what draws from it changes only itself.

        Args:
            own: the top-level module of the plugin that ran, which may change what is its own.
        """
        sentences = [
            sentence for setting in SETTINGS if (sentence := _put_back(setting, self._values[setting.name])) is not None
        ]
        found = self._code.put_back(own) if self._code is not None else []
        if found:
            sentences.append(f"replaced code of others: {some(found)}")
        _put_randomness_back(self._randomness)
        return sentences

    def left_running(self, own: str) -> list[threading.Thread]:
        """Threads begun since that are in a plugin's code, or will be, and do not end within a second.

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
    if thread is threading.current_thread():
        return False
    called = getattr(thread, "function", None) or getattr(thread, "_target", None)  # of a timer, which only waits as yet
    if isinstance(thread, threading.Timer) or _top(type(thread).__module__) == top or _top(_module(called)) == top:
        return True
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if _top(str(frame.f_globals.get("__name__", ""))) == top:
            return True
        frame = frame.f_back
    return False


def _top(module: str) -> str:
    return module.partition(".")[0]


def _module(function: Any) -> str:
    return str(getattr(getattr(function, "func", function), "__module__", ""))


def _read(setting: Setting) -> Any:
    """A value; what this build of torch does not have, or a folder that was deleted, counts as unchanged."""
    try:
        return setting.read()
    except (RuntimeError, AttributeError, ValueError, OSError):
        return UNREADABLE


def _put_back(setting: Setting, before: Any) -> str | None:
    now = _read(setting)
    if before is UNREADABLE or now == before:
        return None
    setting.write(before)
    if setting.name == "environment variables":
        names = sorted(
            name
            for name in {*before, *now}
            if before.get(name) != now.get(name) and not (name not in before and name.startswith(OF_LIBRARIES))
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
