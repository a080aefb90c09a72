"""The progress of a search: that of runs, with names for the two references, which are one model on two sets of pairs."""

from __future__ import annotations

from salmu_core.cli.progress import ProgressDisplay
from salmu_core.hookspecs import hookimpl
from salmu_core.records.schema import RunRecord


class TuneDisplay(ProgressDisplay):
    """A line for each run that ended."""

    @hookimpl
    def run_finished(self, record: RunRecord) -> None:
        """One line that stays."""
        if record.kind == "reference":
            apart = "mismatched pairs" if record.spec.benchmark_options.get("mismatched") else "true pairs"
            spec = record.spec.model_copy(update={"start": f"reference: {record.spec.start} on {apart}"})
            record = record.model_copy(update={"spec": spec})
        super().run_finished(record)
