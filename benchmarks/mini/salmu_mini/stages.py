"""Run the training stages of the pair: in processes with a thread each, or here where there is an accelerator."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
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
            self._in_processes(missing, tell, draw)
            return
        draw()
        for stage in missing:

            def steps(done: int, total: int, stage: str = stage) -> None:
                tell(BuildStep(f"train {stage}", done, total))

            train_stage(
                self.snapshot, stage, self.seed, self.size, self.folder / stage, self.start(stage), self.share, steps
            )

    def _in_processes(self, missing: Sequence[Stage], tell: Report, draw: Callable[[], None]) -> None:
        # All start at once, since starting takes seconds; those of the second stage wait for the model of the first.
        children = {stage: self._process(stage) for stage in missing}
        try:
            draw()
            if missing:
                tell(BuildStep("start training", 0, 0))
            first, second = (self._steps(stage) for stage in ("first", "clean"))

            def count(done: int) -> None:
                tell(BuildStep("train the pair", done, first + second))

            self._wait([stage for stage in missing if stage == "first"], children, count)
            # Both models of the second stage train side by side: their steps count once.
            self._wait([stage for stage in missing if stage != "first"], children, lambda done: count(first + done))
        finally:
            for child in children.values():
                if child.poll() is None:
                    child.terminate()

    def _steps(self, stage: Stage) -> int:
        recipe = RECIPES[self.size]
        return steps_of(recipe, 1 if stage == "first" else 2, self.share)

    def _wait(
        self, stages: Sequence[Stage], children: Mapping[Stage, subprocess.Popen[str]], count: Callable[[int], None]
    ) -> None:
        """Let processes train side by side, tell how many steps the slowest has done, and wait for them."""
        progress: dict[Stage, int] = dict.fromkeys(stages, 0)
        errors: dict[Stage, str] = {}

        def listen(stage: Stage) -> None:
            stream = children[stage].stdout
            assert stream is not None
            for line in stream:
                progress[stage] = json.loads(line)["done"]
                count(min(progress.copy().values()))

        def collect(stage: Stage) -> None:
            stream = children[stage].stderr
            assert stream is not None
            errors[stage] = stream.read()

        threads = [threading.Thread(target=work, args=(stage,)) for stage in stages for work in (listen, collect)]
        for thread in threads:
            thread.start()
        for stage in stages:
            stream = children[stage].stdin
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # it has died; what it said is told below
                stream.write("go\n")
                stream.flush()
        for thread in threads:
            thread.join()
        # A process that ends well and leaves no model was told to stop.
        failed = [stage for stage in stages if children[stage].wait() != 0 or not self.trained(stage)]
        if failed:
            raise SalmuError(
                f"Training the {failed[0]} model of mini failed: {errors[failed[0]].strip().splitlines()[-1:]}",
                "Run `salmu build mini` again; it goes on from the last checkpoint.",
            )

    def _process(self, stage: Stage) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        for variable in _LAUNCHER:
            environment.pop(variable, None)
        start = self.start(stage)
        words = [str(self.snapshot.folder), stage, str(self.seed), self.size, str(self.share), str(self.folder / stage)]
        return subprocess.Popen(
            [sys.executable, "-m", "salmu_mini.train", *words, *([str(start)] if start else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
