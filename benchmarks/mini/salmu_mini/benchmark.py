"""The embedded benchmark: generated, trained and cached on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from salmu_core import DualEncoder, Field, Options
from salmu_core.benchmark import Agreement, Budget, BuildStep, Download, Report, Terms
from salmu_core.data.splits import Split
from salmu_core.errors import BadData, BadOptions, DamagedFile, NotBuilt
from salmu_core.files.seals import check_folder, folder_checksums, read_json
from salmu_core.files.writing import check_writable, write_json, write_sealed_json
from salmu_core.models.loading import load_model
from salmu_core.spec.presets import read_presets
from salmu_mini import shipped
from salmu_mini.agreement import compare_instances
from salmu_mini.generate import generate
from salmu_mini.locking import alone
from salmu_mini.recipe import RECIPES
from salmu_mini.remote import Source
from salmu_mini.requirements import Measured, measure
from salmu_mini.sizes import SIZES
from salmu_mini.stages import Stages
from salmu_mini.stand_ins import draw_stand_ins
from salmubench import Snapshot, SnapshotBenchmark, write_snapshot
from salmubench.tables import Tables

READY = "ready.json"


@cache
def _shipped_presets(budget: float) -> Mapping[str, Mapping[str, Any]]:
    return read_presets(Path(__file__).with_name("presets"), budget)


class MiniOptions(Options):
    """Options of `mini`."""

    seed: int = Field(0, ge=0, description="seed of people, pictures and training")
    size: Literal["tiny", "mini", "resnet", "small"] = Field(
        "mini",
        description="tiny: seconds, measures nothing; mini: minutes on two cores; resnet: the same with ResNet image encoders;"
        " small: 774 people, for a GPU",
    )
    share: float | None = Field(None, gt=0, le=1, description="share of the training steps; none: all of them")


class Mini(SnapshotBenchmark):
    """SALMUBench's structure at a size that two cores generate and train in minutes, offline."""

    name = "mini"
    standard = True
    version = "2"
    summary = "Embedded SALMUBench: fictitious people and drawn portraits, a Clean/Compromised pair trained on this machine."
    paper = "https://arxiv.org/abs/2603.26316"
    Options = MiniOptions
    shows_rows = True  # nobody in it exists

    #: 5x is ten passes over forget, SALMUBench's own unit as far as it is known (see SnapshotBenchmark); 1x is a quick look.
    passes = 2
    #: Ordinary data is plenty in reality: a method may see three times as much of it as of forget.
    retain_passes = 6

    #: Where the instance lies that comes with the package.
    shipped_folder = shipped.FOLDER
    _source: Source | None = None

    @property
    def folder(self) -> Path:
        """Where this instance lives: in the package, or in the cache, where another size, seed or recipe lives elsewhere."""
        return self.shipped_folder if self.shipped else self.built

    @property
    def shipped(self) -> bool:
        """Is this the instance that comes with the package?"""
        return shipped.shipped_name(self.shipped_folder) == self.built.name

    @property
    def built(self) -> Path:
        """Where a build of this instance lives."""
        size = self.options.size
        recipe = RECIPES[size]
        content = [self.version, asdict(SIZES[size]), recipe.as_json(), self.options.share]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return self.cache / "mini" / f"{size}-seed{self.options.seed}-{digest}"

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return _shipped_presets(1.0)

    def presets_for(self, budget: float) -> Mapping[str, Mapping[str, Any]]:
        return _shipped_presets(budget)

    def pretraining_rate(self) -> float:
        recipe = RECIPES[self.options.size]
        return max(recipe.first_lr, recipe.second_lr)

    def stand_ins(self) -> Mapping[str, Split]:
        return draw_stand_ins(SIZES[self.options.size], self.options.seed)

    def budget(self) -> Budget:
        rows = len(self.split("forget"))
        return Budget(forget=self.passes * rows, retain=self.retain_passes * rows)

    def ready(self) -> bool:
        return self.shipped or (self.built / READY).is_file()

    def snapshot(self) -> Snapshot:
        if not self.ready():
            raise NotBuilt(
                f"The benchmark mini ({self.options.size}, seed {self.options.seed}) is not built.",
                "Run `salmu build mini`.",
            )
        if self.shipped:
            shipped.check_instance(self.shipped_folder)
        else:
            assert self._unchanged
        return Snapshot(self.folder / "snapshot")

    def load_model(self, which: Literal["clean", "compromised"]) -> DualEncoder:
        self.snapshot()
        return load_model(self.folder / which)

    @cached_property
    def _unchanged(self) -> bool:
        """Are all files as they were built? Looked at once in the life of this object. Instances that salmu 0.1 built do not say.

        Raises:
            BadData: one is not. It is not built again by itself: other versions of libraries may give another pair.
        """
        try:
            check_folder(self.folder, read_json(self.folder / READY, sealed_with={"files"}).get("files", {}))
        except (DamagedFile, OSError, AttributeError) as error:
            options = f"--bench-set size={self.options.size} --bench-set seed={self.options.seed}"
            raise BadData(
                f"The built instance of mini is not what it was: {getattr(error, 'message', error)}",
                f"Build it again: `salmu build mini --rebuild {options}`.",
            ) from error
        return True

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        if self.shipped:
            if rebuild:
                raise BadOptions(
                    f"The instance {self.built.name} of mini comes with the package and is not built here.",
                    "`salmu build mini --from-scratch` makes it again and compares.",
                )
            return
        tell = report or (lambda step: None)
        check_writable(self.built.parent, needed_bytes=200_000_000)
        # Two commands started at once must not train the same pair twice.
        with alone(self.built.with_suffix(".lock"), tell):
            if rebuild:
                shutil.rmtree(self.built, ignore_errors=True)
            if (self.built / READY).is_file():
                return
            snapshot = Snapshot(self.built / "snapshot")
            share = 1.0 if self.options.share is None else self.options.share
            stages = Stages(snapshot, self.options.seed, self.options.size, share, self.built)
            stages.train(tell, draw=lambda: self._draw(snapshot, tell))
            self.__dict__.pop("_unchanged", None)  # of the instance that was there before
            found = self._checked(tell)
            write_sealed_json(self.built / READY, {**self._facts(), **found, "files": folder_checksums(self.built)})

    def _facts(self) -> dict[str, Any]:
        return {"options": self.options.model_dump(), "version": self.version}

    def _checked(self, tell: Report) -> dict[str, Any]:
        """What the finished pair scores, and which requirements it meets. Sizes and shares that measure nothing are not measured.

        Raises:
            BadData: Clean itself reads catastrophic against Compromised.
        """
        if self.options.size == "tiny" or self.options.share is not None:
            return {}
        tell(BuildStep("measure the pair", 0, 1))
        found = measure(AsBuilt(self.options, self.cache))
        tell(BuildStep("measure the pair", 1, 1))
        return judged(found, self.built.name)

    def pull(self, report: Report | None = None) -> None:
        source = self.source
        if source is None or self.ready():
            self.build(report)
            return
        tell = report or (lambda step: None)
        check_writable(self.built.parent, needed_bytes=200_000_000)
        with alone(self.built.with_suffix(".lock"), tell):
            if not (self.built / READY).is_file():
                source.fetch(self.built.name, self.built, self._facts(), tell)

    @property
    def source(self) -> Source | None:
        """The repository that instances are pulled from, where there is one."""
        return self._source or Source.pinned()

    def choose_source(self, source: str) -> None:
        self._source = Source.parse(source)

    def downloads(self) -> Sequence[Download]:
        return () if self.source is None or self.ready() else self.source.downloads(self.built.name)

    def terms(self) -> Sequence[Terms]:
        """Of a repository's owner, for what is or will be pulled from it; none for what this package ships or builds."""
        if self.shipped:
            return ()
        if (self.built / READY).is_file():
            return [Terms(**stated) for stated in read_json(self.built / READY).get("terms", ())]
        return () if self.source is None else self.source.terms()

    def from_scratch(self, report: Report | None = None) -> Sequence[Agreement]:
        if not self.shipped:
            return super().from_scratch(report)
        place = self.cache / "from-scratch"
        made = AsBuilt(self.options, place)
        if (made.built / READY).is_file():  # of an earlier time; what was cut before it was ready goes on
            shutil.rmtree(place)
        made.build(report)
        agreements = compare_instances(self, made, report or (lambda step: None))
        shutil.rmtree(place)
        return agreements

    def _draw(self, snapshot: Snapshot, tell: Report) -> None:
        """Generate the data and write it, unless that is done."""
        marker = self.built / "generated.json"
        if marker.is_file():
            return
        tables = self._tables(lambda done, total: tell(BuildStep("draw pictures", done, total)))
        write_snapshot(snapshot.folder, tables)
        write_json(marker, {"splits": {name: len(rows) for name, rows in tables.splits.items()}})

    def _tables(self, tell: Callable[[int, int], None]) -> Tables:
        """Everything that this instance consists of."""
        return generate(SIZES[self.options.size], self.options.seed, tell)


class AsBuilt(Mini):
    """An instance as it lies in the cache, whether or not it was declared ready, and never the shipped one."""

    @property
    def shipped(self) -> bool:
        return False

    def snapshot(self) -> Snapshot:
        return Snapshot(self.built / "snapshot")


def judged(found: Measured, name: str) -> dict[str, Any]:
    """What ready.json says of a measured pair; a warning where it misses a requirement.

    Raises:
        BadData: Clean itself reads catastrophic against Compromised.
    """
    if found.ruined:
        raise BadData(
            f"The pair {name} cannot be measured on: its Clean model itself reads catastrophic. {found.ruined}",
            "Take another seed.",
        )
    checks = found.checks()
    missed = [f"{check['requirement']} (found {check['found']})" for check in checks if check["met"] is False]
    if missed:
        warnings.warn(f"The pair {name} misses what mini asks of one: {'; '.join(missed)}.", stacklevel=2)
    rounded = {which: {key: round(value, 6) for key, value in values.items()} for which, values in found.values.items()}
    return {"requirements": checks, "values": rounded}
