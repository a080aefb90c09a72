"""On which benchmark a model is looked at: the one that was asked for, else that of the run which made it, else the standard one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salmu_core.benchmark import Benchmark
from salmu_core.errors import BadData, BadRecord
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.plugins.loading import Plugins
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE, read_record
from salmu_core.spec.resolve import check_data, standard_benchmark


@dataclass(frozen=True)
class BenchmarkChoice:
    """A model's benchmark, and the run that made the model.

    Attributes:
        chosen: whoever asks named the benchmark or an option of it.
        folder: of the run; None where the model is of no run.
        record: of the run; None as well where it is damaged and was not needed.
    """

    benchmark: str
    options: dict[str, Any]
    chosen: bool
    folder: Path | None = None
    record: RunRecord | None = None

    def model(self, given: str | Path | DualEncoder) -> str | Path | DualEncoder:
        """What to load for the model that was given: of a reference run, which keeps no weights of its own, the word for its model.

        Raises:
            BadRecord: the run failed and left no weights.
        """
        if self.folder is None or isinstance(given, DualEncoder):
            return given
        record, whole = self.record, Path(given).is_dir() or Path(given).name == RECORD_FILE
        if whole and record is not None and record.model_file is None and record.kind != "evaluation":
            if record.kind == "reference":
                return record.spec.start
            raise BadRecord(f"The run '{self.folder}' left no weights: its status is {record.status}.", "Run it again.")
        return self.folder if whole else given

    def check_data(self, benchmark: Benchmark) -> None:
        """Where the benchmark is the run's, its data must be what the run saw.

        Raises:
            BadData: it has changed since.
        """
        if self.record is not None and self.folder is not None and not self.chosen:
            check_data(benchmark, self.record, self.folder)

    def check_weights(self, model: DualEncoder) -> None:
        """Where the benchmark is the run's, the weights must be those that the record states.

        Raises:
            BadRecord: they are others.
        """
        stated = {} if self.record is None or self.chosen else self.record.provenance.model_fingerprint
        if stated and model.fingerprint() != stated:
            raise BadRecord(
                f"The weights of '{self.folder}' are not those that its record was made of.",
                "Run it again, or name the benchmark: --benchmark.",
            )

    def check_place(self, benchmark: Benchmark) -> None:
        """May what is found out on this benchmark lie beside the run's record?

        Raises:
            BadRecord: the record is damaged.
            BadData: it is about other data.
        """
        if self.folder is None:
            return
        hint = "Give another folder with --out."
        if self.record is None:
            raise BadRecord(f"The record in '{self.folder}' is damaged, so nothing is written beside it.", hint)
        if benchmark.fingerprint() != self.record.provenance.data_fingerprint:
            raise BadData(f"'{self.folder}' ran over other data than this {benchmark.name} has.", hint)


def benchmark_for(
    model: str | Path | DualEncoder, benchmark: str | None, options: Mapping[str, Any], plugins: Plugins
) -> BenchmarkChoice:
    """Find the run that a model is of, and the benchmark.

    Args:
        model: `clean`, `compromised`, a run directory, its record or its weights, a checkpoint, or a `DualEncoder`.
        benchmark: by name; None: the run's own with its options, or the standard one.
        options: of the benchmark. Those of a run's own that are not given stay.

    Raises:
        BadRecord: the model is a run's, no benchmark was named, and the record is damaged.
        BadOptions: there is no standard benchmark.
    """
    folder = None if isinstance(model, DualEncoder) else _run_folder(Path(model))
    if folder is None:
        return BenchmarkChoice(benchmark or standard_benchmark(plugins), dict(options), chosen=True)
    try:
        record = read_record(folder)
    except BadRecord as error:
        if benchmark is None:
            raise BadRecord(
                error.message,
                "Run it again, or name the benchmark on which its weights are to be measured: --benchmark NAME.",
            ) from error
        return BenchmarkChoice(benchmark, dict(options), chosen=True, folder=folder)
    if benchmark is not None:
        return BenchmarkChoice(benchmark, dict(options), True, folder, record)
    own = {**record.spec.benchmark_options, **options}
    return BenchmarkChoice(record.spec.benchmark, own, bool(options), folder, record)


def _run_folder(path: Path) -> Path | None:
    """The run's directory, given itself, its record, or weights that lie in it."""
    folder = path if path.is_dir() else path.parent if path.is_file() else None
    return folder if folder is not None and os.path.lexists(folder / RECORD_FILE) else None
