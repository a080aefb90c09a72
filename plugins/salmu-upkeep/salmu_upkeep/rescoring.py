"""Measure finished runs by metrics that were installed after they ended, from the weights that they left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from salmu_core.errors import BadRecord, SalmuError
from salmu_core.evaluation.evaluate import Evaluation, evaluate_model
from salmu_core.files.writing import write_tensors
from salmu_core.metric import Metric
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE, read_record, write_record
from salmu_core.runner.run import Settings
from salmu_core.spec.resolve import benchmark_of_run, make_metrics

AGREES = 2e-3  # a known score that comes out farther away is not of this model, or not measured alike


@dataclass(frozen=True)
class Rescored:
    """What became of one record.

    Attributes:
        added: metrics that it has now and had not.
        why_not: what could not be measured, and why: metric, or "" for the whole record, -> sentence.
    """

    folder: Path
    added: tuple[str, ...]
    why_not: dict[str, str]


def rescore(place: str | Path, *, settings: Settings | None = None, plugins: Plugins | None = None) -> list[Rescored]:
    """Add what is missing to every record below a folder. Each record is replaced at once, or stays as it was."""
    plugins, settings = plugins or load_plugins(), settings or Settings(cpu=True)
    found = []
    for file in sorted(Path(place).rglob(RECORD_FILE)):
        try:
            found.append(_one(file.parent, settings, plugins))
        except SalmuError as problem:
            found.append(Rescored(file.parent, (), {"": problem.message}))
    return found


def _one(folder: Path, settings: Settings, plugins: Plugins) -> Rescored:
    record = read_record(folder)
    if record.status != "ok":
        return Rescored(folder, (), {"": f"The run {record.status}."})
    benchmark = benchmark_of_run(record, folder, plugins, settings.cache)
    where, which = benchmark.reference(record.spec.start)
    metrics = make_metrics(plugins, settings.metric_options, where, record.spec)
    missing = [metric.name for metric in metrics if metric.name not in record.scores]
    if all(name in record.skipped for name in missing):
        return Rescored(folder, (), {name: record.skipped[name] for name in missing})
    if record.model_file is None and record.kind != "reference":
        raise BadRecord(f"'{folder}' keeps no weights, so nothing more can be measured of it.")
    model = load_model(folder) if record.model_file is not None else where.load_model(which)
    if model.fingerprint() != record.provenance.model_fingerprint:
        raise BadRecord(
            f"The weights of '{folder}' are not those that its record was made of.", "Run it again: --overwrite."
        )
    data = settings.data_cache(plugins, folder.name)
    evaluation = evaluate_model(model, where, metrics, settings.embedding_cache, data=data)
    for name, score in record.scores.items():
        if name in evaluation.scores and abs(evaluation.scores[name].value - score.value) > AGREES:
            raise BadRecord(
                f"{name} of '{folder}' is {evaluation.scores[name].value:.4f} now, and {score.value:.4f} in its record."
            )
    added = tuple(name for name in missing if name in evaluation.scores)
    why_not = {**evaluation.skipped, **evaluation.broken}
    if not added:
        return Rescored(folder, (), {name: str(why_not.get(name, "not measured")) for name in missing})
    # Write all rows again under another name: whose rows belong together is numbered over all metrics, and until the record names
    # the new file the old one is whole.
    rows_file = f"rows-{len(record.scores) + len(added)}.safetensors"
    write_tensors(folder / rows_file, {name: torch.from_numpy(rows.copy()) for name, rows in evaluation.rows.items()})
    write_record(folder, _with(record, evaluation, metrics, plugins, rows_file))
    return Rescored(folder, added, {name: why for name, why in why_not.items() if name in missing})


def _with(record: RunRecord, evaluation: Evaluation, metrics: Sequence[Metric], plugins: Plugins, rows: str) -> RunRecord:
    packages = {name: entry.package for name, entry in plugins.metrics.items()}
    options = {metric.name: metric.options.model_dump(mode="json") for metric in metrics}
    provenance = record.provenance.model_copy(
        update={
            "metric_packages": {**record.provenance.metric_packages, **packages},
            "metric_options": {**record.provenance.metric_options, **options},
        }
    )
    changes = {
        "scores": {**record.scores, **evaluation.scores},
        "skipped": dict(evaluation.skipped),
        "broken": dict(evaluation.broken),
        "warnings": tuple(dict.fromkeys([*record.warnings, *evaluation.warnings])),
        "provenance": provenance,
        "rows_file": rows,
    }
    return record.model_copy(update=changes)
