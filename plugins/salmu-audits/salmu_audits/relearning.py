"""Train a little on something else and see whether the forgotten associations come back."""

from __future__ import annotations

import torch
from torch import Tensor

from salmu_audits.measures import associations, distinct, mean_reciprocal_rank
from salmu_core import Audit, AuditContext, Batch, DualEncoder, Field, FitOptions, Leak, Options, Split
from salmu_core.losses import contrastive_loss
from salmu_core.metric import NotMeasurable


class RelearningOptions(Options):
    """Options of both relearning audits."""

    lr: float = Field(3e-4, gt=0, le=1, description="peak learning rate of the attack")
    epochs: float = Field(30, gt=0, description="passes over what is trained on")
    batch_size: int = Field(64, ge=2, description="pairs per step")


class FewShotOptions(RelearningOptions):
    """Options of few-shot-relearning."""

    share: float = Field(0.1, gt=0, lt=1, description="share of the forgotten associations that is trained on")


def pairs_loss(model: DualEncoder, batch: Batch) -> Tensor:
    """CLIP's own loss on whatever the attack trains on."""
    return contrastive_loss(*model(batch.forget))


def retrieval(ctx: AuditContext, split: Split) -> float:
    """How well images of a split find their own captions among all of the split's."""
    captions, own = distinct(split.render(None))
    return mean_reciprocal_rank(ctx.images(split), ctx.texts(captions), own)


def fit_options(options: RelearningOptions) -> FitOptions:
    """What the training loop is given."""
    return FitOptions(lr=options.lr, epochs=options.epochs, batch_size=options.batch_size)


class FewShotRelearning(Audit):
    """Fine-tune on a few forgotten associations and test the others."""

    name = "few-shot-relearning"
    summary = "Fine-tune on a tenth of the forgotten associations; reciprocal rank of the captions of all others."
    paper = "https://arxiv.org/abs/2505.22310"
    Options = FewShotOptions

    def attack(self, ctx: AuditContext) -> Leak:
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
        test = forget.take([row for row, key in enumerate(of_row) if key not in chosen], "others")
        before = retrieval(ctx, test)
        ctx.train(seen, pairs_loss, fit_options(self.options))
        return Leak(retrieval(ctx, test), {"before": before})


class BenignOptions(RelearningOptions):
    """Options of benign-relearning."""

    epochs: float = Field(3, gt=0, description="passes over the retain split")


class BenignRelearning(Audit):
    """Fine-tune on retain pairs only and test what was forgotten."""

    name = "benign-relearning"
    summary = "Fine-tune on retain pairs only; reciprocal rank of the forgotten captions."
    paper = "https://arxiv.org/abs/2406.13356"
    Options = BenignOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """The attacker has nothing of what was forgotten."""
        forget = ctx.split("forget")
        before = retrieval(ctx, forget)
        ctx.train(ctx.split("retain"), pairs_loss, fit_options(self.options))
        return Leak(retrieval(ctx, forget), {"before": before})
