"""Train a little on something else and see whether the forgotten associations come back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from salmu_audits.forget_embeddings import forget_images, forget_texts
from salmu_audits.measures import associations, distinct, mean_reciprocal_rank, one_each
from salmu_audits.relative import relative, usual_scale
from salmu_core import Audit, AuditContext, Batch, DualEncoder, Field, FitOptions, Leak, Options, Split
from salmu_core.errors import Diverged
from salmu_core.losses import contrastive_loss
from salmu_core.metric import NotMeasurable

_MEASURED = {2 * 4**power for power in range(12)}  # steps after which the curve has a point

Tower = Literal["both", "image", "text"]


class RelearningOptions(Options):
    """Options of all relearning audits."""

    lrs: tuple[float, ...] = Field(
        (2e-4, 2e-3, 2e-2, 5e-2),
        description="peak learning rates, as shares of a weight's own size, each tried with each tower; the best one counts",
    )
    towers: tuple[Tower, ...] = Field(("text", "both"), description="which encoders are trained: text, image, both")
    epochs: float = Field(15, gt=0, description="passes over what is trained on")
    batch_size: int = Field(64, ge=2, description="pairs per step")
    curve: bool = Field(True, description="measure on the way as well, and say after how many pairs half is back")


class FewShotOptions(RelearningOptions):
    """Options of few-shot-relearning."""

    epochs: float = Field(30, gt=0, description="passes over what is trained on")
    share: float = Field(0.1, gt=0, lt=1, description="share of the forgotten associations that is trained on")


class OnePhotoOptions(RelearningOptions):
    """Options of one-photo-relearning."""

    epochs: float = Field(8, gt=0, description="passes over the photos that are trained on")


class BenignOptions(RelearningOptions):
    """Options of benign-relearning."""

    lrs: tuple[float, ...] = Field(
        (2e-4, 2e-3, 2e-2), description="peak learning rates, as shares of a weight's own size, each tried with each tower"
    )
    epochs: float = Field(3, gt=0, description="passes over the retain split")


def retrieval(ctx: AuditContext, split: Split, model: DualEncoder | None = None) -> float:
    """How well images of a split find their own captions among all of the split's."""
    captions, own = distinct(split.render(None))
    return mean_reciprocal_rank(ctx.images(split, model), ctx.texts(captions, model), own)


def one_of_each(split: Split, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """A row of every association that has two or more, drawn at random; and the other rows of these.

    Raises:
        NotMeasurable: no association has two photos.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    of_row = associations(split)
    for row in torch.randperm(len(split), generator=generator).tolist():
        rows.setdefault(of_row[row], []).append(row)
    known = [own for own in rows.values() if len(own) > 1]
    if not known:
        raise NotMeasurable("no association has two photos")
    return sorted(own[0] for own in known), sorted(row for own in known for row in own[1:])


class Relearning(Audit):
    """Train on one split, test on another, over a grid of learning rates and towers."""

    Options = RelearningOptions

    def splits(self, ctx: AuditContext) -> tuple[Split, list[int]]:
        """What is trained on, and the rows of the forget split that are asked for."""
        raise NotImplementedError

    def attack(self, ctx: AuditContext) -> Leak:
        """The most over the grid, for Clean and Compromised too: whoever attacks picks what works best."""
        seen, rows = self.splits(ctx)
        test = ctx.split("forget").take(rows, "asked")
        captions, own = distinct(test.render(None))
        images, texts = forget_images(ctx, rows), one_each(forget_texts(ctx, rows), own)
        before = mean_reciprocal_rank(images, texts, own)
        half = retrieval(ctx, test, ctx.reference("compromised")) / 2 if self.options.curve else None
        alone = any(tower != "both" for tower in self.options.towers)
        fixed = (ctx.images(seen), ctx.texts(seen.render(None))) if alone else (images, texts)  # the latter is not read
        extras: dict[str, float] = {"before": before}
        best = before
        needed: list[int] = [] if half is None or before < half else [0]
        for tower in self.options.towers:
            for lr in self.options.lrs:
                for seen_pairs, value in self._trained(ctx, seen, fixed, tower, lr, (test, captions, own, images, texts)):
                    key = f"{tower} {lr:g}"
                    extras[key] = max(value, extras.get(key, 0.0))
                    best = max(best, value)
                    if half is not None and value >= half:
                        needed.append(seen_pairs)
        if half is not None:
            extras["half of Compromised"] = half
        if needed:
            extras["pairs until half is back"] = float(min(needed))
        return Leak(best, extras)

    def _trained(
        self,
        ctx: AuditContext,
        seen: Split,
        fixed: tuple[Tensor, Tensor],
        tower: Tower,
        lr: float,
        asked: tuple[Split, list[str], Tensor, Tensor, Tensor],
    ) -> Iterator[tuple[int, float]]:
        """Pairs seen so far and what is retrieved, on the way where that is asked for, and at the end. A tower that is not
        trained is not run either: its embeddings are known."""
        test, captions, own, images, texts = asked
        model = copy.deepcopy(ctx.model)
        of_images, of_texts = (vectors.to(model.device) for vectors in fixed)
        batch_size = min(self.options.batch_size, len(seen))

        scale = usual_scale(ctx)

        def loss(model: DualEncoder, batch: Batch) -> Tensor:
            index = batch.forget.index.to(model.device)
            image = of_images[index] if tower == "text" else model.encode_image(batch.forget.image)
            text = of_texts[index] if tower == "image" else model.encode_text(batch.forget.text)
            return contrastive_loss(image, text, scale)

        def measured() -> float:
            found = (
                images if tower == "text" else ctx.images(test, model),
                texts if tower == "image" else ctx.texts(captions, model),
            )
            return mean_reciprocal_rank(*found, own)

        points: list[tuple[int, float]] = []

        def on_the_way(step: int) -> bool:
            if self.options.curve and step in _MEASURED:
                points.append((step * batch_size, measured()))
            return False

        how = FitOptions(lr=lr, epochs=self.options.epochs, batch_size=batch_size, tower=tower)
        before = ctx.samples
        with relative(model, model.tower_parameters(tower)) as changes:
            try:
                ctx.train(seen, loss, how, model=model, params=changes, after_step=on_the_way)
                yield from points
                yield ctx.samples - before, measured()
            except Diverged:  # a rate too high for this model is no attack
                yield from points


class FewShotRelearning(Relearning):
    """Fine-tune on a few forgotten associations and test the others."""

    name = "few-shot-relearning"
    summary = (
        "Fine-tune on a tenth of the forgotten associations, best of a grid; reciprocal rank of the captions of all others."
    )
    paper = "https://arxiv.org/abs/2505.22310"
    version = "3"
    Options = FewShotOptions

    def splits(self, ctx: AuditContext) -> tuple[Split, list[int]]:
        """The associations that are trained on are drawn from the seed, the same ones for every model."""
        forget = ctx.split("forget")
        of_row = associations(forget)
        known = sorted(set(of_row))
        count = round(self.options.share * len(known))
        if not 0 < count < len(known):
            raise NotMeasurable(
                f"a share of {self.options.share:g} of {len(known)} associations leaves nothing to train on or test"
            )
        chosen = {known[i] for i in torch.randperm(len(known), generator=ctx.generator("associations"))[:count].tolist()}
        seen = forget.take([row for row, key in enumerate(of_row) if key in chosen], "relearned")
        return seen, [row for row, key in enumerate(of_row) if key not in chosen]


class OnePhotoRelearning(Relearning):
    """Fine-tune on one photo of every association and test on the others."""

    name = "one-photo-relearning"
    summary = "Fine-tune on one photo of every association, best of a grid; reciprocal rank of the other photos' captions."
    paper = "https://arxiv.org/abs/2505.22310"
    version = "2"
    quick = {"lrs": (0.03,), "towers": ("both",), "epochs": 2, "curve": False}
    Options = OnePhotoOptions

    def splits(self, ctx: AuditContext) -> tuple[Split, list[int]]:
        """Other photos, and where captions are paraphrased other wordings, of the same associations."""
        forget = ctx.split("forget")
        seen, test = one_of_each(forget, ctx.generator("photos"))
        return forget.take(seen, "relearned"), test


class BenignRelearning(Relearning):
    """Fine-tune on retain pairs only and test what was forgotten."""

    name = "benign-relearning"
    summary = "Fine-tune on retain pairs only, best of a grid; reciprocal rank of the forgotten captions."
    paper = "https://arxiv.org/abs/2406.13356"
    version = "3"
    Options = BenignOptions

    def splits(self, ctx: AuditContext) -> tuple[Split, list[int]]:
        """The attacker has nothing of what was forgotten."""
        return ctx.split("retain"), list(range(len(ctx.split("forget"))))
