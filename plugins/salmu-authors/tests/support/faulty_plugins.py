"""Plugins with one planted fault each, beside the check that has to find it, and the correct ones that they derive from."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
from pydantic import ConfigDict, field_serializer
from torch import Tensor, nn

from salmu_core import (
    Batch,
    Between,
    Budget,
    DualEncoder,
    Embedded,
    EncodedImages,
    Field,
    FitOptions,
    LossMethod,
    Metric,
    NotMeasurable,
    Score,
    Split,
    SplitInfo,
    UnlearnContext,
    UnlearningMethod,
    View,
)
from salmu_core.builtin.toy import Toy
from salmu_core.losses import contrastive_loss, pair_cosine

#: Check id -> faulty classes that it has to find.
METHODS: dict[str, type[UnlearningMethod]] = {}
METRICS: dict[str, type[Metric]] = {}
BENCHMARKS: dict[str, type[Toy]] = {}


def found_by(check: str, kind: dict[str, Any]) -> Any:
    """Note which check has to find the fault."""

    def note(cls: Any) -> Any:
        kind[check] = cls
        return cls

    return note


# ---------------------------------------------------------------- methods


class Correct(LossMethod):
    """Push forget pairs apart, keep retain pairs."""

    name = "correct"
    summary = "Keeps the whole contract."
    family = "negative pairs"

    class Options(FitOptions):
        """Fast enough to see something."""

        lr: float = Field(1e-3, gt=0, description="peak learning rate")

    def loss(self, model: DualEncoder, batch: Batch) -> Mapping[str, Tensor]:
        image, text, _ = model(batch.forget)
        return {"forget": pair_cosine(image, text).mean(), "retain": contrastive_loss(*model(batch.retain))}


class Edit(UnlearningMethod):
    """Shrink every weight a little after a look at the forget pairs."""

    name = "edit"
    summary = "A weight edit that keeps the whole contract."
    family = "pruning and editing"
    data = ("forget",)

    def unlearn(self, ctx: UnlearnContext) -> None:
        cosine = float(ctx.accumulate(lambda pairs: {"sum": pair_cosine(*ctx.model(pairs)[:2]).sum()}, "forget")["sum"])
        with torch.no_grad():
            for parameter in ctx.parameters().values():
                parameter.mul_(1 - 0.001 * abs(math.tanh(cosine)))


@found_by("summary", METHODS)
class Unsaid(Correct):
    """Correct but for its summary."""

    summary = "not a sentence"


@found_by("paper", METHODS)
class Unfindable(Correct):
    """Correct but for its paper."""

    paper = "Doe et al., 2024"


@found_by("family", METHODS)
class Foundling(Correct):
    """Correct but for its family."""

    family = "magic"  # type: ignore[assignment]


@found_by("docstring", METHODS)
class Silent(Correct):
    pass


@found_by("name", METHODS)
class Shouting(Correct):
    """Correct but for its name."""

    name = "two words!"


@found_by("data", METHODS)
class Twice(Correct):
    """Names a split twice."""

    data = ("forget", "retain", "forget")


@found_by("search", METHODS)
class Overreaching(Correct):
    """Searches where its options end."""

    search = {"warmup": Between(0.1, 2.0)}


@found_by("constructor", METHODS)
class Demanding(Correct):
    """Wants another argument."""

    def __init__(self, options: Any = None, *, temperature: float) -> None:
        super().__init__(options)


@found_by("options-strict", METHODS)
class Lenient(Correct):
    """Takes any option silently."""

    class Options(Correct.Options):
        """With anything beside."""

        model_config = ConfigDict(extra="ignore")


@found_by("options-described", METHODS)
class Terse(Correct):
    """Does not say what its option is."""

    class Options(Correct.Options):
        """With one bare option."""

        gamma: float = 1.0


@found_by("options-round-trip", METHODS)
class Forgetful(Correct):
    """Writes another option than it has."""

    class Options(Correct.Options):
        """With an option that is rounded when it is written."""

        gamma: float = Field(0.12345, description="a weight")

        @field_serializer("gamma", when_used="json")
        def rounded(self, value: float) -> float:
            return round(value, 2)


@found_by("runs", METHODS)
class Buggy(Correct):
    """Has a bug."""

    def loss(self, model: DualEncoder, batch: Batch) -> Tensor:
        raise ZeroDivisionError("a bug")


@found_by("budget-respected", METHODS)
class Greedy(Correct):
    """Asks for more epochs than there are."""

    class Options(Correct.Options):
        """With too many."""

        epochs: float | None = Field(100.0, gt=0, description="passes over forget")


@found_by("budget-counted", METHODS)
class Hoarding(Edit):
    """Keeps batches and trains on them again and again."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        kept = list(ctx.batches("forget", 12))
        for _ in range(3):
            for pairs in kept:
                grown = torch.autograd.grad(
                    pair_cosine(*ctx.model(pairs)[:2]).mean(), list(ctx.parameters().values()), allow_unused=True
                )
                with torch.no_grad():
                    for parameter, gradient in zip(ctx.parameters().values(), grown, strict=True):
                        if gradient is not None:
                            parameter.sub_(gradient, alpha=1e-3)


@found_by("undeclared-data", METHODS)
class Curious(Edit):
    """Reads a split that it has not declared, and hides the refusal."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        with contextlib.suppress(Exception):
            ctx.captions("retain")


@found_by("unused-data", METHODS)
class Boastful(Edit):
    """Declares a split that it never reads."""

    data = ("forget", "retain")


@found_by("columns", METHODS)
class Nosy(Edit):
    """Reads names and does not say so."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        list(ctx.columns("forget")["name"])


@found_by("evaluation-out-of-reach", METHODS)
class Cheating(Edit):
    """Reads a holdout past the guard."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        Toy().load_split("holdout_identity")


@found_by("clean-out-of-reach", METHODS)
class Copying(Edit):
    """Loads the answer."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        clean = Toy().load_model("clean").weights()
        with torch.no_grad():
            for name, parameter in ctx.parameters().items():
                parameter.lerp_(clean[name.removeprefix("clip.")], 0.1)


@found_by("inputs-unchanged", METHODS)
class Scribbling(Edit):
    """Changes captions in place."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        for pairs in ctx.batches("forget", 12):
            pairs.index.fill_(0)


@found_by("options-unchanged", METHODS)
class Drifting(Correct):
    """Trains with other options than the record shows."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        self.options = self.options.model_copy(update={"lr": 2e-3})
        super().unlearn(ctx)


@found_by("stays-finite", METHODS)
class Dividing(Edit):
    """Divides by zero."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        with torch.no_grad():
            next(iter(ctx.parameters().values())).div_(0)


@found_by("has-effect", METHODS)
class Idle(Edit):
    """Works on a copy."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        for _ in ctx.batches("forget", 12):
            pass
        ctx.captions("forget")
        with torch.no_grad():
            ctx.frozen_copy().requires_grad_(True).clip.logit_scale.add_(1)


@found_by("model-in-place", METHODS)
class Replacing(Edit):
    """Puts another model in place of the one that is evaluated."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        ctx.model = ctx.frozen_copy()


@found_by("structure", METHODS)
class Growing(Edit):
    """Adds a weight."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        ctx.model.clip.register_parameter("adapter", nn.Parameter(torch.zeros(3)))


@found_by("dtype", METHODS)
class Halving(Edit):
    """Leaves half precision behind."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        ctx.model.clip.ln_final.to(torch.bfloat16)


@found_by("logit-scale", METHODS)
class Cooling(Edit):
    """Scales the logits."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        with torch.no_grad():
            ctx.model.clip.logit_scale.sub_(0.1)


@found_by("eval-mode", METHODS)
class Exercising(Edit):
    """Leaves the model in training mode."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        ctx.model.train()


@found_by("gradients-released", METHODS)
class Freezing(Edit):
    """Leaves a parameter frozen."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        next(ctx.model.parameters()).requires_grad_(False)


@found_by("hooks-removed", METHODS)
class Listening(Edit):
    """Leaves a hook."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        ctx.model.clip.visual.register_forward_hook(lambda *_: None)


@found_by("frozen-tower", METHODS)
class Sprawling(Correct):
    """Has an option `tower` and trains both."""

    def trainable(self, model: DualEncoder) -> list[nn.Parameter]:
        return model.tower_parameters("both")


@found_by("deterministic", METHODS)
class Remembering(Edit):
    """Does more each time."""

    runs: ClassVar[Any] = itertools.count(1)

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        with torch.no_grad():
            next(iter(ctx.parameters().values())).mul_(1 - 0.01 * next(self.runs))


@found_by("no-global-randomness", METHODS)
class Gambling(Edit):
    """Draws from torch's default generator."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        with torch.no_grad():
            parameter = next(iter(ctx.parameters().values()))
            parameter.add_(torch.randn(parameter.shape), alpha=1e-3)


@found_by("process-settings", METHODS)
class Littering(Edit):
    """Switches gradients off for everybody."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        torch.set_grad_enabled(False)


@found_by("prints-nothing", METHODS)
class Chatty(Edit):
    """Prints."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        print("done")


@found_by("no-warnings", METHODS)
class Repainting(Edit):
    """Has pictures prepared in another way."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        ctx.model.processor._mean = ctx.model.processor._mean + 0.5


@found_by("state", METHODS)
class Unsaveable(Correct):
    """Keeps something that no checkpoint can hold."""

    def state(self) -> dict[str, Tensor]:
        return {"average": 0.5}  # type: ignore[dict-item]


@found_by("resumes", METHODS)
class Averaging(Correct):
    """Has a moving average that checkpoints know nothing of."""

    def loss(self, model: DualEncoder, batch: Batch) -> Tensor:
        image, text, _ = model(batch.forget)
        contrastive_loss(*model(batch.retain))
        mean = pair_cosine(image, text).mean()
        self.average = 0.5 * getattr(self, "average", 0.0) + 0.5 * mean.detach()
        return (mean - 3 * self.average).square()


@found_by("two-processes", METHODS)
class Selfish(Edit):
    """Depends on the number of its process."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        super().unlearn(ctx)
        rank = dist.get_rank() if dist.is_initialized() else 0
        with torch.no_grad():
            next(iter(ctx.parameters().values())).mul_(1 - 0.01 * rank)


# ---------------------------------------------------------------- metrics


class Mean(Metric):
    """Mean cosine of forget pairs."""

    name = "Mean"
    summary = "Keeps the whole contract."
    target = "clean"
    aspect = "forgetting"

    def needs(self) -> Mapping[str, View]:
        return {"image": View("forget", "image"), "text": View("forget", "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        if not len(image):
            raise NotMeasurable("No rows.")
        rows = (image.vectors * text.vectors).sum(dim=-1).clamp(-1, 1).double().numpy()
        return Score(float(rows.mean()), rows, image.columns["identity_id"])


@found_by("aspect", METRICS)
class Confused(Mean):
    """Wants what holds associations to be at Clean's."""

    aspect = "holdout"


@found_by("bounds", METRICS)
class Boundless(Mean):
    """Has no upper end."""

    bounds = (-1.0, math.inf)


@found_by("needs", METRICS)
class Misnamed(Mean):
    """Asks for a view that compute does not take."""

    def needs(self) -> Mapping[str, View]:
        return {"picture": View("forget", "image"), "text": View("forget", "text")}


@found_by("measurable", METRICS)
class Elsewhere(Mean):
    """Asks for a split that no benchmark has."""

    def needs(self) -> Mapping[str, View]:
        return {"image": View("nowhere", "image"), "text": View("nowhere", "text")}


@found_by("within-bounds", METRICS)
class Overflowing(Mean):
    """Is larger than it says where a model collapses."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        score = super().compute(image, text)
        rows = np.where(score.rows > 0.99, 2 * score.rows, score.rows)
        return dataclasses.replace(score, value=float(rows.mean()), rows=rows)


@found_by("mean-of-rows", METRICS)
class Median(Mean):
    """Reports the median of its rows."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        score = super().compute(image, text)
        return dataclasses.replace(score, value=float(np.quantile(score.rows, 0.5)))


@found_by("clusters", METRICS)
class Unlabelled(Mean):
    """Labels fewer rows than there are."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        score = super().compute(image, text)
        return dataclasses.replace(score, clusters=list(score.clusters)[1:])


@found_by("interval", METRICS)
class Single(Mean):
    """Has all rows in one cluster."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        score = super().compute(image, text)
        return dataclasses.replace(score, clusters=["all"] * len(score.rows))


@found_by("deterministic", METRICS)
class Counting(Mean):
    """Shrinks with every call."""

    calls: ClassVar[Any] = itertools.count()

    def compute(self, image: Embedded, text: Embedded) -> Score:
        score = super().compute(image, text)
        rows = score.rows - 1e-4 * next(self.calls)
        return dataclasses.replace(score, value=float(rows.mean()), rows=rows)


@found_by("no-global-randomness", METRICS)
class Dicing(Mean):
    """Draws from NumPy's global generator."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        np.random.rand()
        return super().compute(image, text)


@found_by("inputs-unchanged", METRICS)
class Centring(Mean):
    """Centres the views in place."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        score = super().compute(image, text)
        image.vectors.sub_(image.vectors.mean(dim=0, keepdim=True)) if len(image) else None
        return score


@found_by("views-only", METRICS)
class Peeking(Mean):
    """Reads a benchmark."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        Toy().split("holdout_identity")
        return super().compute(image, text)


@found_by("order", METRICS)
class Positional(Mean):
    """Weighs rows by their place."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        score = super().compute(image, text)
        rows = score.rows * np.linspace(0, 1, len(score.rows))
        return dataclasses.replace(score, value=float(rows.mean()), rows=rows)


@found_by("empty-data", METRICS)
class Fragile(Mean):
    """Breaks where there are no rows."""

    def compute(self, image: Embedded, text: Embedded) -> Score:
        rows = (image.vectors * text.vectors).sum(dim=-1).clamp(-1, 1).double().numpy()
        assert rows.max() <= 1
        return Score(float(rows.mean()), rows, image.columns["identity_id"])


# ---------------------------------------------------------------- benchmarks


@found_by("roles", BENCHMARKS)
class Roleless(Toy):
    """Has two splits to retain."""

    def splits(self) -> Mapping[str, SplitInfo]:
        return {**super().splits(), "fragile_set": SplitInfo("retain", "another")}


@found_by("identity", BENCHMARKS)
class Restless(Toy):
    """Is another every time."""

    made: ClassVar[Any] = itertools.count()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.number = next(self.made)

    def identity(self) -> Mapping[str, Any]:
        return {"number": self.number}


@found_by("sides", BENCHMARKS)
class Onesided(Toy):
    """Declares captions that a split has not."""

    def splits(self) -> Mapping[str, SplitInfo]:
        return {**super().splits(), "genknow": SplitInfo("evaluation", "images")}


@found_by("associations", BENCHMARKS)
class Nameless(Toy):
    """Does not say whose association a row is."""

    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        return dataclasses.replace(split, columns={k: v for k, v in split.columns.items() if k != "data_field"})


@found_by("images", BENCHMARKS)
class Torn(Toy):
    """Has an image that is cut short."""

    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        if name != "fragile_set" or split.images is None:
            return split
        torn = [split.images.read(row)[:40] for row in range(len(split))]
        return dataclasses.replace(split, images=EncodedImages(torn, [str(row) for row in range(len(split))]))


@found_by("forget-retain-disjoint", BENCHMARKS)
class Overlapping(Toy):
    """Retains a picture that is to be forgotten."""

    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        if name != "retain" or split.images is None:
            return split
        pictures = [super().load_split("forget").images.read(0)]  # type: ignore[union-attr]
        pictures += [split.images.read(row) for row in range(1, len(split))]
        return dataclasses.replace(split, images=EncodedImages(pictures, list(split.columns["file_name"])))


@found_by("holdouts-disjoint", BENCHMARKS)
class Leaking(Toy):
    """Holds out pairs that methods are asked to forget."""

    def load_split(self, name: str) -> Split:
        if name != "holdout_identity":
            return super().load_split(name)
        half = self.options.identities // 2
        return self._sensitive(name, range(half, self.options.identities + half))


@found_by("stand-ins", BENCHMARKS)
class Standing(Toy):
    """Has options chosen on evaluation data."""

    def stand_ins(self) -> Mapping[str, Split]:
        return {"fragile_set": super().load_split("fragile_set").take([0])}


@found_by("repeatable", BENCHMARKS)
class Shuffling(Toy):
    """Reads rows in another order every time."""

    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        return split.take(np.random.default_rng().permutation(len(split)).tolist()) if name == "retain" else split


@found_by("evaluation-locked", BENCHMARKS)
class Unguarded(Toy):
    """Overrides the guard."""

    def split(self, name: str) -> Split:
        return self.load_split(name)


@found_by("budget", BENCHMARKS)
class Poor(Toy):
    """Has no retain budget."""

    def budget(self) -> Budget:
        return Budget(10, 0)


@found_by("models-apart", BENCHMARKS)
class Twins(Toy):
    """Has one model under two names."""

    def load_model(self, which: Any) -> DualEncoder:
        return super().load_model("clean")


@found_by("models-ready", BENCHMARKS)
class Unready(Toy):
    """Hands out models in training mode."""

    def load_model(self, which: Any) -> DualEncoder:
        return super().load_model(which).train()


@found_by("no-global-randomness", BENCHMARKS)
class Seeding(Toy):
    """Seeds everybody's generator."""

    def load_model(self, which: Any) -> DualEncoder:
        torch.manual_seed(3)
        return super().load_model(which)
