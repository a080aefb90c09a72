"""Where one run stands: read against Clean and Compromised, as a row of a leaderboard would read it."""

from __future__ import annotations

import shutil
from pathlib import Path

from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.leaderboard import Row
from salmu_core.errors import BadRecord, OutputError
from salmu_core.plugins.loading import Plugins
from salmu_core.records.schema import RunRecord
from salmu_core.runner.planned import reference_specs
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.spec.resolve import Resolved, resolve


def standing(
    record: RunRecord, folder: Path, resolved: Resolved, settings: Settings, plugins: Plugins
) -> dict[str, Row] | None:
    """The rows of a comparison that holds one run: "run", "clean" and "compromised".

    The references are measured once and kept in the cache, by benchmark, data and conventions.

    Args:
        record: of a finished run of `resolved`, in `folder`.

    Returns:
        None where there is nothing to read it against: the run did not end well, it is itself a reference, or the benchmark has no
        Clean model of its own.
    """
    benchmark, spec = resolved.benchmark, resolved.spec
    if record.status != "ok" or spec.method == "none" or benchmark.reference("clean")[0] is not benchmark:
        return None
    records, folders = [record], [folder]
    shared = spec.model_dump(include={"benchmark", "benchmark_options", "precision", "protocol"})
    for reference in reference_specs(**shared):
        wanted = resolve(reference, plugins, settings.cache_folder, benchmark)
        place = settings.cache_folder / "references" / wanted.folder_name
        records.append(_measured(wanted, place, settings, plugins))
        folders.append(place)
    rows = compare_records(records, folders).rows
    return {
        row.reference if row.kind == "reference" and row.reference else "run": row for row in rows if row.kind != "published"
    }


def _measured(wanted: Resolved, place: Path, settings: Settings, plugins: Plugins) -> RunRecord:
    """A reference from the cache, made again where what lies there is damaged."""
    try:
        return run_resolved(wanted, place, settings, plugins)
    except (BadRecord, OutputError):
        shutil.rmtree(place, ignore_errors=True)
        return run_resolved(wanted, place, settings, plugins)
