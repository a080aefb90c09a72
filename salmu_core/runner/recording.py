"""Step five of a run: its record, and what lies beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator

from salmu_core.benchmark import Benchmark
from salmu_core.errors import PluginFailure
from salmu_core.evaluation.evaluate import Evaluation, described
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.evaluation.report_data import make_scene
from salmu_core.files.writing import write_json
from salmu_core.metric import Metric
from salmu_core.models.dual_encoder import WEIGHTS_FILE
from salmu_core.plugins.loading import Plugins
from salmu_core.records.commands import run_command
from salmu_core.records.report_data import EXHIBITS_FILE, SCENE_FILE, beside, write_exhibit
from salmu_core.records.schema import Cost, Provenance, PublishedResult, RunRecord, ScoreRecord, Status
from salmu_core.runner.provenance import device_name, git_commit, package_versions
from salmu_core.runner.settings import Settings
from salmu_core.runner.surroundings import rounding_variables
from salmu_core.spec.resolve import Resolved, make_metrics

ROWS_FILE = "rows.safetensors"


def make_record(
    resolved: Resolved,
    plugins: Plugins,
    settings: Settings,
    facts: Mapping[str, Any],
    evaluation: Evaluation,
    accelerator: Accelerator | None,
    status: Status,
    error: str | None,
    kind: Literal["run", "reference", "evaluation"] | None = None,
) -> RunRecord:
    """The record of a run from what its stages found.

    Args:
        accelerator: of the process that carried it out; None: that process is gone.
    """
    spec, method = resolved.spec, resolved.method
    reference = spec.method == "none"
    has_model = not reference and status != "failed" and bool(facts.get("finite", True)) and kind is None
    kind = kind or ("reference" if reference else "run")
    metrics = make_metrics(plugins, settings.metric_options, resolved.benchmark, spec)
    return RunRecord(
        id=resolved.id,
        kind=kind,
        status=status,
        spec=spec,
        options=resolved.options,
        family=method.cls.family,
        summary=method.cls.summary,
        paper=method.cls.paper,
        oracle=method.cls.oracle,
        sees=resolved.reads(),
        columns={role: tuple(names) for role, names in facts.get("columns", {}).items()},
        undeclared=tuple(facts.get("undeclared", ())),
        scores=dict(evaluation.scores),
        skipped=dict(evaluation.skipped),
        broken=dict(evaluation.broken),
        warnings=tuple(dict.fromkeys((*facts.get("warnings", ()), *evaluation.warnings))),
        weight_change=facts.get("weight_change"),
        cost=Cost(
            seconds={**facts.get("seconds", {}), **evaluation.seconds},
            samples=facts.get("samples", {}),
            captions=facts.get("captions", {}),
            encoded=facts.get("encoded", {}),
            allowed=facts.get("allowed", {}),
            steps=facts.get("steps", 0),
            global_batch=facts.get("global_batch", 0),
            trainable_parameters=facts.get("trainable_parameters", 0),
            total_parameters=facts.get("total_parameters", 0),
            peak_memory_bytes=facts.get("peak_memory_bytes", 0),
        ),
        provenance=Provenance(
            packages=package_versions(),
            method_package=method.package,
            benchmark_package=resolved.benchmark_entry.package,
            benchmark_version=resolved.benchmark.version,
            benchmark_identity=dict(resolved.benchmark.identity()),
            metric_packages={name: entry.package for name, entry in plugins.metrics.items()},
            metric_options={metric.name: metric.options.model_dump(mode="json") for metric in metrics},
            device="" if accelerator is None else device_name(accelerator.device),
            processes=1 if accelerator is None else accelerator.num_processes,
            git_commit=git_commit(Path.cwd()),
            data_fingerprint=resolved.benchmark.fingerprint(),
            start_fingerprint=facts.get("start_fingerprint", {}),
            model_fingerprint=facts.get("model_fingerprint", {}),
            command=run_command(spec),
            execution={**facts.get("execution", {}), **({"environment": found} if (found := rounding_variables()) else {})},
        ),
        error=error,
        rows_file=ROWS_FILE if evaluation.rows else None,
        model_file=WEIGHTS_FILE if has_model else None,
        published=tuple(_published(resolved.benchmark, _unbroken(metrics, evaluation), evaluation.scores))
        if kind == "reference"
        else (),
        created_at=datetime.now(UTC),
    )


def write_exhibits(
    benchmark: Benchmark, metrics: Iterable[Metric], record: RunRecord, evaluation: Evaluation, record_file: Path
) -> None:
    """Leave what the report shows of the model beside its record; beside Compromised's also what all exhibits speak of."""
    if evaluation.exhibits is None:
        return
    write_exhibit(beside(record_file, EXHIBITS_FILE), evaluation.exhibits)
    if record.kind == "reference" and record.spec.start == "compromised":
        write_exhibit(beside(record_file, SCENE_FILE), make_scene(benchmark, plan_evaluation(metrics, benchmark, read=True)))


def write_result_files(benchmark: Benchmark, record: RunRecord, evaluation: Evaluation, folder: Path) -> RunRecord:
    """Leave the evaluation in the benchmark's other formats, and name the files in the record.

    Raises:
        PluginFailure: the benchmark's own code failed, or it named a file outside the folder.
    """
    try:
        files = dict(benchmark.result_files(record, evaluation.rows))
    except Exception as error:
        raise PluginFailure(
            f"The benchmark {benchmark.name} could not write its result files: {type(error).__name__}: {error}"
        ) from error
    for name, content in files.items():
        if Path(name).name != name:
            raise PluginFailure(f"The benchmark {benchmark.name} wants to write '{name}', which is not a plain file name.")
        write_json(folder / name, content)
    return record.model_copy(update={"files": tuple(files)})


def without_scores(evaluation: Evaluation, status: Status, error: str | None) -> tuple[Status, str | None]:
    """Status and error of an evaluation. When every metric failed, nothing can be compared, so the run has failed."""
    if not evaluation.broken or evaluation.scores:
        return status, error
    found = "; ".join(f"{name}: {problem}" for name, problem in evaluation.broken.items())
    return "failed", f"No metric could be measured. {found}."


def _unbroken(metrics: Iterable[Metric], evaluation: Evaluation) -> list[Metric]:
    return [metric for metric in metrics if metric.name not in evaluation.broken]


def _published(
    benchmark: Benchmark, metrics: Iterable[Metric], measured: Mapping[str, ScoreRecord]
) -> list[PublishedResult]:
    """What others published on the benchmark, as scores of the metrics that are installed."""
    return [
        PublishedResult(
            title=row.title,
            source=row.source,
            note=row.note,
            reference=row.reference,
            scores={
                metric.name: ScoreRecord(
                    value=row.scores[metric.name],
                    **described(metric, benchmark),
                    chance=measured[metric.name].chance if metric.name in measured else metric.chance,
                    extras=dict(row.extras.get(metric.name, {})),
                )
                for metric in metrics
                if metric.name in row.scores
            },
        )
        for row in benchmark.published()
    ]
