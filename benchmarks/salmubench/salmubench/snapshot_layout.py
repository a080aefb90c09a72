"""SALMUBench's layout as a plugin: what `salmu data check` and `salmu data export` read and write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from salmu_core.benchmark import Benchmark, Report
from salmu_core.files.writing import visible
from salmu_core.layout import Finding, Layout
from salmubench import layout
from salmubench.check import check_snapshot
from salmubench.export import export_benchmark
from salmubench.snapshot import split_of


class SalmubenchLayout(Layout):
    """Parquet shards in `data/`, five metadata files beside them, and model repositories `clean/` and `compromised/`."""

    name = "salmubench"
    summary = "SALMUBench's own: parquet shards, five metadata files, and open_clip repositories of both models."

    def recognises(self, folder: Path) -> bool:
        shards = visible(folder / layout.DATA, "*.parquet")
        return any((folder / name).is_file() for name in layout.METADATA) or any(
            split_of(shard) in layout.SPLITS for shard in shards
        )

    def check(self, folder: Path, report: Report | None = None, *, decode: bool = True) -> Sequence[Finding]:
        return check_snapshot(folder, report, decode=decode)

    def export(self, benchmark: Benchmark, folder: Path, report: Report | None = None) -> Sequence[Path]:
        return export_benchmark(benchmark, folder, report)
