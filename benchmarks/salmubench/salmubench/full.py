"""SALMUBench itself: the published data and pair of models, or a local snapshot in their layout."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from salmu_core.benchmark import Budget, BuildStep, Download, PublishedRow, Report, SplitInfo, Terms
from salmu_core.data.cache import DataCache
from salmu_core.data.images import ImagePlaces
from salmu_core.data.splits import Split
from salmu_core.errors import BadData, NotBuilt
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.options import Field, Options
from salmubench import hub, layout
from salmubench.benchmark import GENKNOW_SPLITS, SnapshotBenchmark
from salmubench.imagenet import ImageNet, load_imagenet
from salmubench.snapshot import Snapshot
from salmubench.sources import ModelSource

Which = Literal["clean", "compromised"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


class SalmubenchOptions(Options):
    """Options of `salmubench`."""

    data_dir: Path | None = Field(
        None, description="a snapshot on this machine, e.g. from `salmu data export`; none: the hub's, fetched once"
    )
    revision: str | None = Field(
        None, description="commit of the dataset on the hub, 40 hex digits; none: the one this version is defined by"
    )
    clean: str | None = Field(
        None,
        description="the Clean model: a directory, a .safetensors/.bin/.pt file, or hf-hub:OWNER/NAME@COMMIT; none: the"
        " folder clean/ of data_dir where it exists, else the hub's",
    )
    compromised: str | None = Field(None, description="the Compromised model, given like clean")
    architecture: str = Field(
        "ViT-B-16", description="open_clip architecture of weights that have no open_clip_config.json beside them"
    )
    passes: float = Field(
        10, gt=0, description="the 1x budget in passes over forget; ours, since SALMUBench's own unit is not published"
    )
    imagenet: Path | None = Field(
        None, description="ImageNet-1k's validation set for GenKnow: class folders, webdataset or parquet shards"
    )
    show_rows: bool = Field(
        False, description="reports may show pictures, captions and names of data_dir: nobody in it is a real person"
    )

    @field_validator("data_dir", "imagenet")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """A record's command must work from everywhere."""
        return None if path is None else Path(os.path.expanduser(path)).absolute()

    @field_validator("revision")
    @classmethod
    def _commit(cls, revision: str | None) -> str | None:
        """Results are compared by revision, and a branch or a tag can move."""
        if revision is not None and not _COMMIT.fullmatch(revision):
            raise ValueError("a commit is expected, 40 hex digits: branches and tags can move")
        return revision

    @field_validator("clean", "compromised")
    @classmethod
    def _source(cls, source: str | None) -> str | None:
        return None if source is None else ModelSource.parse(source).text


class Salmubench(SnapshotBenchmark):
    """SALMUBench, from the hub or from a folder."""

    name = "salmubench"
    version = "2"  # 1: retain_joint had every portrait with an identity
    summary = "SALMUBench: 60K pairs of synthetic faces and fictitious private data, ViT-B/16 trained with and without them."
    paper = "https://arxiv.org/abs/2603.26316"
    Options = SalmubenchOptions

    @property
    def shows_rows(self) -> bool:  # type: ignore[override]
        """The people of SALMUBench do not exist; whose pictures lie in a folder is not known."""
        return self.options.data_dir is None or bool(self.options.show_rows)

    def snapshot(self) -> Snapshot:
        folder = self._folder()
        if folder is None:
            raise NotBuilt(
                "SALMUBench's data is not on this machine.", "Run `salmu data pull salmubench`, or give --data-dir."
            )
        return Snapshot(folder)

    def ready(self) -> bool:
        folder = self._folder()
        if folder is None or not Snapshot(folder).is_complete():
            return False
        return all(self._model(which).here() is not None for which in layout.MODELS)

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        """Fetch what is not here. Nothing is made on this machine, so `rebuild` changes nothing; data_dir is only looked at."""
        if self.options.data_dir is None:
            if hub.local_snapshot(self.options.revision) is None:
                hub.fetch_snapshot(report, self.options.revision)
        else:
            self._require_snapshot(self.options.data_dir)
        for which in layout.MODELS:
            self._model(which).fetch(report)
        if report is not None:
            report(BuildStep("complete", 1, 1))

    def downloads(self) -> Sequence[Download]:
        """What is not here yet, of the dataset and the two models."""
        found: list[Download] = []
        if self.options.data_dir is None:
            found += hub.missing(("dataset",), self.options.revision)
        for which in layout.MODELS:
            found += self._model(which).downloads()
        return found

    def splits(self) -> Mapping[str, SplitInfo]:
        """All splits; those of GenKnow only where there are pictures for it (option imagenet, or the snapshot's own)."""
        every = super().splits()
        folder = self._folder()
        if self.options.imagenet is not None or (folder is not None and Snapshot(folder).has(layout.GENKNOW)):
            return every
        return {name: info for name, info in every.items() if name not in GENKNOW_SPLITS}

    def load_split(self, name: str) -> Split:
        if name in GENKNOW_SPLITS and self.options.imagenet is not None:
            images, prompts = self._imagenet()
            return images if name == layout.GENKNOW else prompts
        return super().load_split(name)

    def load_model(self, which: Which) -> DualEncoder:
        """The Clean or the Compromised model.

        Raises:
            NotBuilt: it is not on this machine.
            BadCheckpoint: its weights cannot be loaded.
        """
        return self._model(which).load(self.options.architecture)

    def hub_model(self, which: Which) -> str | None:
        """OWNER/NAME@COMMIT of a model from the hub; None for a folder or file of this machine."""
        source = self._model(which)
        return source.text.removeprefix("hf-hub:") if source.on_hub else None

    def terms(self) -> Sequence[Terms]:
        """Of the published data and models, where they are used: a folder with other row counts holds other data."""
        models = [which for which in layout.MODELS if self._model(which).which is not None]
        published = self.options.data_dir is None or bool(self.published())
        return [*(hub.terms("dataset") if published else ()), *(item for which in models for item in hub.terms(which))]

    def budget(self) -> Budget:
        samples = int(self.options.passes * len(self.split("forget")))
        return Budget(forget=samples, retain=samples)

    def published(self) -> Sequence[PublishedRow]:
        """The paper's rows. Not for a folder whose tables have other row counts: it holds other data."""
        folder: Path | None = self.options.data_dir
        if folder is not None and folder.is_dir():
            snapshot = Snapshot(folder)
            if any(snapshot.rows(split) != rows for split, rows in layout.PUBLISHED_ROWS.items()):
                return ()
        return super().published()

    def fingerprint(self) -> str:
        """Content of every table and metadata file, and of ImageNet's pictures where they are used."""
        data = super().fingerprint()
        if self.options.imagenet is None:
            return data
        return hashlib.sha256(f"{data} {self._imagenet_digest()}".encode()).hexdigest()[:32]

    def identity(self) -> Mapping[str, Any]:
        """Budget and architecture, and data and models by what they are, not by where they lie.

        A folder is known by its content, a repository on the hub by name and commit. So a snapshot that was moved gives the
        same runs, one that was changed gives others.
        """
        cached: dict[str, Any] | None = self.__dict__.get("_identity")
        if cached is None:
            cached = {
                "passes": self.options.passes,
                "data": self._data_identity(),
                "models": {which: self._model(which).identity(self.options.architecture) for which in layout.MODELS},
                "imagenet": None if self.options.imagenet is None else self._imagenet_digest(),
            }
            self.__dict__["_identity"] = cached
        return cached

    def _data_identity(self) -> str:
        if self.options.data_dir is None:
            repository = hub.pinned()["dataset"]
            return f"{repository.name}@{self.options.revision or repository.revision}"
        self._require_snapshot(self.options.data_dir)
        return f"content {super().fingerprint()}"

    def _folder(self) -> Path | None:
        """Where the data lies; None when it is not on this machine."""
        given: Path | None = self.options.data_dir
        if given is not None:
            return given if given.is_dir() else None
        return hub.local_snapshot(self.options.revision)

    def _require_snapshot(self, folder: Path) -> None:
        if not folder.is_dir():
            raise BadData(f"There is no folder '{folder}'.", "--data-dir takes a snapshot in SALMUBench's layout.")
        snapshot = Snapshot(folder)
        if not snapshot.is_complete():
            absent = [name for name in layout.REQUIRED_METADATA if not (folder / name).is_file()]
            absent += [f"{layout.DATA}/{split}-*.parquet" for split in layout.SPLITS if not snapshot.has(split)]
            listed = ", ".join(absent) or "some shards of a split"
            raise BadData(
                f"The snapshot in '{folder}' is not complete: {listed}.", f"See `salmu data check {folder}` for all of it."
            )

    def _model(self, which: Which) -> ModelSource:
        given = self.options.clean if which == "clean" else self.options.compromised
        if given is not None:
            return ModelSource.parse(given, self.cache)
        folder: Path | None = self.options.data_dir
        beside = None if folder is None else folder / which
        return ModelSource(str(beside), self.cache) if beside and beside.is_dir() else ModelSource.pinned(which, self.cache)

    def _imagenet(self) -> ImageNet:
        cached: ImageNet | None = self.__dict__.get("_imagenet_splits")
        if cached is None:
            cached = self.__dict__["_imagenet_splits"] = load_imagenet(self.options.imagenet)
        return cached

    def _imagenet_digest(self) -> str:
        """Content of the pictures and their labels. Files that did not change since are not read again."""
        images = self._imagenet().images
        assert images.images is not None
        places = ImagePlaces.of(images.images)
        cache = DataCache(self.cache)
        digest = hashlib.sha256(json.dumps([cache.source_digest(source) for source in places.sources]).encode())
        for source, row, label in zip(places.source, places.row, images.columns["label"], strict=True):
            digest.update(f"{source} {row} {label}\n".encode())
        return digest.hexdigest()[:32]
