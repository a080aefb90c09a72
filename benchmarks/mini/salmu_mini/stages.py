"""Run the training stages of the pair: in processes with a thread each, or here where there is an accelerator."""

from __future__ import annotations

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
from salmu_mini.train import Stage, train_stage
from salmubench import Snapshot

#: A launcher's variables would make the processes wait for each other as one distributed job.
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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

    def train(self, stages: Sequence[Stage], title: str, tell: Report, before: Callable[[], None] = lambda: None) -> None:
        """Train what is missing of `stages`, side by side.

        Args:
            before: called before training begins, while processes start.

        Raises:
            SalmuError: a process failed; the next call goes on from the last checkpoint.
        """
        missing = [stage for stage in stages if not self.trained(stage)]
        if not torch.cuda.is_available():
            self._in_processes(missing, title, tell, before)
            return
        before()
        for stage in missing:

            def steps(done: int, total: int, stage: str = stage) -> None:
                tell(BuildStep(f"train {stage}", done, total))

            train_stage(
                self.snapshot, stage, self.seed, self.size, self.folder / stage, self.start(stage), self.share, steps
            )

    def _in_processes(self, missing: Sequence[Stage], title: str, tell: Report, before: Callable[[], None]) -> None:
        progress: dict[Stage, tuple[int, int]] = {}
        children = {stage: self._process(stage) for stage in missing}
        errors: dict[Stage, str] = {}

        def listen(stage: Stage) -> None:
            stream = children[stage].stdout
            assert stream is not None
            for line in stream:
                fact = json.loads(line)
                progress[stage] = (fact["done"], fact["total"])
                done, total = (sum(part[i] for part in progress.copy().values()) for i in (0, 1))
                tell(BuildStep(title, done, total))

        def collect(stage: Stage) -> None:
            stream = children[stage].stderr
            assert stream is not None
            errors[stage] = stream.read()

        threads = [threading.Thread(target=work, args=(stage,)) for stage in missing for work in (listen, collect)]
        try:
            for thread in threads:
                thread.start()
            before()
            if missing:
                tell(BuildStep("start training", 0, 0))
            for child in children.values():
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            for thread in threads:
                thread.join()
            # A process that ends well and leaves no model was told to stop.
            failed = [stage for stage in missing if children[stage].wait() != 0 or not self.trained(stage)]
        finally:
            for child in children.values():
                if child.poll() is None:
                    child.terminate()
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
