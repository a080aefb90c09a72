"""That no process goes on working for one that is gone."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading

_leave = os._exit  # while a plugin's code runs, the name leads elsewhere


def die_with_parent() -> None:
    """End this process, which `multiprocessing` started, when the one that asked for it is gone, however it ended.

    Linux does it even where Python never gets to run again; elsewhere, and where the parent ended before this was called, a thread
    waits for the end of a pipe that only the parent holds open.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        _leave(1)

    threading.Thread(target=wait, name="salmu-parent", daemon=True).start()
