"""Finding the Clean and Compromised rows that a run is judged against."""

from __future__ import annotations

from pathlib import Path

from salmu_core.records.schema import RunRecord, Target
from salmu_core.records.store import load_records

#: Folder inside a run directory for references of its own, where no comparison made them.
REFERENCES = "references"


def find_references(record: RunRecord, folder: Path, place: str | Path | None = None) -> list[RunRecord]:
    """Reference records of the same benchmark data.

    Args:
        folder: the run's directory. Its own `references/` is looked through first, then its neighbours, where a comparison
            leaves them.
        place: a folder or a record file to look through instead.
    """
    if place is not None:
        return _same_data(record, Path(place))
    own = folder / REFERENCES
    found = _same_data(record, own) if own.is_dir() else []
    return found or _same_data(record, folder.absolute().parent)


def reference(found: list[RunRecord], which: Target) -> RunRecord | None:
    """The first of them that is that row."""
    return next((item for item in found if item.spec.start == which), None)


def _same_data(record: RunRecord, place: Path) -> list[RunRecord]:
    def data(item: RunRecord) -> tuple[object, ...]:
        spec, provenance = item.spec, item.provenance
        options = spec.benchmark_options
        return (spec.benchmark, options, provenance.benchmark_version, provenance.data_fingerprint, spec.protocol)

    found = load_records(place).records
    return [item for item in found if item.kind == "reference" and item.status == "ok" and data(item) == data(record)]
