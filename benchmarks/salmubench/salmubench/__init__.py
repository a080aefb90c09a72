"""SALMUBench's data layout and splits for salmu."""

from salmubench.benchmark import SnapshotBenchmark as SnapshotBenchmark
from salmubench.snapshot import Snapshot as Snapshot
from salmubench.tables import Metadata as Metadata
from salmubench.tables import Row as Row
from salmubench.tables import Tables as Tables
from salmubench.writer import write_metadata as write_metadata
from salmubench.writer import write_snapshot as write_snapshot
from salmubench.writer import write_split as write_split

__all__ = ["Metadata", "Row", "Snapshot", "SnapshotBenchmark", "Tables", "write_metadata", "write_snapshot", "write_split"]
