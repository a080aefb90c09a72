"""Steps two and three of a run: a model and a context for the method, and what it made of them."""

from __future__ import annotations

import json
import random
import time
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from salmu_core.benchmark import evaluation_locked
from salmu_core.data.cache import DataCache
from salmu_core.data.pixels import PairStore
from salmu_core.data.processes import process_index
from salmu_core.errors import DamagedFile, Diverged, OutputError, SalmuError
from salmu_core.files.seals import read_json
from salmu_core.files.writing import check_writable, write_json, write_sealed_json
from salmu_core.method import FitOptions, UnlearningMethod
from salmu_core.models.adapters import ADAPTER_FILE, Added, apply_added, write_adapter
from salmu_core.models.dual_encoder import WEIGHTS_FILE, DualEncoder, Tower, load_model
from salmu_core.models.row_count import RowCount
from salmu_core.plugins.calls import plugin_code
from salmu_core.plugins.registry import Plugins
from salmu_core.records.schema import Status
from salmu_core.report.evidence import HISTORY_FILE
from salmu_core.runner.accelerate_setup import AUTOCAST
from salmu_core.runner.budget import SampleMeter, rows_to_encode
from salmu_core.runner.checkpoints import Checkpoints, disk_for_training
from salmu_core.runner.context import UnlearnContext
from salmu_core.runner.execution import carried_out
from salmu_core.runner.handover import Handed, fresh_model
from salmu_core.runner.opened_files import opened_files
from salmu_core.runner.provenance import MemoryPeak
from salmu_core.runner.settings import Settings
from salmu_core.seeding import derive_seed
from salmu_core.spec.resolve import Resolved, make_method

UNLEARNED_FILE = "unlearned.json"


@dataclass
class Unlearned:
    """A model after the method, and what it took."""

    model: DualEncoder
    facts: dict[str, Any]
    error: str | None = None


def read_object(path: Path) -> dict[str, Any]:
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
        facts = {**read_object(done), "model_fingerprint": model.fingerprint()}
        return Unlearned(_on_device(model, resolved, accelerator), facts)
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
) -> Unlearned:
    """Give the method its context, keep what it made of the model, and count what that took."""
    spec, benchmark = resolved.spec, resolved.benchmark
    tell("load", 0, 0)
    started = time.perf_counter()
    where, which = benchmark.reference(spec.start)
    model = _on_device(where.load_model(which), resolved, accelerator)
    handed = Handed(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
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
    who = f"The method {spec.method} ({resolved.method.origin})"
    warnings: list[str] = []
    methods = {entry.cls.__module__.partition(".")[0] for entry in plugins.methods.values()}
    model.rows_encoded = encoded = RowCount(rows_to_encode(allowed), f"The method {spec.method}")
    with opened_files(benchmark, settings.cache_folder, methods) as opened:
        status, error, in_force = _let_unlearn(method, ctx, settings, who, warnings)
    model.rows_encoded = None
    warnings += opened.warnings(who)
    seconds = time.perf_counter() - loaded + ctx.seconds_before_resume
    weights: Mapping[str, torch.Tensor] = {}
    fingerprint: Mapping[Tower, str] = {}
    odd: list[str] = []
    if status != "failed":
        try:
            weights = handed.taken_back(ctx.model)
            warnings += handed.warnings(who, weights)
            odd = [name for name, t in weights.items() if t.is_floating_point() and not torch.isfinite(t).all()]
            if spec.method != "none":
                model = _on_device(fresh_model(lambda: where.load_model(which), weights), resolved, accelerator)
            fingerprint = model.fingerprint()
            _same_on_all_processes(fingerprint, accelerator)
        except Exception as problem:  # whatever the method made of the model
            status, error = "failed", f"{who} left a model that cannot be scored. {problem}"
    if odd and status == "ok":
        status, error = "diverged", f"{who} left weights that are not finite: {', '.join(odd[:3])}."
    usable = status != "failed" and not odd
    facts = {
        "status": status,
        "error": error,
        "finite": usable,
        "warnings": list(dict.fromkeys(warnings)),
        "seconds": {"load": loaded - started, "unlearn": seconds},
        "samples": dict(ctx.samples),
        "captions": dict(ctx.captions_read),
        "encoded": {"image": encoded.image, "text": encoded.text},
        "columns": {role: list(names) for role, names in ctx.columns_read.items()},
        "undeclared": list(ctx.undeclared_columns),
        "allowed": allowed,
        "steps": ctx.steps,
        "global_batch": ctx.global_batch,
        "execution": in_force,
        "trainable_parameters": _trained_parameters(ctx, sizes, _changed(handed.weights, weights)),
        "total_parameters": sum(sizes.values()),
        "peak_memory_bytes": memory.bytes(),
        "weight_change": _relative_change(handed.weights, weights) if usable else None,
        "start_fingerprint": start_fingerprint,
        "model_fingerprint": fingerprint,
    }
    if accelerator.is_main_process and status != "failed" and resolved.spec.method != "none":
        tell("save", 0, 0)
        if usable:
            model.save(folder)
            save_adapter(folder, handed.weights, ctx.added, model, start_fingerprint)
        write_json(folder / HISTORY_FILE, ctx.history)
    if accelerator.is_main_process and status != "failed":
        write_sealed_json(folder / UNLEARNED_FILE, facts)
        checkpoints.clear()
    accelerator.wait_for_everyone()
    return Unlearned(model, facts, error)


def _changed(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the parameters that have other values now."""
    return {f"clip.{name}" for name, tensor in after.items() if not torch.equal(tensor.detach().cpu(), before[name].cpu())}


def _trained_parameters(ctx: UnlearnContext, weights: Mapping[str, int], changed: Set[str]) -> int:
    """How many numbers training could change or something else changed. Of a weight that had an adapter, those of the adapter
    count.

    Args:
        weights: name -> numbers of each parameter, before the method.
    """
    factors: dict[str, int] = {}
    for stage in ctx.added:
        for name, (up, down, _) in stage.items():
            factors[f"clip.{name}"] = factors.get(f"clip.{name}", 0) + up.numel() + down.numel()
    return sum(min(weights[name], factors.get(name, weights[name])) for name in (ctx.trained | changed) & set(weights))


def save_adapter(
    folder: Path,
    start: Mapping[str, torch.Tensor],
    stages: Sequence[Added],
    model: DualEncoder,
    fingerprint: Mapping[Tower, str],
) -> None:
    """Keep what adapters added as a file of its own, where it is all that the run changed."""
    if not stages:
        return
    made, weights = apply_added(start, stages), model.weights()
    if all(torch.equal(tensor, weights[name].cpu()) for name, tensor in made.items()):
        write_adapter(folder / ADAPTER_FILE, stages, fingerprint)


def _let_unlearn(
    method: UnlearningMethod, ctx: UnlearnContext, settings: Settings, who: str, warnings: list[str]
) -> tuple[Status, str | None, dict[str, Any]]:
    """Call the method.

    Returns:
        How it ended, why where it did not end well, and how the encoders were carried out.

    Raises:
        KeyboardInterrupt: somebody pressed it.
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


def _relative_change(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> float:
    """L2 norm of the change of all weights over the L2 norm of the start weights; 0.0 exactly when nothing changed."""
    change = total = 0.0
    for name, tensor in after.items():
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
