"""One run, in five steps: resolve, prepare, unlearn, evaluate, record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from salmu_core.benchmark import Benchmark, BuildStep
from salmu_core.data.cache import DataCache
from salmu_core.data.processes import process_index
from salmu_core.errors import BadRecord, Diverged, OutputError
from salmu_core.evaluation.evaluate import Evaluation, evaluate_model
from salmu_core.files.writing import check_writable, remove_leftovers, write_sealed_json, write_tensors
from salmu_core.method import UnlearningMethod
from salmu_core.models.dual_encoder import WEIGHTS_FILE
from salmu_core.plugins.calls import asked
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.report_data import EXHIBITS_FILE, SCENE_FILE
from salmu_core.records.rows import check_rows
from salmu_core.records.schema import Protocol, RunRecord, RunSpec, Status
from salmu_core.records.store import RECORD_FILE, read_record, write_record
from salmu_core.report.beside_records import HISTORY_FILE
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.progress import Progress
from salmu_core.runner.recording import ROWS_FILE as ROWS_FILE
from salmu_core.runner.recording import make_record, without_scores, write_exhibits, write_result_files
from salmu_core.runner.settings import Settings as Settings
from salmu_core.runner.unlearning import UNLEARNED_FILE, Unlearned, read_object, unlearn_or_resume
from salmu_core.spec.presets import FROM_BENCHMARK
from salmu_core.spec.resolve import Resolved, make_method, make_metrics, resolve, resolve_with_preset

SPEC_FILE = "spec.json"


def run(
    method: str | RunSpec,
    *,
    benchmark: str | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    benchmark_options: Mapping[str, Any] | None = None,
    budget: float = 1.0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    protocol: Protocol = "seeded",
    start: Literal["compromised", "clean"] = "compromised",
    preset: str | Path = FROM_BENCHMARK,
    out: str | Path,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
) -> RunRecord:
    """Run one method over one benchmark and leave a run directory; a finished run is read back instead of repeated.

    Args:
        method: a registered name, or a whole `RunSpec` (the other arguments that describe the run are then ignored).
        benchmark: a registered name; default: the standard one that is installed.
        options, benchmark_options: as after `--set` and `--bench-set`.
        protocol: conventions of the evaluation. `seeded`: salmu's own, equal numbers for equal models; `official`: those of the
            benchmark's official evaluator, as far as they are known.
        preset: where options that are not given come from: "benchmark" for those it ships for the method, "none" for the
            method's defaults, or the path of a preset or of a folder of presets.
        out: the run directory: `record.json`, `model.safetensors`, `open_clip_config.json`, `rows.safetensors`,
            `history.json`, `spec.json`, `exhibits.json` for the report.

    Returns:
        The record. A loss that stops being finite or a method that raises gives status "diverged" or "failed".

    Raises:
        SalmuError: names, options, output place or benchmark are not usable, or the budget does not hold the run; found before
            anything expensive where the benchmark is built.
    """
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    if isinstance(method, RunSpec):
        resolved = resolve(method, plugins, settings.cache_folder)
    else:
        spec = RunSpec(
            method=method,
            benchmark=benchmark or "",
            method_options=dict(options or {}),
            benchmark_options=dict(benchmark_options or {}),
            start=start,
            seed=seed,
            budget=budget,
            precision=precision,
            protocol=protocol,
        )
        resolved = resolve_with_preset(spec, preset, plugins, settings.cache_folder)
    folder = Path(out).absolute()  # a plugin may go elsewhere
    if finished_record(folder, resolved) is None and resolved.benchmark.ready():
        steps_within_budget(resolved, plugins)
    return run_resolved(resolved, folder, settings, plugins)


def steps_within_budget(resolved: Resolved, plugins: Plugins) -> int | None:
    """Optimiser steps of a run over a benchmark that is built, at most; None where only the run shows them.

    Raises:
        BadData: forget is too small for the method.
        BudgetExceeded: the budget does not hold the run.
    """
    method, benchmark, spec = resolved.new_method(), resolved.benchmark, resolved.spec

    def make(name: str, options: Mapping[str, Any]) -> UnlearningMethod:
        return make_method(name, options, plugins)

    reads = resolved.reads()
    rows = {role: len(benchmark.split_for(role)) for role in reads}
    meter = SampleMeter(benchmark.budget().times(spec.budget), spec.method)
    with asked(resolved.who):
        if "forget" in reads:
            method.check_forget(rows["forget"], benchmark.split_for("forget").identities, make)
        return method.planned_steps(rows, meter, make)


def run_resolved(resolved: Resolved, folder: Path, settings: Settings, plugins: Plugins) -> RunRecord:
    """`run`, after names and options are resolved."""
    finished = finished_record(folder, resolved)
    if finished is not None and not settings.overwrite:
        return finished
    main = process_index() == 0
    if main:
        claim_folder(resolved, folder, settings)
        plugins.tell("run_started", spec=resolved.spec)

    def tell(stage: str, done: int, total: int, values: Mapping[str, float] | None = None) -> None:
        if main:
            plugins.tell("run_progress", event=Progress(resolved.title, stage, done, total, values or {}))

    with open_accelerator(resolved.spec.precision, settings.log_with, folder / "logs", settings.cpu) as accelerator:
        ensure_built(resolved.benchmark, accelerator, lambda step: tell(step.stage, step.done, step.total))
        data = settings.data_cache(plugins, resolved.title)
        unlearned = unlearn_or_resume(resolved, folder, settings, accelerator, plugins, data, tell)
        record = _evaluate_and_record(resolved, unlearned, folder, settings, accelerator, plugins, data, tell)
    if process_index() == 0:
        plugins.tell("run_finished", record=record)
    return record


def finished_record(folder: Path, resolved: Resolved) -> RunRecord | None:
    """The record of this very run, when it is complete. A run that failed is not: it is tried again."""
    if not (folder / RECORD_FILE).is_file():
        return None
    record = read_record(folder)
    if not resolved.made(record) or record.status == "failed":
        return None
    check_rows(record, folder)
    return record


def ensure_built(benchmark: Benchmark, accelerator: Accelerator, report: Callable[[BuildStep], None]) -> None:
    """Build the benchmark where it is missing: once, by the main process, while the others wait."""
    with accelerator.local_main_process_first():
        if not benchmark.ready():
            benchmark.build(report)


def claim_folder(resolved: Resolved, folder: Path, settings: Settings) -> None:
    """Make sure that the folder is writable and is this run's, or nobody's."""
    check_writable(folder, needed_bytes=64_000_000)
    remove_leftovers(folder)
    spec_path = folder / SPEC_FILE
    claimed = None if settings.overwrite or not spec_path.exists() else read_object(spec_path)
    if claimed is not None and claimed.get("id") not in (resolved.id, resolved.former_id):
        raise OutputError(
            f"'{folder}' holds another run ({claimed.get('title')}).",
            "Choose another --out. `salmu run` also takes --overwrite, `salmu forget` replaces nothing.",
        )
    if settings.overwrite:
        with contextlib.suppress(BadRecord):  # nothing of the run that is replaced may stay
            for name in read_record(folder).files:
                (folder / Path(name).name).unlink(missing_ok=True)
        for name in (RECORD_FILE, UNLEARNED_FILE, WEIGHTS_FILE, ROWS_FILE, HISTORY_FILE, EXHIBITS_FILE, SCENE_FILE):
            (folder / name).unlink(missing_ok=True)
        Checkpoints(folder / "checkpoints").clear()
    content = {
        "id": resolved.id,
        "title": resolved.title,
        "spec": resolved.spec.model_dump(mode="json"),
        "options": resolved.options,
    }
    write_sealed_json(spec_path, content)


def _evaluate_and_record(
    resolved: Resolved,
    unlearned: Unlearned,
    folder: Path,
    settings: Settings,
    accelerator: Accelerator,
    plugins: Plugins,
    data: DataCache,
    tell: Callable[..., None],
) -> RunRecord:
    facts = unlearned.facts
    evaluation = Evaluation({}, {}, {})
    status: Status = facts["status"]
    error: str | None = facts["error"]
    where, _ = resolved.benchmark.reference(resolved.spec.start)
    metrics = make_metrics(plugins, settings.metric_options, where, resolved.spec)
    if status != "failed" and facts["finite"] and unlearned.model is not None:
        try:
            evaluation = evaluate_model(
                unlearned.model,
                where,
                metrics,
                settings.embedding_cache,
                tell,
                data=data,
                fingerprint=facts["model_fingerprint"],
            )
        except Diverged as problem:
            status, error = "diverged", problem.message
    status, error = without_scores(evaluation, status, error)
    record = make_record(resolved, plugins, settings, facts, evaluation, accelerator, status, error)
    if accelerator.is_main_process:
        if evaluation.rows:
            write_tensors(
                folder / ROWS_FILE, {name: torch.from_numpy(rows.copy()) for name, rows in evaluation.rows.items()}
            )
        write_exhibits(where, metrics, record, evaluation, folder / RECORD_FILE)
        record = write_result_files(resolved.benchmark, record, evaluation, folder)
        write_record(folder, record)
        (folder / UNLEARNED_FILE).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return record
