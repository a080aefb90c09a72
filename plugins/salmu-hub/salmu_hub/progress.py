"""How many bytes of a download have come, told while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from salmu_hub.hub_errors import explain as explain


def byte_counter(tell: Callable[[int], None]) -> type:
    """A progress bar class for huggingface_hub that shows nothing and tells how many bytes came."""
    from tqdm.std import tqdm

    lock = threading.Lock()
    counts: dict[int, int] = {}

    class ByteCounter(tqdm):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self._counts_bytes = settings.get("unit") == "B"  # others count files
            super().__init__(*arguments, **{**settings, "disable": True})

        def update(self, n: float | None = 1) -> None:
            if self._counts_bytes and n:
                with lock:
                    # Bytes received and bytes written are two bars: the one that is ahead is shown.
                    counts[id(self)] = counts.get(id(self), 0) + int(n)
                    tell(max(counts.values()))

    return ByteCounter
