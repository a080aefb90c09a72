"""Calling code of a plugin so that whatever it does ends at most what it was called for.

Exceptions are the caller's to catch. What is caught here is what no `except Exception` sees: `sys.exit`, `os._exit`, a
KeyboardInterrupt that nobody pressed, what it prints, and what it leaves changed in the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading

# `signal`'s own makes an enum of what it finds, sixty times at every call of a plugin's code.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from salmu_core.errors import PluginFailure

if TYPE_CHECKING:
    from salmu_core.plugins.process_state import ProcessState

Warn = Callable[[str], None]
_SIGNALS = tuple(map(int, signal.valid_signals()))
#: What results are printed to, while plugins print to standard error; the innermost last.
_results: list[TextIO] = []
#: Threads that outlived the call of a plugin's code, and whose they are. Nothing can end them but the process.
_lingering: dict[threading.Thread, str] = {}


class _Left(BaseException):
    """Raised in place of `os._exit`."""


@contextlib.contextmanager
def plugin_code(
    who: str, warn: Warn, state: ProcessState | None = None, own: str = "", passing: tuple[type[BaseException], ...] = ()
) -> Iterator[None]:
    """Around a call of a plugin's code.

    Args:
        who: whose code it is, as the beginning of a sentence.
        warn: told in a sentence what had to be put back.
        state: of the process before, where several calls share one; default: as it is now.
        own: the plugin's top-level module, which may change itself.
        passing: exceptions that go through as they are, being the caller's own.

    Raises:
        PluginFailure: it called `sys.exit` or `os._exit`, or raised KeyboardInterrupt or another exception outside `Exception`.
        KeyboardInterrupt: Ctrl-C was pressed.
    """

    from salmu_core.plugins.process_state import ProcessState

    state = state or ProcessState()

    def told(what: str) -> None:
        warn(f"{who} {what}. It was put back.")

    try:
        with no_exit(who, told, passing):
            yield
    finally:
        for sentence in state.put_back(own):
            told(sentence)
        _tell_of_threads(who, state.left_running(own), warn)


def _tell_of_threads(who: str, left: list[threading.Thread], warn: Warn) -> None:
    """Say which threads of plugins go on: this one's, and those of others, which were there while it ran."""
    for thread, whose in list(_lingering.items()):
        if not thread.is_alive():
            del _lingering[thread]
        elif whose != who:
            warn(f"{whose} had left a thread running ({thread.name}), which may have changed numbers of this run.")
    for thread in left:
        if thread not in _lingering:
            _lingering[thread] = who
            warn(f"{who} left a thread running ({thread.name}), which may change what this process does later.")


@contextlib.contextmanager
def no_exit(who: str, told: Warn = lambda what: None, passing: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """`plugin_code` without the state of the process, and without torch: whatever is called in here, the program goes on.

    Args:
        told: that handlers of signals were changed.
        passing: see `plugin_code`.
    """
    with _signals_noted(told) as received:
        try:
            with _exits_refused(), _printing_elsewhere():
                yield
        except Exception:
            raise
        except BaseException as error:
            if received or isinstance(error, (GeneratorExit, *passing)):
                raise
            raise PluginFailure(f"{who} {_what(error)}.", "Raise an exception to end with an error.") from error
        if signal.SIGINT in received:  # and the plugin swallowed it
            raise KeyboardInterrupt


def _what(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else repr(error.code)})"
    if isinstance(error, _Left):
        return f"called os._exit({error})"
    return f"raised {type(error).__name__}{f': {error}' if str(error) else ''}"


@contextlib.contextmanager
def _signals_noted(told: Warn) -> Iterator[list[int]]:
    """Numbers of the signals that arrive: what their handlers raise is not the plugin's doing. Handlers are afterwards as before."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # nowhere else do handlers run, or can be set
        yield received
        return
    before = {number: getsignal(number) for number in _SIGNALS}
    noting = {number: _noting(handler, received) for number, handler in before.items() if callable(handler)}
    for number, handler in noting.items():
        signal.signal(number, handler)
    try:
        yield received
    finally:
        changed = [number for number in before if getsignal(number) is not noting.get(number, before[number])]
        for number in {*noting, *changed}:
            if before[number] is not None:  # None: set by code that is not Python
                signal.signal(number, before[number])
        if changed:
            told(f"changed what is done on {', '.join(signal.Signals(number).name for number in changed)}")


def _noting(before: Callable[..., Any], received: list[int]) -> Callable[[int, Any], None]:
    def handler(number: int, frame: Any) -> None:
        received.append(number)
        before(number, frame)

    return handler


@contextlib.contextmanager
def _exits_refused() -> Iterator[None]:
    """`os._exit` raises in this process; children of it may still end themselves."""
    leave, process = os._exit, os.getpid()

    def refuse(status: int = 0) -> NoReturn:
        if os.getpid() != process:
            leave(status)
        raise _Left(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


@contextlib.contextmanager
def _printing_elsewhere() -> Iterator[None]:
    """What is printed goes to standard error: standard output is for results, which may be read by a program."""
    _results.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _results.pop()


@contextlib.contextmanager
def results_to_stdout() -> Iterator[None]:
    """Within a plugin's code: standard output as it was before, for observers that show how it goes on."""
    with contextlib.redirect_stdout(_results[0]) if _results else contextlib.nullcontext():
        yield
