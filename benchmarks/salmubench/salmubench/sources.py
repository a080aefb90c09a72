"""Where a model of the pair comes from: a folder, a file of weights, or a repository on the hub at a commit."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salmu_core.benchmark import Download, Report
from salmu_core.errors import BadCheckpoint, NotBuilt
from salmu_core.files.digests import FileDigests
from salmu_core.models.dual_encoder import CONFIG_FILE, DualEncoder, ModelConfig
from salmu_core.models.loading import load_model
from salmu_core.models.weights import weight_files
from salmu_hub import fetching as core_hub
from salmu_hub.repository import Repository
from salmubench import hub

_HUB = re.compile(r"hf-hub:[^/@\s]+/[^/@\s]+@[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelSource:
    """One source of weights.

    Attributes:
        text: a path, or `hf-hub:OWNER/NAME@COMMIT`.
        cache: where digests of files are kept.
        which: of the benchmark's own pair on the hub; None for all others.
    """

    text: str
    cache: Path | None = None
    which: Literal["clean", "compromised"] | None = None

    @classmethod
    def parse(cls, text: str, cache: Path | None = None) -> ModelSource:
        """A source as a person gives it.

        Raises:
            ValueError: a name on the hub without a commit, which could change behind a finished run.
        """
        if not text.startswith("hf-hub:"):
            return cls(str(Path(os.path.expanduser(text.removeprefix("local-dir:"))).absolute()), cache)
        if not _HUB.fullmatch(text):
            raise ValueError("hf-hub:OWNER/NAME@COMMIT is expected, with a commit of 40 hex digits: branches can move")
        return cls(text, cache)

    @classmethod
    def pinned(cls, which: Literal["clean", "compromised"], cache: Path | None = None) -> ModelSource:
        """A model of the benchmark's own pair."""
        repository = hub.pinned()[which]
        return cls(f"hf-hub:{repository.name}@{repository.revision}", cache, which)

    @property
    def on_hub(self) -> bool:
        """Is it a repository on the hub?"""
        return self.text.startswith("hf-hub:")

    def here(self) -> Path | None:
        """The folder or file on this machine; None when it is not here."""
        if not self.on_hub:
            path = Path(self.text)
            return path if path.exists() else None
        if self.which is not None:
            return hub.local_model(self.which)
        name, commit = self._repository()
        names = (CONFIG_FILE, *core_hub.OPEN_CLIP_WEIGHTS)
        found = [core_hub.cached_path(Repository("model", name, commit, names), file) for file in names]
        return found[0].parent if found[0] is not None and any(found[1:]) else None

    def fetch(self, report: Report | None = None) -> None:
        """Bring it here from the hub; nothing to do for what lies on this machine.

        Raises:
            BadCheckpoint: a path where nothing is.
            HubError: see `salmu_hub.fetching.fetch`.
        """
        if self.here() is not None:
            return
        if not self.on_hub:
            raise self._absent()
        if self.which is not None:
            hub.fetch_model(self.which, report)
        else:
            core_hub.fetch_model(*self._repository())

    def downloads(self) -> Sequence[Download]:
        """What `fetch` would bring."""
        if self.here() is not None or not self.on_hub:
            return ()
        if self.which is not None:
            return hub.missing((self.which,))
        return (Download(f"model {self.text.removeprefix('hf-hub:')}", None, str(core_hub.cache_place())),)

    def load(self, architecture: str) -> DualEncoder:
        """The model, freshly loaded.

        Args:
            architecture: open_clip's name, for weights that have no configuration beside them.

        Raises:
            NotBuilt: it has to be fetched first.
            BadCheckpoint: there is nothing at the path, or its weights cannot be loaded.
        """
        place = self.here()
        if place is not None:
            return load_model(place, like=None if _config_of(place).is_file() else ModelConfig.named(architecture))
        if not self.on_hub:
            raise self._absent()
        raise NotBuilt(f"The model {self.text} is not on this machine.", "Run `salmu data pull salmubench`.")

    def identity(self, architecture: str) -> str:
        """The model by what it is: name and commit on the hub; content and architecture of a path.

        Raises:
            BadCheckpoint: a path where no model is.
        """
        if self.on_hub:
            return self.text.removeprefix("hf-hub:")
        place = self.here()
        if place is None:
            raise self._absent()
        config = _config_of(place)
        described = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else architecture
        digests = FileDigests(None if self.cache is None else self.cache / "digests")
        weights = digests.of(weight_files(place))
        content = json.dumps([described, *weights], sort_keys=True)
        return f"content {hashlib.sha256(content.encode()).hexdigest()[:32]}"

    def _repository(self) -> tuple[str, str]:
        name, _, commit = self.text.removeprefix("hf-hub:").partition("@")
        return name, commit

    def _absent(self) -> BadCheckpoint:
        return BadCheckpoint(
            f"There is no model at '{self.text}'.", "Give a directory, a file of weights, or hf-hub:OWNER/NAME@COMMIT."
        )


def _config_of(place: Path) -> Path:
    return (place if place.is_dir() else place.parent) / CONFIG_FILE
