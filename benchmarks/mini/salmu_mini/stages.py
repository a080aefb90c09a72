"""Run the training stages of the pair: in processes with a thread each, or here where there is an accelerator."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from salmu_core import SalmuError
from salmu_core.benchmark import BuildStep, Report
from salmu_mini.recipe import RECIPES
from salmu_mini.train import Stage, steps_of, train_stage
from salmubench import Snapshot

ORDER: tuple[Stage, ...] = ("first", "clean", "compromised")
#: A launcher's variables would make the processes wait for each other as one distributed job.
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def trains_in_processes() -> bool:
    """Each stage in a process and a thread of its own: not where there is an accelerator, which one process is enough for."""
    return not torch.cuda.is_available()


@dataclass(frozen=True)
class Stages:
    """The stages of one instance. Each is a model in a folder of its own.

    Attributes:
        share: of the recipe's steps.
        folder: where the stages' folders lie.
    """

    snapshot: Snapshot
    seed: int
    size: str
    share: float
    folder: Path

    def trained(self, stage: Stage) -> bool:
        """Is that stage's model here?"""
        return (self.folder / stage / "model.safetensors").is_file()

    def start(self, stage: Stage) -> Path | None:
        """The model that a stage goes on from."""
        return None if stage == "first" else self.folder / "first"

    def train(self, tell: Report, draw: Callable[[], None]) -> None:
        """Train what is missing.

        Args:
            draw: makes the data; called while processes start.

        Raises:
            SalmuError: a process failed; the next call goes on from the last checkpoint.
        """
        missing: list[Stage] = [stage for stage in ORDER if not self.trained(stage)]
        if trains_in_processes():
            self._elsewhere(missing, tell, draw)
            return
        draw()
        for stage in missing:

            def steps(done: int, total: int, stage: str = stage) -> None:
                tell(BuildStep(f"train {stage}", done, total))

            train_stage(
                self.snapshot, stage, self.seed, self.size, self.folder / stage, self.start(stage), self.share, steps
            )

    def _elsewhere(self, missing: Sequence[Stage], tell: Report, draw: Callable[[], None]) -> None:
        """Have `salmu_mini.train` train stages, which starts while the data is drawn."""
        if not missing:
            draw()
            return
        child = self._process(missing)
        try:
            draw()
            tell(BuildStep("start training", 0, 0))
            self._wait(missing, child, tell)
        finally:
            if child.poll() is None:
                child.terminate()

    def _steps(self, stage: Stage) -> int:
        recipe = RECIPES[self.size]
        return steps_of(recipe, 1 if stage == "first" else 2, self.share)

    def _wait(self, stages: Sequence[Stage], child: subprocess.Popen[str], tell: Report) -> None:
        """Let it train, tell how many steps the slowest has done, and wait for its end."""
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        said: list[str] = []
        errors = threading.Thread(target=lambda stream: said.append(stream.read()), args=(child.stderr,))
        errors.start()
        with contextlib.suppress(BrokenPipeError):  # it has died; what it said is told below
            child.stdin.write("go\n")
            child.stdin.flush()
        first, second = (self._steps(stage) for stage in ("first", "clean"))
        progress: dict[str, int] = dict.fromkeys((stage for stage in stages if stage != "first"), 0)
        for line in child.stdout:
            fact = json.loads(line)
            if fact["stage"] == "first":
                done = fact["done"]
            else:  # both models of the second stage train side by side: their steps count once
                progress[fact["stage"]] = fact["done"]
                done = first + min(progress.values())
            tell(BuildStep("train the pair", done, first + second))
        errors.join()
        # A process that ends well and leaves no model was told to stop.
        failed = [stage for stage in stages if not self.trained(stage)]
        if child.wait() != 0 or failed:
            raise SalmuError(
                f"Training the {(failed or stages)[0]} model of mini failed: {said[0].strip().splitlines()[-1:]}",
                "Run `salmu build mini` again; it goes on from the last checkpoint.",
            )

    def _process(self, stages: Sequence[Stage]) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        for variable in _LAUNCHER:
            environment.pop(variable, None)
        words = [str(self.snapshot.folder), str(self.seed), self.size, str(self.share), str(self.folder), *stages]
        return subprocess.Popen(
            [sys.executable, "-m", "salmu_mini.train", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
