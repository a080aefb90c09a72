"""How runs are carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salmu_core.data.cache import DataCache
from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.files.writing import default_cache
from salmu_core.plugins.registry import Plugins
from salmu_core.runner.execution import Execution
from salmu_core.runner.progress import Progress


@dataclass(frozen=True)
class Settings:
    """How runs are carried out: nothing here changes their numbers, so nothing here is part of their identity.

    Args:
        cache: folder of benchmarks and embeddings; default: the user's cache folder.
        overwrite: do a finished run again.
        checkpoint_seconds: time between checkpoints of a fit.
        log_with: a tracker that Accelerate knows, e.g. "tensorboard".
        cpu: stay on the CPU even where there is an accelerator.
        metric_options: metric name -> options.
        keep_pixels: keep decoded images in the cache, for every later model and process.
        micro_batch: rows that are encoded at a time while training; losses still see whole batches (exact up to rounding).
        checkpoint_activations: compute the activations of each layer again in the backward pass instead of keeping them.
        compile: compile the encoders with torch.compile.
    """

    cache: Path | None = None
    overwrite: bool = False
    checkpoint_seconds: float = 30.0
    log_with: str | None = None
    cpu: bool = False
    keep_pixels: bool = True
    micro_batch: int | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    metric_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def cache_folder(self) -> Path:
        """The cache folder in force."""
        return self.cache if self.cache is not None else default_cache()

    def data_cache(self, plugins: Plugins, title: str) -> DataCache:
        """What is kept of data; observers are told before much is written."""

        def announce(text: str) -> None:
            plugins.tell("run_progress", event=Progress(title, "cache", note=text))

        return DataCache(self.cache_folder, self.keep_pixels, announce)

    @property
    def embedding_cache(self) -> EmbeddingCache:
        """Where embeddings are kept."""
        return EmbeddingCache(self.cache_folder / "embeddings")

    @property
    def execution(self) -> Execution:
        """How the encoders are carried out while a method runs."""
        return Execution(self.micro_batch, self.checkpoint_activations, self.compile)
