"""One run, in five steps: resolve, prepare, unlearn, evaluate, record."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from salmu_core.benchmark import Benchmark, BuildStep, evaluation_locked
from salmu_core.data_cache import DataCache
from salmu_core.errors import BadRecord, DamagedFile, Diverged, OutputError, PluginFailure, SalmuError
from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.evaluation.evaluate import Evaluation, described, evaluate_model
from salmu_core.evaluation.exhibits import make_scene
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.files import check_writable, default_cache, write_json, write_sealed_json, write_tensors
from salmu_core.method import FitOptions, UnlearningMethod
from salmu_core.metric import Metric
from salmu_core.model import WEIGHTS_FILE, DualEncoder, Tower, load_model
from salmu_core.pixels import PairStore
from salmu_core.plugins import Plugins, load_plugins
from salmu_core.processes import process_index
from salmu_core.records.commands import run_command
from salmu_core.records.evidence import HISTORY_FILE
from salmu_core.records.exhibits import EXHIBITS_FILE, SCENE_FILE, beside, write_exhibit
from salmu_core.records.schema import Cost, Protocol, Provenance, PublishedResult, RunRecord, RunSpec, ScoreRecord, Status
from salmu_core.records.store import RECORD_FILE, read_record, write_record
from salmu_core.runner.accelerate_setup import AUTOCAST, open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints, disk_for_training
from salmu_core.runner.context import UnlearnContext
from salmu_core.runner.execution import Execution, carried_out
from salmu_core.runner.presets import FROM_BENCHMARK, with_preset
from salmu_core.runner.progress import Progress
from salmu_core.runner.provenance import MemoryPeak, device_name, git_commit, package_versions
from salmu_core.runner.resolve import Resolved, make_method, make_metrics, resolve
from salmu_core.seals import read_json

SPEC_FILE = "spec.json"
ROWS_FILE = "rows.safetensors"
UNLEARNED_FILE = "unlearned.json"


@dataclass(frozen=True)
class Settings:
    """How runs are carried out: nothing here changes their numbers, so nothing here is part of their identity.

    Args:
        cache: folder of benchmarks and embeddings; default: the user's cache folder.
        overwrite: do a finished run again.
        checkpoint_seconds: time between checkpoints of a fit.
        log_with: a tracker that Accelerate knows, e.g. "tensorboard".
        cpu: stay on the CPU even where there is an accelerator.
        metric_options: metric name -> options.
        keep_pixels: keep decoded images in the cache, for every later model and process.
        micro_batch: rows that are encoded at a time while training; losses still see whole batches (exact up to rounding).
        checkpoint_activations: compute the activations of each layer again in the backward pass instead of keeping them.
        compile: compile the encoders with torch.compile.
    """

    cache: Path | None = None
    overwrite: bool = False
    checkpoint_seconds: float = 30.0
    log_with: str | None = None
    cpu: bool = False
    keep_pixels: bool = True
    micro_batch: int | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    metric_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def cache_folder(self) -> Path:
        """The cache folder in force."""
        return self.cache if self.cache is not None else default_cache()

    def data_cache(self, plugins: Plugins, title: str) -> DataCache:
        """What is kept of data; observers are told before much is written."""

        def announce(text: str) -> None:
            plugins.tell("run_progress", event=Progress(title, "cache", note=text))

        return DataCache(self.cache_folder, self.keep_pixels, announce)

    @property
    def embedding_cache(self) -> EmbeddingCache:
        """Where embeddings are kept."""
        return EmbeddingCache(self.cache_folder / "embeddings")

    @property
    def execution(self) -> Execution:
        """How the encoders are carried out while a method runs."""
        return Execution(self.micro_batch, self.checkpoint_activations, self.compile)


@dataclass
class _Unlearned:
    """A model after the method, and what it took."""

    model: DualEncoder
    facts: dict[str, Any]
    error: str | None = None


def run(
    method: str | RunSpec,
    *,
    benchmark: str = "mini",
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
        SalmuError: names, options, output place or benchmark are not usable; found before anything expensive.
    """
    spec = (
        method
        if isinstance(method, RunSpec)
        else RunSpec(
            method=method,
            benchmark=benchmark,
            method_options=dict(options or {}),
            benchmark_options=dict(benchmark_options or {}),
            start=start,
            seed=seed,
            budget=budget,
            precision=precision,
            protocol=protocol,
        )
    )
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    resolved = resolve(spec, plugins, settings.cache_folder)
    if not isinstance(method, RunSpec):
        chosen = with_preset(method, spec.method_options, resolved.benchmark, preset, spec.budget)
        if chosen != spec.method_options:
            spec = spec.model_copy(update={"method_options": chosen})
            resolved = resolve(spec, plugins, settings.cache_folder, resolved.benchmark)
    return run_resolved(resolved, Path(out), settings, plugins)


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
        unlearned = _unlearn_or_resume(resolved, folder, settings, accelerator, plugins, data, tell)
        record = _evaluate_and_record(resolved, unlearned, folder, settings, accelerator, plugins, data, tell)
    if process_index() == 0:
        plugins.tell("run_finished", record=record)
    return record


def finished_record(folder: Path, resolved: Resolved) -> RunRecord | None:
    """The record of this very run, when it is complete. A run that failed is not: it is tried again."""
    if not (folder / RECORD_FILE).is_file():
        return None
    record = read_record(folder)
    return record if record.id == resolved.id and record.status != "failed" else None


def ensure_built(benchmark: Benchmark, accelerator: Accelerator, report: Callable[[BuildStep], None]) -> None:
    """Build the benchmark where it is missing: once, by the main process, while the others wait."""
    with accelerator.local_main_process_first():
        if not benchmark.ready():
            benchmark.build(report)


def claim_folder(resolved: Resolved, folder: Path, settings: Settings) -> None:
    """Make sure that the folder is writable and is this run's, or nobody's."""
    check_writable(folder, needed_bytes=64_000_000)
    spec_path = folder / SPEC_FILE
    claimed = None if settings.overwrite or not spec_path.exists() else _read_object(spec_path)
    if claimed is not None and claimed.get("id") != resolved.id:
        raise OutputError(
            f"'{folder}' holds another run ({claimed.get('title')}).",
            "Choose another --out, or --overwrite to replace it.",
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


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object that this run left in its folder.

    Raises:
        OutputError: it is something else, or damaged.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise DamagedFile(f"'{path}' is not a JSON object.")
    except (DamagedFile, OSError) as error:
        raise OutputError(str(error), "Choose another --out, or --overwrite to start this run over.") from error
    return content


def _unlearn_or_resume(
    resolved: Resolved,
    folder: Path,
    settings: Settings,
    accelerator: Accelerator,
    plugins: Plugins,
    data: DataCache,
    tell: Callable[..., None],
) -> _Unlearned:
    done = folder / UNLEARNED_FILE
    accelerator.wait_for_everyone()
    if done.is_file():  # killed between unlearning and evaluation
        where, which = resolved.benchmark.reference(resolved.spec.start)
        model = load_model(folder) if (folder / WEIGHTS_FILE).is_file() else where.load_model(which)
        # The hash is taken of what was loaded: it decides which embeddings are read from the cache.
        facts = {**_read_object(done), "model_fingerprint": model.fingerprint()}
        return _Unlearned(_on_device(model, resolved, accelerator), facts)
    return _unlearn(resolved, folder, settings, accelerator, plugins, data, tell)


def _check_disk(model: DualEncoder, method: UnlearningMethod, folder: Path) -> None:
    """Find out before training that the model and its checkpoints will not fit."""
    if process_index() == 0 and method.reads():
        weight_bytes = sum(tensor.nbytes for tensor in model.weights().values())
        trains = isinstance(method.options, FitOptions)
        check_writable(folder, disk_for_training(weight_bytes) if trains else weight_bytes)


def _on_device(model: DualEncoder, resolved: Resolved, accelerator: Accelerator) -> DualEncoder:
    model = model.to(accelerator.device)
    model.autocast = AUTOCAST[resolved.spec.precision]
    return model


def _unlearn(
    resolved: Resolved,
    folder: Path,
    settings: Settings,
    accelerator: Accelerator,
    plugins: Plugins,
    data: DataCache,
    tell: Callable[..., None],
) -> _Unlearned:
    """Give the method its context, keep what it made of the model, and count what that took."""
    spec, benchmark = resolved.spec, resolved.benchmark
    tell("load", 0, 0)
    started = time.perf_counter()
    where, which = benchmark.reference(spec.start)
    model = _on_device(where.load_model(which), resolved, accelerator)
    start_weights = {name: tensor.detach().cpu().clone() for name, tensor in model.weights().items()}
    start_fingerprint = model.fingerprint()
    method = resolved.new_method()
    _check_disk(model, method, folder)
    stores = {
        role: PairStore(benchmark.split_for(role), model.processor, accelerator.device, data) for role in method.reads()
    }
    allowed = benchmark.budget().times(spec.budget)
    loaded = time.perf_counter()
    memory = MemoryPeak(accelerator.device)
    if settings.log_with:
        accelerator.init_trackers("salmu", config=_flat(resolved.options))
    checkpoints = Checkpoints(folder / "checkpoints", settings.checkpoint_seconds)
    ctx = UnlearnContext(
        model,
        stores,
        SampleMeter(allowed, spec.method),
        accelerator,
        spec.seed,
        method,
        checkpoints,
        tell,
        clean=(lambda: benchmark.load_model("clean")) if method.oracle else None,
        make_method=lambda name, options: make_method(name, options, plugins),
    )
    error = None
    status: Status = "ok"
    fingerprint: Mapping[Tower, str] = {}
    in_force: dict[str, Any] = {}
    try:
        with evaluation_locked(), carried_out(model, settings.execution) as in_force:
            method.unlearn(ctx)
        fingerprint = model.fingerprint()
        _same_on_all_processes(fingerprint, accelerator)
    except Diverged as problem:
        status, error = "diverged", problem.message
    except SalmuError as problem:
        status, error = "failed", str(problem)
    except Exception as problem:  # a method's own bug ends this run, not a comparison
        status, error = "failed", f"{type(problem).__name__}: {problem}\n{traceback.format_exc(limit=-4)}"
    seconds = time.perf_counter() - loaded + ctx.seconds_before_resume
    names = dict(model.named_parameters())
    trained = sum(names[name].numel() for name in ctx.trained)
    finite = all(torch.isfinite(t).all() for t in model.weights().values() if t.is_floating_point())
    facts = {
        "status": status,
        "error": error,
        "finite": bool(finite),
        "seconds": {"load": loaded - started, "unlearn": seconds},
        "samples": dict(ctx.samples),
        "captions": dict(ctx.captions_read),
        "columns": {role: list(names) for role, names in ctx.columns_read.items()},
        "undeclared": list(ctx.undeclared_columns),
        "allowed": allowed,
        "steps": ctx.steps,
        "global_batch": ctx.global_batch,
        "execution": in_force,
        "trainable_parameters": trained,
        "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_memory_bytes": memory.bytes(),
        "weight_change": _relative_change(start_weights, model) if finite else None,
        "start_fingerprint": start_fingerprint,
        "model_fingerprint": fingerprint or model.fingerprint(),
    }
    if accelerator.is_main_process and status != "failed" and resolved.spec.method != "none":
        tell("save", 0, 0)
        if finite:
            model.save(folder)
        write_json(folder / HISTORY_FILE, ctx.history)
    if accelerator.is_main_process and status != "failed":
        write_sealed_json(folder / UNLEARNED_FILE, facts)
        checkpoints.clear()
    accelerator.wait_for_everyone()
    return _Unlearned(model, facts, error)


def _evaluate_and_record(
    resolved: Resolved,
    unlearned: _Unlearned,
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
    if status != "failed" and facts["finite"]:
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
            raise PluginFailure(f"The benchmark {benchmark.name} wants to write '{name}', which is no plain file name.")
        write_json(folder / name, content)
    return record.model_copy(update={"files": tuple(files)})


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


def make_record(
    resolved: Resolved,
    plugins: Plugins,
    settings: Settings,
    facts: Mapping[str, Any],
    evaluation: Evaluation,
    accelerator: Accelerator,
    status: Status,
    error: str | None,
    kind: Literal["run", "reference", "evaluation"] | None = None,
) -> RunRecord:
    """The record of a run from what its stages found."""
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
        sees=resolved.new_method().reads(),
        columns={role: tuple(names) for role, names in facts.get("columns", {}).items()},
        undeclared=tuple(facts.get("undeclared", ())),
        scores=dict(evaluation.scores),
        skipped=dict(evaluation.skipped),
        weight_change=facts.get("weight_change"),
        cost=Cost(
            seconds={**facts.get("seconds", {}), **evaluation.seconds},
            samples=facts.get("samples", {}),
            captions=facts.get("captions", {}),
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
            device=device_name(accelerator.device),
            processes=accelerator.num_processes,
            git_commit=git_commit(Path.cwd()),
            data_fingerprint=resolved.benchmark.fingerprint(),
            start_fingerprint=facts.get("start_fingerprint", {}),
            model_fingerprint=facts.get("model_fingerprint", {}),
            command=run_command(spec),
            execution=facts.get("execution", {}),
        ),
        error=error,
        rows_file=ROWS_FILE if evaluation.rows else None,
        model_file=WEIGHTS_FILE if has_model else None,
        published=tuple(_published(resolved.benchmark, metrics, evaluation.scores)) if kind == "reference" else (),
        created_at=datetime.now(UTC),
    )


def _relative_change(before: Mapping[str, torch.Tensor], model: DualEncoder) -> float:
    """L2 norm of the change of all weights over the L2 norm of the start weights; 0.0 exactly when nothing changed."""
    change = total = 0.0
    for name, tensor in model.weights().items():
        if tensor.is_floating_point():
            old = before[name].double()
            change += float((tensor.detach().cpu().double() - old).square().sum())
            total += float(old.square().sum())
    return (change / total) ** 0.5 if total else 0.0


def _same_on_all_processes(fingerprint: Mapping[Tower, str], accelerator: Accelerator) -> None:
    if accelerator.num_processes > 1:
        found = gather_object([json.dumps(fingerprint, sort_keys=True)])
        if len(set(found)) > 1:
            raise SalmuError(
                "The processes ended with different weights.",
                "A method must not draw from unseeded randomness or depend on the process it runs in.",
            )


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Trackers take numbers and words only."""
    return {name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in options.items()}
