"""What commands read and print through: terminals that take only ASCII, full disks, names that are not UTF-8."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
import threading
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from salmu_core.errors import BadOptions, OutputError, SalmuError
from salmu_core.files.names import visible

#: Signs of ours that have a plain counterpart; letters lose their accents and everything else becomes "?".
_PLAIN = {
    "–": "-",
    "—": "-",
    "−": "-",
    "·": "-",
    "’": "'",
    "“": '"',
    "”": '"',
    "…": "...",
    "×": "x",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
}
_STREAM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def prepare_streams() -> None:
    """Let a stream that cannot show a sign show a plainer one, and one that is closed take everything. Else the program would end."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    codecs.register_error("salmu-plain", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # tests put other objects there
            stream.reconfigure(errors="salmu-plain")
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    """A warning of ours as the sentence that it is; those of others with the line of code that Python adds."""
    ours = category is UserWarning and any(part.startswith("salmu_") for part in Path(filename).parts)
    text = f"warning: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    with contextlib.suppress(OSError):
        (file or sys.stderr).write(visible(text))


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse names that cannot be written into a record, which is UTF-8, and to work in a folder that is gone.

    Raises:
        BadOptions: bytes of an argument are not UTF-8, or the current folder was removed.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise BadOptions("The current folder does not exist any more.", "Change to another folder first.") from None
    for argument in arguments:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            raise BadOptions(
                f"'{shown}' is not UTF-8, and records name their files in UTF-8.",
                "Rename it, or give it by a link of another name.",
            )


def system_error(error: OSError) -> SalmuError | None:
    """One line for what the system refuses at a place that the user chose; None for a bug."""
    reason = error.strerror or str(error)
    if error.filename is not None and error.errno is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
        shown = name if len(name) <= 120 else f"{name[:100]}... ({len(name)} characters)"
        return OutputError(f"'{shown}' cannot be used: {reason}.", "Choose another place or name.")
    # Every file is written through `salmu_core.files.writing`, which names it: what is left is a stream.
    return OutputError(f"The output cannot be written: {reason}.") if error.errno in _STREAM else None


def flush_output() -> None:
    """Write what is still held back, while a problem can be told in a line. Whoever reads has read enough: the program ends.

    Raises:
        OutputError: standard output is full.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        give_up_output()
        sys.exit(1)
    except OSError as error:
        raise OutputError(f"The output cannot be written: {error.strerror or error}.") from None


class _Results(io.TextIOWrapper):
    """Standard output of the command itself: what threads print goes where plugins print."""

    def write(self, text: str, /) -> int:
        return super().write(text) if threading.current_thread() is threading.main_thread() else sys.stderr.write(text)


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Let nothing but results reach standard output until the process ends: plugins print in threads, at its end and past Python."""
    before, number = sys.stdout, sys.stdout.fileno()
    sys.stdout = _Results(open(os.dup(number), "wb"), encoding=before.encoding, errors="salmu-plain")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), number)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stdout = before


def give_up_output() -> None:
    """Let nothing more be written to standard output: the interpreter would try once more at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_plain(sign) for sign in signs), error.end


def _plain(sign: str) -> str:
    if sign in _PLAIN:
        return _PLAIN[sign]
    bare = "".join(part for part in unicodedata.normalize("NFKD", sign) if part.isascii())
    return bare or "?"
