"""The embedded benchmark: generated, trained and cached on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock

from salmu_core import DualEncoder, Field, Options, SalmuError
from salmu_core.benchmark import BuildStep, Report
from salmu_core.errors import NotBuilt
from salmu_core.files import check_writable, write_json
from salmu_core.model import load_model
from salmu_core.runner.presets import read_presets
from salmu_mini.generate import generate
from salmu_mini.recipe import RECIPES
from salmu_mini.sizes import SIZES
from salmu_mini.train import train_model
from salmubench import Snapshot, SnapshotBenchmark, write_snapshot
from salmubench.tables import Tables

READY = "ready.json"


@cache
def _shipped_presets() -> Mapping[str, Mapping[str, Any]]:
    return read_presets(Path(__file__).with_name("presets"))


class MiniOptions(Options):
    """Options of `mini`."""

    seed: int = Field(0, ge=0, description="seed of people, pictures and training")
    size: Literal["tiny", "mini", "resnet", "small"] = Field(
        "mini",
        description="tiny: seconds, measures nothing; mini: minutes on two cores; resnet: the same with ResNet image encoders;"
        " small: 774 people, for a GPU",
    )
    epochs: float | None = Field(None, gt=0, description="passes over the training pairs; none: the size's own")


class Mini(SnapshotBenchmark):
    """SALMUBench's structure at a size that two cores generate and train in minutes, offline."""

    name = "mini"
    version = "1"
    summary = "Embedded SALMUBench: fictitious people and drawn portraits, a Clean/Compromised pair trained on this machine."
    paper = "https://arxiv.org/abs/2603.26316"
    Options = MiniOptions
    shows_rows = True  # nobody in it exists

    @property
    def folder(self) -> Path:
        """Where this instance lives; another size, seed or recipe lives elsewhere."""
        size = self.options.size
        recipe = RECIPES[size]
        content = [
            self.version,
            asdict(SIZES[size]),
            recipe.model.as_json(),
            recipe.options.model_dump(),
            recipe.largest_scale,
        ]
        content.append(self.options.epochs)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return self.cache / "mini" / f"{size}-seed{self.options.seed}-{digest}"

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return _shipped_presets()

    def ready(self) -> bool:
        return (self.folder / READY).is_file()

    def snapshot(self) -> Snapshot:
        if not self.ready():
            raise NotBuilt(
                f"The benchmark mini ({self.options.size}, seed {self.options.seed}) is not built.",
                "Run `salmu build mini`.",
            )
        return Snapshot(self.folder / "snapshot")

    def load_model(self, which: Literal["clean", "compromised"]) -> DualEncoder:
        self.snapshot()
        return load_model(self.folder / which)

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        tell = report or (lambda step: None)
        check_writable(self.folder.parent, needed_bytes=200_000_000)
        # Two commands started at once must not train the same pair twice.
        with FileLock(self.folder.with_suffix(".lock")):
            if rebuild:
                shutil.rmtree(self.folder, ignore_errors=True)
            if self.ready():
                return
            snapshot = Snapshot(self.folder / "snapshot")
            missing = [which for which in ("clean", "compromised") if not self._trained(which)]
            if torch.cuda.is_available():
                self._draw(snapshot, tell)
                self._train_here(missing, snapshot, tell)
            else:
                self._train_side_by_side(missing, snapshot, tell)
            write_json(self.folder / READY, {"options": self.options.model_dump(), "version": self.version})

    def _trained(self, which: str) -> bool:
        return (self.folder / which / "model.safetensors").is_file()

    def _draw(self, snapshot: Snapshot, tell: Report) -> None:
        """Generate the data and write it, unless that is done."""
        marker = self.folder / "generated.json"
        if marker.is_file():
            return
        tables = self._tables(lambda done, total: tell(BuildStep("draw pictures", done, total)))
        write_snapshot(snapshot.folder, tables)
        write_json(marker, {"splits": {name: len(rows) for name, rows in tables.splits.items()}})

    def _tables(self, tell: Callable[[int, int], None]) -> Tables:
        """Everything that this instance consists of."""
        return generate(SIZES[self.options.size], self.options.seed, tell)

    def _train_here(self, missing: list[str], snapshot: Snapshot, tell: Report) -> None:
        """One after the other on the accelerator."""
        for which in missing:

            def steps(done: int, total: int, which: str = which) -> None:
                tell(BuildStep(f"train {which}", done, total))

            name: Literal["clean", "compromised"] = "clean" if which == "clean" else "compromised"
            target = self.folder / which
            train_model(snapshot, name, self.options.seed, self.options.size, target, self.options.epochs, steps)

    def _train_side_by_side(self, missing: list[str], snapshot: Snapshot, tell: Report) -> None:
        """Both at once, a process and a thread each; the data is drawn while they start."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        # A launcher's variables would make the children wait for each other as one distributed job.
        for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(variable, None)
        progress = dict.fromkeys(missing, (0, 1))
        children = {}
        epochs = "none" if self.options.epochs is None else str(self.options.epochs)
        for which in missing:
            command = [sys.executable, "-m", "salmu_mini.train", str(snapshot.folder), which, str(self.options.seed)]
            command += [self.options.size, epochs, str(self.folder / which)]
            children[which] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        errors: dict[str, str] = {}

        def listen(which: str) -> None:
            stream = children[which].stdout
            assert stream is not None
            for line in stream:
                fact = json.loads(line)
                progress[which] = (fact["done"], fact["total"])
                done, total = (sum(part[i] for part in progress.values()) for i in (0, 1))
                tell(BuildStep("train Clean and Compromised", done, total))

        def collect(which: str) -> None:
            stream = children[which].stderr
            assert stream is not None
            errors[which] = stream.read()

        threads = [threading.Thread(target=work, args=(which,)) for which in missing for work in (listen, collect)]
        try:
            for thread in threads:
                thread.start()
            self._draw(snapshot, tell)
            tell(BuildStep("start training", 0, 0))
            for child in children.values():
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            for thread in threads:
                thread.join()
            # A child that ends well and leaves no model was told to stop.
            failed = [which for which in missing if children[which].wait() != 0 or not self._trained(which)]
        finally:
            for child in children.values():
                if child.poll() is None:
                    child.terminate()
        if failed:
            raise SalmuError(
                f"Training the {failed[0]} model of mini failed: {errors[failed[0]].strip().splitlines()[-1:]}",
                "Run `salmu build mini` again; it goes on from the last checkpoint.",
            )
