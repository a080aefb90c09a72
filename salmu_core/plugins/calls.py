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
#: Those that an import left behind: they are in every process that loads the plugin, so they are told of and nothing is refused.
_imported: dict[threading.Thread, str] = {}


class _Left(BaseException):
    """Raised in place of `os._exit`."""


@contextlib.contextmanager
def plugin_code(
    who: str,
    warn: Warn,
    state: ProcessState | None = None,
    own: str = "",
    passing: tuple[type[BaseException], ...] = (),
    importing: bool = False,
) -> Iterator[None]:
    """Around a call of a plugin's code.

    Beside a thread that an earlier call left behind nothing is called: it may change any number while it runs, and none can end it.

    Args:
        who: whose code it is, as the beginning of a sentence.
        warn: told in a sentence what had to be put back.
        state: of the process before, where several calls share one; default: as it is now.
        own: the plugin's top-level module, which may change itself.
        passing: exceptions that go through as they are, being the caller's own.
        importing: the plugin is imported, and may begin threads.

    Raises:
        PluginFailure: it left a thread running, or another plugin did before; it called `sys.exit` or `os._exit`, or raised
            KeyboardInterrupt or another exception outside `Exception`.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    from salmu_core.plugins.process_state import ProcessState

    if not importing:
        _look_for_threads(who, warn)
    state = state or ProcessState()
    left: list[threading.Thread] = []

    def told(what: str) -> None:
        warn(f"{who} {what}. It was put back.")

    try:
        with no_exit(who, told, passing):
            yield
    finally:
        # Threads first: one that ends by itself soon may change something until then.
        left += [thread for thread in state.left_running(own) if thread not in _lingering and thread not in _imported]
        (_imported if importing else _lingering).update(dict.fromkeys(left, f"The import of {own}" if importing else who))
        for sentence in state.put_back(own):
            told(sentence)
    if left and importing:
        warn(f"{who} left a thread running ({left[0].name}), which may change numbers of every run.")
    elif left:
        raise PluginFailure(f"{who} left a thread running ({left[0].name}).", "End it before you return.")


@contextlib.contextmanager
def asked(who: str, warn: Warn = lambda sentence: None, state: ProcessState | None = None) -> Iterator[None]:
    """`plugin_code` around a small question, such as what a metric needs, or around an observer that is told of a step.

    Settings of the process are put back. Functions and threads are not looked at: that takes longer.

    Args:
        state: of the settings before, where several questions share one; default: as it is now.

    Raises:
        PluginFailure: see `no_exit`.
    """
    from salmu_core.plugins.process_state import ProcessState

    state = state or ProcessState(code=False)

    def told(what: str) -> None:
        warn(f"{who} {what}. It was put back.")

    try:
        with no_exit(who, told):
            yield
    finally:
        for sentence in state.put_back():
            told(sentence)


def thread_left() -> str | None:
    """Which plugin left a thread running in this process, so that nobody can trust its numbers any more; None: not any."""
    for thread, whose in list(_lingering.items()):
        if thread.is_alive():
            return f"{whose} left a thread running in this process ({thread.name})"
        del _lingering[thread]
    return None


def any_thread_left() -> bool:
    """Does a thread of a plugin's still run, whenever it began? The interpreter would wait for it before it ends."""
    return any(thread.is_alive() for thread in (*_lingering, *_imported))


def _look_for_threads(who: str, warn: Warn) -> None:
    """Before a call: refuse it, or say what runs beside it."""
    if (sentence := thread_left()) is not None:
        raise PluginFailure(f"{who} was not called: {sentence}, which may change any number.", "Start a new process.")
    for thread, whose in _imported.items():
        if thread.is_alive():
            warn(f"{whose} left a thread running ({thread.name}), which may change numbers of every run.")


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
