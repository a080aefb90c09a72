"""SALMUBench's data layout and splits for salmu."""

from salmubench.benchmark import SnapshotBenchmark as SnapshotBenchmark
from salmubench.snapshot import Snapshot as Snapshot
from salmubench.tables import Row as Row
from salmubench.tables import Tables as Tables
from salmubench.writer import write_snapshot as write_snapshot

__all__ = ["Row", "Snapshot", "SnapshotBenchmark", "Tables", "write_snapshot"]
