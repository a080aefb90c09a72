"""Score a model, whoever made it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import DataCache
from salmu_core.evaluation.evaluate import Evaluation, evaluate_model
from salmu_core.files.writing import write_tensors
from salmu_core.metric import Metric
from salmu_core.models.dual_encoder import DualEncoder, Tower
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import Protocol, RunRecord, RunSpec, ScoreRecord, Target
from salmu_core.records.store import RECORD_FILE, write_record
from salmu_core.runner.accelerate_setup import AUTOCAST, open_accelerator
from salmu_core.runner.progress import Progress
from salmu_core.runner.recording import ROWS_FILE, make_record, without_scores, write_exhibits, write_result_files
from salmu_core.runner.run import ensure_built
from salmu_core.runner.settings import Settings
from salmu_core.spec.benchmark_choice import BenchmarkChoice, benchmark_for
from salmu_core.spec.resolve import make_metrics, resolve

_REFERENCES = ("clean", "compromised")
FULL_PRECISION = "fp32"  # the extra that holds a score in full precision beside the one in half precision


def evaluate(
    model: str | Path | DualEncoder,
    *,
    benchmark: str | None = None,
    benchmark_options: Mapping[str, Any] | None = None,
    precision: Literal["no", "bf16", "fp16"] = "no",
    protocol: Protocol = "seeded",
    out: str | Path | None = None,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
) -> RunRecord:
    """Score one model on a benchmark.

    Args:
        model: the words `clean` or `compromised`, a run directory, a checkpoint file, an open_clip `hf-hub:` or
            `local-dir:` name, or a `DualEncoder`.
        benchmark: a registered name; default: that of the run which made the model, with its options and on its data, else the
            standard one that is installed.
        precision: type that the encoders run under autocast to; embeddings and similarities stay fp32. With fp16 each score in full
            precision stands beside it, as `extras["fp32"]`; with the official protocol cosines are rounded to float16.
        protocol: see `run`.
        out: a `.json` file for the record, with per-row values in `.rows.safetensors` beside it; or a directory, for
            `record.json` and `rows.safetensors`. The benchmark's own result files lie beside them. None: nothing is written.

    Raises:
        BadCheckpoint: there is no such model, or it is of an architecture that the benchmark's images and captions cannot
            be compared with.
        UnknownName, BadOptions, NotBuilt, BadData: about the benchmark.
        BadRecord: no benchmark is named, and the run's record is damaged or about other weights.
    """
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    choice = benchmark_for(model, benchmark, benchmark_options or {}, plugins)
    model = choice.model(model)
    spec = RunSpec(
        method="none",
        benchmark=choice.benchmark,
        benchmark_options=choice.options,
        start="clean" if model == "clean" else "compromised",
        precision=precision,
        protocol=protocol,
    )
    return _evaluated(model, spec, choice, settings, plugins, None if out is None else Path(out))


def _evaluated(
    model: str | Path | DualEncoder,
    spec: RunSpec,
    choice: BenchmarkChoice,
    settings: Settings,
    plugins: Plugins,
    out: Path | None,
) -> RunRecord:
    """Load, score, write."""
    resolved = resolve(spec, plugins, settings.cache_folder)
    spec = spec.model_copy(update={"benchmark": resolved.spec.benchmark})
    title = str(model) if not isinstance(model, DualEncoder) else "model"

    def tell(stage: str, done: int, total: int) -> None:
        plugins.tell("run_progress", event=Progress(title, stage, done, total))

    # Nothing is trained, so half precision needs no scaling of gradients, which there is on GPUs only: autocast does everywhere.
    with open_accelerator("no", cpu=settings.cpu) as accelerator:
        encoder, reference = _models(model, resolved.benchmark, spec.start, choice, accelerator, tell)
        where, _ = resolved.benchmark.reference(spec.start)
        encoder.autocast = AUTOCAST[spec.precision]
        fingerprint = encoder.fingerprint()
        metrics = make_metrics(plugins, settings.metric_options, where, spec)
        evaluation = _scored(encoder, where, spec, metrics, settings, plugins, title, tell, fingerprint)
        facts: dict[str, Any] = {
            "model_fingerprint": fingerprint,
            "start_fingerprint": fingerprint if reference is encoder else reference.fingerprint(),
            "total_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        }
        record = make_record(
            resolved,
            plugins,
            settings,
            facts,
            evaluation,
            accelerator,
            *without_scores(evaluation, "ok", None),
            "reference" if model in _REFERENCES else "evaluation",
        )
    if model not in _REFERENCES:
        record = _as_evaluation(record, title, spec)
    if out is not None and accelerator.is_main_process:
        record = _write(out, record, evaluation, resolved.benchmark, where, metrics)
    return record


def _models(
    model: str | Path | DualEncoder,
    benchmark: Benchmark,
    start: Target,
    choice: BenchmarkChoice,
    accelerator: Accelerator,
    tell: Callable[[str, int, int], None],
) -> tuple[DualEncoder, DualEncoder]:
    """The model that is scored, on the device, and the reference that it starts from, which may be the same. Builds the benchmark."""
    # A checkpoint that cannot be read is found before minutes are spent on building the benchmark.
    loaded = None if model in _REFERENCES else given_model(model)
    ensure_built(benchmark, accelerator, lambda step: tell(step.stage, step.done, step.total))
    choice.check_data(benchmark)
    where, which = benchmark.reference(start)
    reference = where.load_model(which)
    if loaded is None and model not in _REFERENCES:  # a bare checkpoint: it must fit the benchmark's own architecture
        loaded = load_model(str(model), like=reference.config)
    encoder = (loaded or reference).to(accelerator.device)
    choice.check_weights(encoder)
    return encoder, reference


def _scored(
    encoder: DualEncoder,
    where: Benchmark,
    spec: RunSpec,
    metrics: Sequence[Metric],
    settings: Settings,
    plugins: Plugins,
    title: str,
    tell: Callable[[str, int, int], None],
    fingerprint: Mapping[Tower, str],
) -> Evaluation:
    """The scores; in half precision with those in full precision beside them. Of private rows nothing is kept in the user's cache."""
    private = where.private and settings.cache is None

    def data() -> DataCache:
        return DataCache() if private else settings.data_cache(plugins, title)

    cache = None if private else settings.embedding_cache
    found = evaluate_model(encoder, where, metrics, cache, tell, data=data(), fingerprint=fingerprint)
    if spec.precision != "fp16":
        return found
    encoder.autocast = None
    full = make_metrics(plugins, settings.metric_options, where, spec.model_copy(update={"precision": "no"}))
    exact = evaluate_model(encoder, where, full, cache, tell, data=data(), fingerprint=fingerprint)
    return replace(found, scores=_beside(found.scores, exact.scores))


def _as_evaluation(record: RunRecord, title: str, spec: RunSpec) -> RunRecord:
    """The record of a model that is not a reference: known by its weights and how it was measured."""
    content = title + "".join(record.provenance.model_fingerprint.values())
    content += ("" if spec.precision == "no" else spec.precision) + ("" if spec.protocol == "seeded" else spec.protocol)
    return record.model_copy(
        update={
            "id": hashlib.sha256(content.encode()).hexdigest()[:16],
            "summary": f"The model {title}",
            "provenance": record.provenance.model_copy(update={"command": _command(title, spec)}),
        }
    )


def _write(
    path: Path, record: RunRecord, evaluation: Evaluation, benchmark: Benchmark, where: Benchmark, metrics: Sequence[Metric]
) -> RunRecord:
    """Write the record, its per-row values and the benchmark's own files; returns the record as it was written."""
    single = path.suffix == ".json"
    rows_path = path.with_suffix(".rows.safetensors") if single else path / ROWS_FILE
    write_tensors(rows_path, {name: torch.from_numpy(rows.copy()) for name, rows in evaluation.rows.items()})
    write_exhibits(where, metrics, record, evaluation, path if single else path / RECORD_FILE)
    record = write_result_files(benchmark, record, evaluation, rows_path.parent)
    record = record.model_copy(update={"rows_file": rows_path.name})
    write_record(path, record)
    return record


def _beside(scores: Mapping[str, ScoreRecord], exact: Mapping[str, ScoreRecord]) -> dict[str, ScoreRecord]:
    """Scores in half precision with those in full precision beside them."""
    return {
        name: score.model_copy(update={"extras": {**score.extras, FULL_PRECISION: exact[name].value}})
        if name in exact
        else score
        for name, score in scores.items()
    }


def _command(title: str, spec: RunSpec) -> str:
    words = ["salmu evaluate", title, f"--benchmark {spec.benchmark}"]
    words += [f"--bench-set {name}={value}" for name, value in spec.benchmark_options.items()]
    if spec.precision != "no":
        words.append(f"--precision {spec.precision}")
    if spec.protocol != "seeded":
        words.append(f"--protocol {spec.protocol}")
    return " ".join(words)


def given_model(model: str | Path | DualEncoder) -> DualEncoder | None:
    """The model, or None for a bare checkpoint file that needs the benchmark to know its architecture."""
    if isinstance(model, DualEncoder):
        return model
    path = Path(str(model))
    if path.is_file() and not (path.parent / "open_clip_config.json").is_file():
        return None
    return load_model(str(model))
