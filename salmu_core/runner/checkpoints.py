"""Checkpoints of a run's fits, so that `kill -9` costs seconds and not the run.

One safetensors file per fit, replaced atomically. A method is replayed from its start when its run is resumed: a fit that was
finished hands back its final weights, the one that was cut goes on from its last checkpoint, and whatever happens between
fits is computed again. Methods are deterministic, so this ends at the weights of an uninterrupted run.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from salmu_core.errors import DamagedFile, OutputError
from salmu_core.files.writing import read_tensors, remove_leftovers, write_tensors


def disk_for_training(weight_bytes: int) -> int:
    """Bytes that a run takes on disk while it trains, at most: its model, and two checkpoints of weights and both moments
    of AdamW, since the last one stays until the next is complete."""
    return weight_bytes + 2 * 3 * weight_bytes


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below a prefix, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): tensor for name, tensor in self.tensors.items() if name.startswith(start)}


#: Share of a fit's time that writing checkpoints may take.
WRITING_SHARE = 0.05


class Checkpoints:
    """The checkpoint files of one run. A new one replaces the last one when it is complete and not before.

    Args:
        folder: holds them.
        run: what tells it from others; those of another run are refused.
        every_seconds: least time between two of them; those that take long to write come less often, so that writing
            takes no more than `WRITING_SHARE` of the time. 0: after every step, whatever that takes.
    """

    def __init__(self, folder: Path, every_seconds: float = 30.0, run: str = "") -> None:
        self.folder = folder
        self.run = run
        self.every_seconds = every_seconds
        self._written_at = time.monotonic()
        self._write_seconds = 0.0

    def due(self) -> bool:
        """Is it time for another?"""
        pause = self.every_seconds and max(self.every_seconds, self._write_seconds * (1 / WRITING_SHARE - 1))
        return time.monotonic() - self._written_at >= pause

    def read(self, fit: int) -> Saved | None:
        """The checkpoint of the fit of that number, if there is one.

        Raises:
            OutputError: the file is there and is damaged, or was written by another run or another fit.
        """
        self._written_at = time.monotonic()  # a fit that begins has nothing to lose yet
        path = self._path(fit)
        if not path.is_file():
            return None
        try:
            tensors, metadata = read_tensors(path)
            saved = Saved(tensors, json.loads(metadata["salmu"]))
        except (DamagedFile, KeyError, json.JSONDecodeError) as error:
            said = error.message if isinstance(error, DamagedFile) else f"it lacks {error}"
            raise OutputError(f"The checkpoint '{path}' is damaged: {said}", "Delete it to start the run over.") from error
        if metadata.get("whose", self._whose(fit)) != self._whose(fit):  # earlier versions did not say
            raise OutputError(
                f"The checkpoint '{path}' was written by another run, or by another fit of this one.",
                "Delete it to start the run over, or put back the file that was there.",
            )
        return saved

    def write(self, fit: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint of a fit. What processes that were killed while writing left behind is removed first.

        Raises:
            OutputError: the disk is full or the place cannot be written; the last checkpoint is still there.
        """
        started = time.monotonic()
        remove_leftovers(self.folder)
        try:
            write_tensors(self._path(fit), tensors, {"salmu": json.dumps(facts), "whose": self._whose(fit)})
        finally:
            self._written_at = time.monotonic()
            self._write_seconds = self._written_at - started

    def clear(self) -> None:
        """Forget all checkpoints, when the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _whose(self, fit: int) -> str:
        return f"{self.run}/{fit}"

    def _path(self, fit: int) -> Path:
        return self.folder / f"fit-{fit:03d}.safetensors"
