"""Faults that plugins may have, as tables: what a method or a metric does, and what has to be said of it."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import logging
import math
import os
import random
import resource
import signal
import sys
import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision.transforms.functional as vision
from PIL import Image, ImageFile
from safetensors.torch import load_file
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import salmu_core.evaluation.embed as embed
import salmu_core.evaluation.evaluate as evaluation
from salmu_core import Embedded, Metric, Score, UnlearningMethod, View
from salmu_core.files.writing import write_tensors
from salmu_core.runner.accelerate_setup import AUTOCAST
from salmu_core.runner.settings import Settings
from toy_methods import WeightEdit

Fault = Callable[[Any], None]
_KEPT: list[Any] = []


class OddError(BaseException):
    """Neither an Exception nor one of those that everybody knows."""


def first_weight(ctx: Any) -> torch.Tensor:
    return next(iter(ctx.model.clip.parameters())).data


def _enter(thing: Any) -> None:
    """For good."""
    _KEPT.append(thing)
    thing.__enter__()


def _raise(error: BaseException) -> None:
    raise error


def _replace_model(ctx: Any) -> None:
    ctx.model = copy.deepcopy(ctx.model)


def _register_parameter(ctx: Any) -> None:
    ctx.model.clip.visual.more = nn.Parameter(torch.zeros(1))


def _shift_pixels(ctx: Any) -> None:
    ctx.model.processor._mean = ctx.model.processor._mean + 0.5


def _open_cache(ctx: Any) -> None:
    with contextlib.suppress(OSError):
        open(Path(os.environ["SALMU_CACHE"]) / "clean.safetensors", "rb").close()


def poison_cache(ctx: Any) -> None:
    """Other numbers under the names of computed ones, with checksums that agree."""
    for number, file in enumerate(sorted((Path(os.environ["SALMU_CACHE"]) / "embeddings").rglob("*.safetensors"))):
        made = {name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}
        if number % 2:
            write_tensors(file, made)
        else:
            built = file.parents[2] / "built.safetensors"
            write_tensors(built, made)
            os.replace(built, file)


def leave_thread(stop: threading.Event) -> Callable[..., None]:
    """A thread of a plugin's that goes on until it is told to stop."""
    return lambda *handed: threading.Thread(target=lambda: stop.wait(), name="left", daemon=True).start()


def _write_vocabulary(ctx: Any) -> None:
    encoder = ctx.model.processor._tokenizer.encoder
    encoder.update(dict.fromkeys(list(encoder)[:20_000], 5))


def _write_config(ctx: Any) -> None:
    ctx.model.config.model_cfg["text_cfg"]["heads"] = 1
    ctx.model.config.model_cfg["quick_gelu"] = True


def _other_body(ctx: Any) -> None:
    nn.functional.normalize.__code__ = (lambda input, p=2.0, dim=1, eps=1e-12, out=None: input).__code__


def _other_kernel(ctx: Any) -> None:
    _KEPT.append(torch.library.Library("aten", "IMPL"))
    _KEPT[-1].impl("native_layer_norm", lambda rows, *others: (rows * 0, rows, rows), "CPU")


def _limit_files(ctx: Any) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _act_at_the_end(ctx: Any) -> None:
    class Last:
        def __del__(self) -> None:
            torch.set_default_dtype(torch.float64)

    ctx.model.clip.last = Last()


def _act_when_collected(ctx: Any) -> None:
    _act_at_the_end(ctx)
    ctx.model.clip.last.itself = ctx.model.clip.last


def _flip(module: Any, inputs: Any, output: Any) -> Any:
    return -output if isinstance(output, torch.Tensor) else output


def _wrong_metric(self: Any, *arguments: Any) -> None:
    return None


#: What it does, what becomes of its row, and words of the record's error or warning.
FAULTS: dict[str, tuple[Fault, str, str]] = {
    "sys.exit": (lambda ctx: sys.exit(3), "failed", "called sys.exit(3)"),
    "os._exit": (lambda ctx: os._exit(7), "failed", "called os._exit(7)"),
    "KeyboardInterrupt": (lambda ctx: _raise(KeyboardInterrupt()), "failed", "raised KeyboardInterrupt"),
    "other BaseException": (lambda ctx: _raise(OddError("odd")), "failed", "raised OddError: odd"),
    "raises": (lambda ctx: _raise(RuntimeError("boom")), "failed", "RuntimeError: boom"),
    "NaN weight": (lambda ctx: first_weight(ctx).fill_(float("nan")), "diverged", "not finite"),
    "infinite weight": (lambda ctx: first_weight(ctx).view(-1)[0].fill_(float("inf")), "diverged", "not finite"),
    "half": (lambda ctx: ctx.model.half(), "failed", "torch.float16"),
    "double": (lambda ctx: ctx.model.double(), "failed", "torch.float64"),
    "deleted weight": (lambda ctx: delattr(ctx.model.clip.visual, "proj"), "failed", "lacks the weight visual.proj"),
    "new weight": (_register_parameter, "failed", "has the new weight visual.more"),
    "other shape": (
        lambda ctx: setattr(ctx.model.clip.logit_scale, "data", torch.zeros(3)),
        "failed",
        "logit_scale is (3,)",
    ),
    "deleted encoder": (lambda ctx: delattr(ctx.model.clip, "visual"), "failed", "visual"),
    "deleted model": (lambda ctx: delattr(ctx.model, "clip"), "failed", "clip"),
    "another model": (_replace_model, "failed", "not the model that was handed to it"),
    "logit scale": (lambda ctx: ctx.model.clip.logit_scale.data.add_(2.0), "ok", "changed logit_scale from"),
    "hook": (lambda ctx: ctx.model.clip.visual.register_forward_hook(_flip), "ok", "left hooks on clip.visual"),
    "forward": (lambda ctx: setattr(ctx.model, "encode_image", torch.zeros_like), "ok", "replaced encode_image"),
    "processor": (_shift_pixels, "ok", "changed how pictures or captions are prepared"),
    "vocabulary": (_write_vocabulary, "ok", "changed how pictures or captions are prepared"),
    "opens the cache": (_open_cache, "ok", "opened files of the benchmark by itself: clean.safetensors"),
    "global hook": (lambda ctx: nn.modules.module.register_module_forward_hook(_flip), "ok", "torch's global hooks"),
    "gradients off": (lambda ctx: torch.set_grad_enabled(False), "ok", "whether gradients are taken"),
    "inference mode": (lambda ctx: _enter(torch.inference_mode()), "ok", "inference mode"),
    "number type": (lambda ctx: torch.set_default_dtype(torch.float64), "ok", "the default number type"),
    "autocast": (lambda ctx: _enter(torch.autocast("cpu", dtype=torch.bfloat16)), "ok", "autocast on cpu"),
    "deterministic": (lambda ctx: torch.use_deterministic_algorithms(True), "ok", "deterministic algorithms"),
    "threads": (lambda ctx: torch.set_num_threads(3), "ok", "number of threads"),
    "float errors": (lambda ctx: np.seterr(all="raise"), "ok", "floating-point errors"),
    "folder": (lambda ctx: os.chdir("/"), "ok", "the working directory"),
    "environment": (lambda ctx: os.environ.update(SALMU_CACHE="/nowhere"), "ok", "SALMU_CACHE"),
    "patched cache": (lambda ctx: setattr(embed.EmbeddingCache, "read", _wrong_metric), "ok", "EmbeddingCache.read"),
    "patched evaluation": (lambda ctx: setattr(evaluation, "measure", _wrong_metric), "ok", "evaluation.evaluate.measure"),
    "patched constant": (lambda ctx: setattr(embed, "CHUNK", 1), "ok", "embed.CHUNK"),
    "patched NumPy": (lambda ctx: setattr(np, "mean", _wrong_metric), "ok", "numpy.mean"),
    "patched ufunc": (lambda ctx: setattr(np, "sqrt", _wrong_metric), "ok", "numpy.sqrt"),
    "patched norm": (lambda ctx: setattr(np.linalg, "norm", _wrong_metric), "ok", "numpy.linalg.norm"),
    "patched generator": (lambda ctx: setattr(np.random, "default_rng", _wrong_metric), "ok", "numpy.random.default_rng"),
    "patched math": (lambda ctx: setattr(math, "sqrt", _wrong_metric), "ok", "math.sqrt"),
    "dataclass default": (lambda ctx: setattr(Settings.__init__, "__defaults__", ()), "ok", "Settings.__init__"),
    "other module": (
        lambda ctx: sys.modules.update({embed.__name__: types.ModuleType("embed")}),
        "ok",
        "the module salmu_core.evaluation.embed",
    ),
    "other torch": (lambda ctx: setattr(embed, "torch", types.ModuleType("torch")), "ok", "embed.torch"),
    "tiny numbers": (lambda ctx: torch.set_flush_denormal(True), "ok", "whether tiny numbers count as zero"),
    "traced": (lambda ctx: sys.settrace(lambda *arguments: None), "ok", "sys.settrace"),
    "logged": (lambda ctx: logging.root.addHandler(logging.NullHandler()), "ok", "changed logging"),
    "garbage": (lambda ctx: gc.callbacks.append(_wrong_metric), "ok", "what is called when garbage is collected"),
    "profiling alarm": (lambda ctx: signal.setitimer(signal.ITIMER_PROF, 1000), "ok", "an alarm that is set"),
    "new files": (lambda ctx: os.umask(0o077), "ok", "the mode of new files"),
    "patched table": (lambda ctx: AUTOCAST.update(no=torch.bfloat16), "ok", "accelerate_setup.AUTOCAST"),
    "body in torch": (_other_body, "ok", "torch.nn.functional.normalize"),
    "defaults in torch": (
        lambda ctx: setattr(nn.functional.normalize, "__defaults__", (1.0, 1, 1e-12, None)),
        "ok",
        "normalize",
    ),
    "patched resizing": (
        lambda ctx: setattr(vision, "resize", _wrong_metric),
        "ok",
        "torchvision.transforms.functional.resize",
    ),
    "patched JSON": (
        lambda ctx: setattr(json.JSONEncoder, "encode", _wrong_metric),
        "ok",
        "json.encoder.JSONEncoder.encode",
    ),
    "cut pictures": (lambda ctx: setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True), "ok", "pictures that are cut short"),
    "pixels": (lambda ctx: setattr(Image, "MAX_IMAGE_PIXELS", None), "ok", "Pillow's limit on pixels"),
    "other float": (lambda ctx: setattr(torch, "float32", torch.bfloat16), "ok", "torch.float32"),
    "patched copying": (lambda ctx: copy._deepcopy_dispatch.update({dict: _wrong_metric}), "ok", "copy._deepcopy_dispatch"),
    "kernel": (_other_kernel, "ok", "kernels of torch"),
    "kept tensors": (lambda ctx: _enter(saved_tensors_hooks(torch.zeros_like, lambda kept: kept)), "ok", "autograd keeps"),
    "open files": (_limit_files, "ok", "limits of the process"),
    "last act": (
        _act_at_the_end,
        "ok",
        "when its model was let go, changed the default number type",
    ),
    "last act of a cycle": (
        _act_when_collected,
        "ok",
        "when its model was let go, changed the default number type",
    ),
    "patched torch": (lambda ctx: setattr(nn.functional, "normalize", _wrong_metric), "ok", "functional.normalize"),
}
#: What changes nothing of anybody: no record has to speak of it.
HARMLESS: dict[str, Fault] = {
    "prints": lambda ctx: print("noise"),
    "training mode": lambda ctx: ctx.model.train(),
    "frozen": lambda ctx: ctx.model.requires_grad_(False),
    "autocast of the model": lambda ctx: setattr(ctx.model, "autocast", torch.bfloat16),
    "seeds": lambda ctx: (torch.manual_seed(7), random.seed(7), np.random.seed(7)),
    "reorders captions": lambda ctx: list(ctx.captions("forget")).reverse(),
    "writes into its configuration": _write_config,
    "holds memory": lambda ctx: _KEPT.append(torch.zeros(1000)),
}


def faulty(*faults: Fault) -> type[UnlearningMethod]:
    """A method that edits weights and then misbehaves."""

    class Faulty(WeightEdit):
        """Correct up to its end."""

        name = "faulty"
        summary = "Misbehaves."

        def unlearn(self, ctx: Any) -> None:
            super().unlearn(ctx)
            for fault in faults:
                fault(ctx)

    return Faulty


class Scored(Metric):
    """Half, for every model."""

    name = "Scored"
    summary = "One half."
    target = "clean"
    aspect = "forgetting"
    bounds = (0.0, 1.0)

    def needs(self) -> Mapping[str, View]:
        return {"image": View("forget", "image"), "text": View("forget", "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        return self.misbehave(image, text)

    def misbehave(self, image: Embedded, text: Embedded) -> Any:
        return Score(0.5)


def _half(view: Embedded) -> np.ndarray:
    return np.full(len(view), 0.5)


Misdeed = Callable[[Embedded, Embedded], Any]
#: What a metric does, and words of what is said of it.
METRIC_FAULTS: dict[str, tuple[Misdeed, str]] = {
    "nan": (lambda image, text: Score(float("nan")), "gave nan"),
    "inf": (lambda image, text: Score(float("inf")), "gave inf"),
    "range": (lambda image, text: Score(5.0), "outside the metric's bounds"),
    "text": (lambda image, text: "0.5", "returned str and not a Score"),
    "nothing": (lambda image, text: None, "returned NoneType"),
    "rows": (lambda image, text: Score(0.5, rows=np.full((3, 2), 0.5)), "not one finite number each"),
    "rows of words": (lambda image, text: Score(0.5, rows=np.array(["a", "b"])), "rows are not numbers"),
    "rows with nan": (lambda image, text: Score(0.5, rows=np.array([0.5, np.nan])), "not one finite number each"),
    "mean": (lambda image, text: Score(0.4, rows=_half(image)), "not the mean 0.5 of its rows"),
    "clusters": (lambda image, text: Score(0.5, rows=_half(image), clusters=["a"]), "1 cluster labels for"),
    "details": (lambda image, text: Score(0.5, rows=_half(image), details={"x": np.array([{}])}), "x are not numbers"),
    "extras": (lambda image, text: Score(0.5, extras={"<b>": float("nan")}), "finite number"),
    "extra words": (lambda image, text: Score(0.5, extras={"x": "many"}), "valid number"),  # type: ignore[dict-item]
    "raises": (lambda image, text: _raise(ValueError("metric broke")), "raised ValueError: metric broke"),
    "exits": (lambda image, text: sys.exit(5), "called sys.exit(5)"),
    "leaves": (lambda image, text: os._exit(5), "called os._exit(5)"),
    "interrupts": (lambda image, text: _raise(KeyboardInterrupt()), "raised KeyboardInterrupt"),
    "zeroes": (lambda image, text: (image.vectors.zero_(), Score(0.5))[1], "changed the view 'image'"),
    "resizes": (lambda image, text: (text.vectors.resize_(1, 1), Score(0.5))[1], "changed the view 'text'"),
    "numpy": (lambda image, text: (image.vectors.numpy().fill(1), Score(0.5))[1], "changed the view 'image'"),
    "columns": (lambda image, text: image.columns["identity_id"].append(1), "raised AttributeError"),  # type: ignore[attr-defined]
    "texts": (lambda image, text: text.texts.clear(), "raised AttributeError"),  # type: ignore[union-attr]
}
#: What a metric leaves changed, which is put back, and words of the warning.
METRIC_LITTER: dict[str, tuple[Misdeed, str]] = {
    "gradients": (lambda image, text: torch.set_grad_enabled(False), "whether gradients are taken"),
    "folder": (lambda image, text: os.chdir("/"), "the working directory"),
    "patches": (lambda image, text: setattr(evaluation, "read_only", None), "evaluation.evaluate.read_only"),
    "number type": (lambda image, text: torch.set_default_dtype(torch.float64), "the default number type"),
}


def renamed(whose: str, where: str) -> type[Metric]:
    """A metric that takes another's name while it computes.

    Args:
        where: on "itself" or on "its class".
    """

    class Renamed(Scored):
        """Misbehaves."""

        name: ClassVar[str] = f"Renames-{where}"

        def misbehave(self, image: Embedded, text: Embedded) -> Any:
            (self if where == "itself" else type(self)).name = whose
            return Score(0.5)

    return Renamed


def metric_with(what: str, misdeed: Misdeed, then: bool = False) -> type[Metric]:
    """A metric that does it.

    Args:
        then: and gives a score afterwards.
    """

    class Misbehaved(Scored):
        """Misbehaves."""

        name: ClassVar[str] = f"Does-{what.replace(' ', '-')}"

        def misbehave(self, image: Embedded, text: Embedded) -> Any:
            found = misdeed(image, text)
            return Score(0.5) if then else found

    return Misbehaved
