"""Make a user's own model forget some of their pairs: check, references, the run, and the model in the layouts people load."""

from __future__ import annotations

import importlib.metadata
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from salmu_core.data.processes import process_index
from salmu_core.errors import BadData, BadOptions, OutputError
from salmu_core.files.writing import is_leftover, scratch_beside, write_sealed_json, write_text
from salmu_core.layout import Finding
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.options import parse_options
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.references import REFERENCES
from salmu_core.records.schema import RunRecord, RunSpec, Target
from salmu_core.runner.progress import Progress
from salmu_core.runner.run import SPEC_FILE, Settings, run_resolved, steps_within_budget
from salmu_core.runner.workers import run_alone
from salmu_core.spec.presets import NONE, with_preset
from salmu_core.spec.resolve import Resolved, make_method, resolve
from salmu_deletion.hf_folder import hf_refusal, write_hf_folder
from salmu_deletion.own_data.benchmark import OwnData
from salmu_deletion.own_data.chain import DRIFT_BUDGET, REQUEST_FILE, read_request
from salmu_deletion.own_data.check import check_pairs, errors_of
from salmu_deletion.own_data.page import render_request
from salmu_deletion.request import chain_report, index_report

TRANSFORMERS_FOLDER = "transformers"
CACHE_FOLDER = "cache"
PAGE_FILE = "request.html"
_CLOSE = 1e-4  # largest difference of an embedding's entry between both libraries


@dataclass(frozen=True)
class Forgotten:
    """What `forget` leaves.

    Attributes:
        references: the rows Compromised (the model as given) and Clean (the same on pairs never learned), as far as measured.
        notes: what could not be done or measured, in sentences.
        transformers: the folder in transformers' layout; None where the architecture has none.
        request: what else `request.json` says: of stored vectors ("index") and of earlier requests ("chain"), each None where there
            is nothing to say.
    """

    folder: Path
    record: RunRecord
    references: Mapping[Target, RunRecord]
    notes: tuple[str, ...]
    transformers: Path | None
    request: Mapping[str, Any] = field(default_factory=dict)


def own_data(settings: Settings, **options: Any) -> OwnData:
    """The benchmark of a user's data.

    Args:
        options: see `OwnDataOptions`. With `after` the model is that run's.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if "after" in given:
        if "model" in given:
            raise BadOptions(
                "A request after another starts from that run's model, and another model was given.", "Leave --model out."
            )
        given["model"] = str(given["after"])
    return OwnData(parse_options(OwnData.Options, given, OwnData.name), settings.cache_folder)


def settings_for(out: Path, settings: Settings) -> Settings:
    """What is derived from private pictures and captions is kept beside the run and not in the user's cache."""
    return settings if settings.cache is not None else replace(settings, cache=out / CACHE_FOLDER)


def check(benchmark: OwnData, plugins: Plugins, *, decode: bool = True) -> list[Finding]:
    """The validation report; see `check_pairs`."""

    def tell(stage: str, done: int, total: int) -> None:
        if process_index() == 0:
            plugins.tell("run_progress", event=Progress("check", stage, done, total))

    forget_table, retain_table = benchmark.forget_table, benchmark.retain_table  # first: the model takes longer to read
    earlier = [request.data.forget_table for request in benchmark.earlier if request.data is not None]
    return check_pairs(forget_table, retain_table, benchmark.processor, earlier=earlier, decode=decode, tell=tell)


def plan(
    benchmark: OwnData,
    method: str,
    plugins: Plugins,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    budget: float = 1.0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    preset: str | Path = NONE,
    settings: Settings,
) -> Resolved:
    """Names and options of the run, checked.

    Raises:
        UnknownName, BadOptions: the method, its options, or pairs that it sees and that were not given.
        BudgetExceeded: the passes do not hold what the method is asked to do.
    """
    spec = RunSpec(
        method=method,
        benchmark=OwnData.name,
        benchmark_options=benchmark.options.model_dump(mode="json"),
        method_options=with_preset(method, dict(options or {}), benchmark, preset, budget),
        seed=seed,
        budget=budget,
        precision=precision,
    )
    resolved = resolve(spec, plugins, settings.cache_folder, benchmark)
    steps_within_budget(resolved, plugins)
    return resolved


def forget(
    benchmark: OwnData,
    resolved: Resolved,
    out: str | Path,
    *,
    findings: list[Finding] | None = None,
    keep_cache: bool = False,
    drift_budget: float = DRIFT_BUDGET,
    settings: Settings,
    plugins: Plugins | None = None,
) -> Forgotten:
    """Carry out a run on a user's own data. A run that was cut goes on; one that is done is read back.

    Args:
        benchmark, resolved: see `own_data` and `plan`.
        out: the run directory. Besides what every run leaves it holds `references/` and, where the architecture has it,
            `transformers/`.
        findings: of `check`, where that was done already.
        drift_budget: the fall of RetainMRR that all requests of a chain may cost together.
        keep_cache: keep decoded pictures and embeddings, which otherwise go when the run is done.

    Raises:
        BadData: the tables have errors.
        OutputError: the folder holds something else.
        SalmuError: see `run`.
    """
    plugins = plugins or load_plugins()
    folder = Path(out)
    bad = errors_of(findings if findings is not None else check(benchmark, plugins))
    if bad:
        raise BadData(
            f"The tables have {len(bad)} kind{'s' if len(bad) > 1 else ''} of errors. {bad[0].message}",
            bad[0].hint or "See all with --check-only.",
        )
    _require_own(folder)
    notes = _too_small(benchmark, resolved, plugins)
    references: dict[Target, RunRecord] = {}
    # The method first: where it cannot do what it is asked, nothing else was computed in vain.
    record = run_alone(resolved, folder, settings, plugins)
    starts: tuple[Target, ...] = ("compromised", "clean") if record.status != "failed" else ()
    for start in starts:
        asked = resolved.spec.model_copy(
            update={"method": "none", "method_options": {}, "seed": 0, "budget": 1.0, "start": start}
        )
        row = resolve(asked, plugins, settings.cache_folder, benchmark)
        if start == "clean" and (reason := _one_person(benchmark)) is not None:
            notes.append(reason)
            continue
        references[start] = run_resolved(row, folder / REFERENCES / start, settings, plugins)
    request = _request(benchmark, folder, record, references, settings, plugins, drift_budget)
    transformers = None
    if process_index() == 0:
        if record.model_file is not None:
            transformers, note = write_transformers(folder)
            notes += [note] if note else []
        if not keep_cache and settings.cache_folder == folder / CACHE_FOLDER:
            shutil.rmtree(folder / CACHE_FOLDER, ignore_errors=True)
    if record.skipped:
        notes.append(
            f"Not measured, since their data was not given: {', '.join(record.skipped)}. record.json has the reasons."
        )
    if process_index() == 0:
        write_text(folder / PAGE_FILE, render_request(record, references, request, notes))
    return Forgotten(folder, record, references, tuple(notes), transformers, request)


def _too_small(benchmark: OwnData, resolved: Resolved, plugins: Plugins) -> list[str]:
    """What the method says of a request of so few pairs; see `UnlearningMethod.check_forget`."""
    method = resolved.new_method()
    if "forget" not in method.reads():
        return []
    forget = benchmark.split_for("forget")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        method.check_forget(len(forget), forget.identities, lambda name, options: make_method(name, options, plugins))
    return [str(warning.message) for warning in told]


def _request(
    benchmark: OwnData,
    folder: Path,
    record: RunRecord,
    references: Mapping[Target, RunRecord],
    settings: Settings,
    plugins: Plugins,
    drift_budget: float,
) -> dict[str, Any]:
    """The request, and what it means for stored vectors and earlier requests; read back where a finished run has it already."""
    there = read_request(folder)
    if there.get("record") == record.id and there.get("drift_budget") == drift_budget:
        return there
    index = chain = None
    if record.status == "ok" and record.model_file is not None:
        index = index_report(benchmark, folder, record, settings, plugins)
        chain = chain_report(benchmark, record, references, settings, plugins, drift_budget)
    content = {
        "record": record.id,
        "rows": len(benchmark.forget_table),
        "forget_fingerprint": benchmark.forget_fingerprint(),
        "after": benchmark.earlier[0].record.id if benchmark.earlier else None,
        "drift_budget": drift_budget,
        "index": None if index is None else index.as_json(),
        "chain": None if chain is None else chain.as_json(),
    }
    if process_index() == 0:
        write_sealed_json(folder / REQUEST_FILE, content)
    return content


def _require_own(folder: Path) -> None:
    """Refuse to write into a folder that is not a run."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SPEC_FILE).is_file():
        known = {REFERENCES, CACHE_FOLDER}  # of a run that was cut before it began
        strange = sorted(entry.name for entry in folder.iterdir() if entry.name not in known and not is_leftover(entry.name))
        if strange:
            raise OutputError(
                f"'{folder}' holds something else already ({', '.join(strange[:3])}).",
                "Choose a folder that is new or empty.",
            )


def _one_person(benchmark: OwnData) -> str | None:
    try:
        benchmark.never_learned.split("forget")
        return None
    except BadData as problem:
        return problem.message


def write_transformers(folder: Path) -> tuple[Path | None, str | None]:
    """Write a run's model in transformers' layout, into the folder `transformers` of the run.

    Where transformers is installed, the folder is loaded with it and both embeddings are compared.

    Returns:
        The folder, or None where the architecture has no faithful counterpart; and what there is to say about it.
    """
    model = load_model(folder)
    model_cfg = model.config.model_cfg
    preprocess = model.processor.preprocess
    as_open_clip = {**model.config.preprocess_cfg, "mean": preprocess.mean, "std": preprocess.std}
    refusal = hf_refusal(model_cfg, as_open_clip)
    target = folder / TRANSFORMERS_FOLDER
    if refusal is not None:
        return None, f"Only open_clip's layout was written: {refusal}."
    with scratch_beside(target) as scratch:
        made = scratch / TRANSFORMERS_FOLDER
        made.mkdir()
        write_hf_folder(made, model_cfg, as_open_clip, model.weights())
        difference = difference_to_transformers(made, model)
        if difference is not None and not difference <= _CLOSE:
            return None, (
                f"Only open_clip's layout was written: in transformers the embeddings differ by up to {difference:.2g}."
            )
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    if difference is None:
        return (
            target,
            "transformers is not installed or cannot be imported, so its layout was written and not loaded once to compare.",
        )
    version = importlib.metadata.version("transformers")
    return target, f"Loaded again with transformers {version}: embeddings differ by at most {difference:.1e}."


def difference_to_transformers(folder: Path, model: DualEncoder) -> float | None:
    """Largest difference between entries of unit-length embeddings of a few captions and a picture.

    Returns:
        None where transformers is missing or broken.
    """
    try:
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.utils import logging
    except Exception:  # it imports much, and what is broken or unusual here raises many kinds (`python -OO`: ValueError)
        return None
    logging.disable_progress_bar()  # it would write over our own display
    theirs = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    tokens = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    captions = ["a photo of a dog", "An answer: 42, at 12 o'clock!", "x"]
    gradient = Image.linear_gradient("L").convert("RGB")
    pixels = model.processor.normalise(torch.from_numpy(model.processor.pixels(gradient))[None])
    with torch.inference_mode():
        words = tokens(
            captions, padding="max_length", truncation=True, max_length=model.processor.context_length, return_tensors="pt"
        )
        found = theirs(input_ids=words["input_ids"], attention_mask=words["attention_mask"], pixel_values=pixels)
        text = model.encode_text(model.processor.tokenize(captions)) - found.text_embeds
        image = model.encode_image(pixels) - found.image_embeds
    return float(max(text.abs().max(), image.abs().max()))
