"""Steps two and three of a run: a model and a context for the method, and what it made of them."""

from __future__ import annotations

import gc
import random
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from salmu_core.benchmark import evaluation_locked
from salmu_core.data.cache import DataCache
from salmu_core.data.pairs import Role
from salmu_core.data.pixels import PairStore
from salmu_core.data.processes import process_index
from salmu_core.errors import DamagedFile, Diverged, OutputError, SalmuError
from salmu_core.files.seals import read_json
from salmu_core.files.writing import check_writable, write_json, write_sealed_json
from salmu_core.method import FitOptions, UnlearningMethod
from salmu_core.models.dual_encoder import WEIGHTS_FILE, DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.models.row_count import RowCount
from salmu_core.plugins.calls import asked, plugin_code
from salmu_core.plugins.loading import Plugins
from salmu_core.plugins.opened_files import opened_files
from salmu_core.records.schema import Status
from salmu_core.report.beside_records import HISTORY_FILE
from salmu_core.runner.accelerate_setup import AUTOCAST
from salmu_core.runner.budget import SampleMeter, rows_to_encode
from salmu_core.runner.checkpoints import Checkpoints, disk_for_training
from salmu_core.runner.context import UnlearnContext
from salmu_core.runner.execution import carried_out
from salmu_core.runner.fit import little_garbage
from salmu_core.runner.handover import Handed, fresh_model
from salmu_core.runner.made_model import changed_parameters, relative_change, save_made, take_back, trained_parameters
from salmu_core.runner.provenance import MemoryPeak
from salmu_core.runner.settings import Settings
from salmu_core.seeding import derive_seed
from salmu_core.spec.resolve import Resolved, make_method

UNLEARNED_FILE = "unlearned.json"
_PAST_THE_CONTEXT = "What it saw there is not counted, and may be evaluation data or the Clean model."


@dataclass
class Unlearned:
    """A model after the method, None where that failed, and what it took."""

    model: DualEncoder | None
    facts: dict[str, Any]
    error: str | None = None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object that this run left in its folder.

    Raises:
        OutputError: it is something else, or damaged.
    """
    try:
        content = read_json(path, sealed_with={"run"})
        if not isinstance(content, dict):
            raise DamagedFile(f"'{path}' is not a JSON object.")
    except (DamagedFile, OSError) as error:
        raise OutputError(str(error), "Choose another --out, or --overwrite to start this run over.") from error
    return content


def unlearn_or_resume(
    resolved: Resolved,
    folder: Path,
    settings: Settings,
    accelerator: Accelerator,
    plugins: Plugins,
    data: DataCache,
    tell: Callable[..., None],
) -> Unlearned:
    done = folder / UNLEARNED_FILE
    accelerator.wait_for_everyone()
    if done.is_file():  # killed between unlearning and evaluation
        where, which = resolved.benchmark.reference(resolved.spec.start)
        model = load_model(folder) if (folder / WEIGHTS_FILE).is_file() else where.load_model(which)
        # The hash is taken of what was loaded: it decides which embeddings are read from the cache.
        facts, fingerprint = read_object(done), model.fingerprint()
        others = facts.get("run", resolved.id) != resolved.id  # 0.2 did not say whose they are
        if others or (facts["finite"] and facts["model_fingerprint"] != fingerprint):
            raise OutputError(
                f"'{folder}' holds an {UNLEARNED_FILE} of another run, or not the {WEIGHTS_FILE} that it was written with.",
                "Choose another --out, or --overwrite to start this run over.",
            )
        return Unlearned(_on_device(model, resolved, accelerator), {**facts, "model_fingerprint": fingerprint})
    return _unlearn(resolved, folder, settings, accelerator, plugins, data, tell)


def _check_disk(model: DualEncoder, method: UnlearningMethod, reads: Sequence[Role], folder: Path) -> None:
    """Find out before training that the model and its checkpoints will not fit."""
    if process_index() == 0 and reads:
        weight_bytes = sum(tensor.nbytes for tensor in model.weights().values())
        trains = isinstance(method.options, FitOptions)
        check_writable(folder, disk_for_training(weight_bytes) if trains else weight_bytes)


def _on_device(model: DualEncoder, resolved: Resolved, accelerator: Accelerator) -> DualEncoder:
    model = model.to(accelerator.device)
    model.autocast = AUTOCAST[resolved.spec.precision]
    return model


@little_garbage()
def _unlearn(
    resolved: Resolved,
    folder: Path,
    settings: Settings,
    accelerator: Accelerator,
    plugins: Plugins,
    data: DataCache,
    tell: Callable[..., None],
) -> Unlearned:
    """Give the method its context, keep what it made of the model, and count what that took."""
    spec, benchmark, started = resolved.spec, resolved.benchmark, time.perf_counter()
    tell("load", 0, 0)
    where, which = benchmark.reference(spec.start)
    model = _on_device(where.load_model(which), resolved, accelerator)
    handed, start_fingerprint = Handed(model), model.fingerprint()
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    warnings: list[str] = []
    method, reads = resolved.new_method(warnings.append), resolved.reads(warnings.append)
    _check_disk(model, method, reads, folder)
    checkpoints = Checkpoints(folder / "checkpoints", settings.checkpoint_seconds, resolved.id)
    ctx = _context(method, reads, model, resolved, accelerator, plugins, data, checkpoints, tell)
    loaded, memory = time.perf_counter(), MemoryPeak(accelerator.device)
    if settings.log_with:
        accelerator.init_trackers("salmu", config=_flat(resolved.options))
    called, ended = _call(method, ctx, resolved, settings, plugins, resolved.who), time.perf_counter()

    def fresh(weights: Mapping[str, torch.Tensor]) -> DualEncoder:
        untouched = model if spec.method == "none" else fresh_model(lambda: where.load_model(which), weights)
        return _on_device(untouched, resolved, accelerator)

    made = take_back(handed, ctx.model, fresh, accelerator, resolved.who, called.status, called.error)
    facts = {
        "status": made.status,
        "error": made.error,
        "finite": made.usable,
        "warnings": list(dict.fromkeys([*warnings, *called.warnings, *made.warnings])),
        "seconds": {"load": loaded - started, "unlearn": ended - loaded + ctx.seconds_before_resume},
        "allowed": benchmark.budget().times(spec.budget),
        **_seen(ctx),
        "encoded": called.encoded,
        "execution": called.execution,
        "trainable_parameters": trained_parameters(ctx, sizes, changed_parameters(handed.weights, made.weights)),
        "total_parameters": sum(sizes.values()),
        "peak_memory_bytes": memory.bytes(),
        "weight_change": relative_change(handed.weights, made.weights) if made.usable else None,
        "start_fingerprint": start_fingerprint,
        "model_fingerprint": made.fingerprint,
    }
    if accelerator.is_main_process and made.status != "failed":
        if spec.method != "none":
            tell("save", 0, 0)
            save_made(folder, made, handed, ctx.added, start_fingerprint)
            write_json(folder / HISTORY_FILE, ctx.history)
        write_sealed_json(folder / UNLEARNED_FILE, {"run": resolved.id, **facts})
        checkpoints.clear()
    accelerator.wait_for_everyone()
    with asked(f"{resolved.who}, when its model was let go,", facts["warnings"].append):
        del ctx, handed, method, model  # what hangs on them may act when it goes
        gc.collect()  # of what the run made, see `little_garbage`
    return Unlearned(made.model, facts, made.error)


def _context(
    method: UnlearningMethod,
    reads: Sequence[Role],
    model: DualEncoder,
    resolved: Resolved,
    accelerator: Accelerator,
    plugins: Plugins,
    data: DataCache,
    checkpoints: Checkpoints,
    tell: Callable[..., None],
) -> UnlearnContext:
    """What the method is handed: the model, the splits that it reads, and the budget."""
    spec, benchmark = resolved.spec, resolved.benchmark
    stores = {role: PairStore(benchmark.split_for(role), model.processor, accelerator.device, data) for role in reads}
    return UnlearnContext(
        model,
        stores,
        SampleMeter(benchmark.budget().times(spec.budget), spec.method),
        accelerator,
        spec.seed,
        method,
        checkpoints,
        tell,
        clean=(lambda: benchmark.load_model("clean")) if method.oracle else None,
        make_method=lambda name, options: make_method(name, options, plugins),
    )


@dataclass
class _Called:
    """How the call of a method ended."""

    status: Status
    error: str | None
    execution: dict[str, Any]
    warnings: list[str]
    encoded: dict[str, int]


def _call(
    method: UnlearningMethod, ctx: UnlearnContext, resolved: Resolved, settings: Settings, plugins: Plugins, who: str
) -> _Called:
    """Call the method while rows that pass the encoders are counted and opened files are watched."""
    warnings, benchmark = list[str](), resolved.benchmark
    methods = {entry.cls.__module__.partition(".")[0] for entry in plugins.methods.values()}
    model, allowed = ctx.model, benchmark.budget().times(resolved.spec.budget)
    model.rows_encoded = encoded = RowCount(rows_to_encode(allowed), f"The method {resolved.spec.method}")
    with opened_files(benchmark, methods, settings.cache_folder) as opened:
        status, error, in_force = _let_unlearn(method, ctx, settings, who, warnings)
    model.rows_encoded = None
    counted = {"image": encoded.image, "text": encoded.text}
    return _Called(status, error, in_force, [*warnings, *opened.warnings(who, _PAST_THE_CONTEXT)], counted)


def _seen(ctx: UnlearnContext) -> dict[str, Any]:
    """What the method looked at and how long it trained."""
    return {
        "samples": dict(ctx.samples),
        "captions": dict(ctx.captions_read),
        "columns": {role: list(names) for role, names in ctx.columns_read.items()},
        "undeclared": list(ctx.undeclared_columns),
        "steps": ctx.steps,
        "global_batch": ctx.global_batch,
    }


def _let_unlearn(
    method: UnlearningMethod, ctx: UnlearnContext, settings: Settings, who: str, warnings: list[str]
) -> tuple[Status, str | None, dict[str, Any]]:
    """Call the method.

    Returns:
        How it ended, why where it did not end well, and how the encoders were carried out.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    in_force: dict[str, Any] = {}
    try:
        with (
            evaluation_locked(),
            carried_out(ctx.model, settings) as in_force,
            plugin_code(who, warnings.append, own=type(method).__module__.partition(".")[0]),
        ):
            _seed_global_generators(ctx.seed)
            method.unlearn(ctx)
    except Diverged as problem:
        return "diverged", problem.message, in_force
    except SalmuError as problem:
        return "failed", str(problem), in_force
    except Exception as problem:  # a method's own bug ends this run, not a comparison
        return "failed", f"{who} raised {type(problem).__name__}: {problem}\n{traceback.format_exc(limit=-4)}", in_force
    return "ok", None, in_force


def _seed_global_generators(seed: int) -> None:
    """No method should draw from them. One that does gets the same numbers whatever ran before it."""
    own = derive_seed(seed, "global generators")
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Trackers take numbers and words only."""
    return {name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in options.items()}
