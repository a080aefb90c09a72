"""How runs are carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salmu_core.data.cache import DataCache
from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.files.writing import default_cache
from salmu_core.plugins.loading import Plugins
from salmu_core.runner.progress import Progress
from salmu_core.spec.execution import Execution


@dataclass(frozen=True)
class Settings(Execution):
    """How runs are carried out: nothing here changes their numbers, so nothing here is part of their identity.

    Args:
        cache: folder of benchmarks and embeddings; default: the user's cache folder.
        overwrite: do a finished run again.
        metric_options: metric name -> options.
        micro_batch, checkpoint_activations, compile, cpu, checkpoint_seconds, keep_pixels, log_with, isolate,
            time_limit: see `Execution`.
    """

    cache: Path | None = None
    overwrite: bool = False
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
