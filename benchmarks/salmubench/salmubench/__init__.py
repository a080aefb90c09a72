"""SALMUBench for salmu: the benchmark, its data layout and its splits."""

from __future__ import annotations

from salmu_core import Benchmark, hookimpl
from salmu_core.layout import Layout
from salmubench.benchmark import SnapshotBenchmark as SnapshotBenchmark
from salmubench.full import Salmubench as Salmubench
from salmubench.full import SalmubenchOptions as SalmubenchOptions
from salmubench.snapshot import Snapshot as Snapshot
from salmubench.snapshot_layout import SalmubenchLayout as SalmubenchLayout
from salmubench.tables import Metadata as Metadata
from salmubench.tables import Row as Row
from salmubench.tables import Tables as Tables
from salmubench.writer import write_metadata as write_metadata
from salmubench.writer import write_snapshot as write_snapshot
from salmubench.writer import write_split as write_split


@hookimpl
def register_benchmarks() -> list[type[Benchmark]]:
    """The benchmark of the paper."""
    return [Salmubench]


@hookimpl
def register_layouts() -> list[type[Layout]]:
    """The layout of its data."""
    return [SalmubenchLayout]
