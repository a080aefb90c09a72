"""DELETE, Decoupled Distillation to Erase: distil the model's own in-batch softmax with the true pair masked out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Features,
    Field,
    FitOptions,
    LossMethod,
    OneOf,
    Pairs,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import group_mask, same_pair


def masked_distillation(
    student: Float[Tensor, "rows candidates"],
    teacher: Float[Tensor, "rows candidates"],
    same: Bool[Tensor, "rows candidates"],
) -> Float[Tensor, ""]:
    """`mean_i KL(p_i || q_i)`: p is the softmax of the teacher's logits where those in `same` are set to minus infinity, q
    the softmax of the student's, unmasked. The loss of DELETE (arXiv 2503.23751 and the authors' `method/delete.py`, where
    the forgotten class is masked).

    With y the masked candidates of a row, this is `-log(1 - q_y) + KL(p || q given not y)`: forgetting and keeping in one
    term. The gradient in the student's logits is q - p: bounded, and 0 once q is p. Rows whose every candidate is masked
    have no target and are left out of the mean.
    """
    possible = ~same.all(dim=1)
    target = teacher[possible].masked_fill(same[possible], -torch.inf).softmax(dim=1)
    divergence = F.kl_div(student[possible].log_softmax(dim=1), target, reduction="sum")
    return divergence / possible.sum().clamp(min=1)


def delete_loss(
    student: Features,
    teacher: Features,
    same: Bool[Tensor, "batch candidates"],
    temperature: float = 1.0,
    bank: Features | None = None,
) -> Float[Tensor, ""]:
    """DELETE for pairs: half the masked distillation of every image's row over captions, half that of every caption's row
    over images. Logits take the teacher's scale, divided by `temperature`.

    Args:
        same: the candidates that are the row's own pair; columns are the batch, then the bank.
        bank: the teacher's embeddings of more candidates, the same for teacher and student.
    """
    scale = teacher.scale / temperature

    def logits(queries: Tensor, candidates: Tensor, more: Tensor | None) -> Tensor:
        return scale * queries @ (candidates if more is None else torch.cat([candidates, more])).T

    texts, images = (None, None) if bank is None else (bank.text, bank.image)
    image_to_text = masked_distillation(
        logits(student.image, student.text, texts), logits(teacher.image, teacher.text, texts), same
    )
    text_to_image = masked_distillation(
        logits(student.text, student.image, images), logits(teacher.text, teacher.image, images), same
    )
    return (image_to_text + text_to_image) / 2


class Bank(NamedTuple):
    """Embedded pairs of the forget split that are candidates of every row."""

    features: Features
    association: Int[Tensor, " bank"]
    rows: Int[Tensor, " bank"]


class Delete(LossMethod):
    """Follow a frozen copy of the model whose in-batch softmax has the row's own association taken out."""

    name = "delete"
    summary = "Distil the model's own in-batch softmax with the true pair masked out (DELETE)."
    family = "distillation"
    paper = "https://arxiv.org/abs/2503.23751"
    data = ("forget",)
    fewest_rows = 2
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 3e-3), "temperature": Between(0.3, 30), "bank": OneOf((0, 128, 512))}

    class Options(FitOptions):
        """Options of delete."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        temperature: float = Field(1.0, gt=0, description="divides the logits of teacher and student")
        bank: int = Field(0, ge=0, description="forget pairs, embedded once, that are extra candidates of every row")

    _teacher: DualEncoder
    _bank: Bank | None = None

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the teacher and let it embed the bank."""
        self._teacher = ctx.frozen_copy()
        if self.options.bank:
            self._bank = embed(self._teacher, ctx.batches("forget", 256, rows=self.options.bank, shuffle=True))

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Masked distillation of the forget batch, in both directions."""
        student = model(batch.forget)
        with torch.no_grad():
            teacher = self._teacher(batch.forget)
        association = batch.forget.columns["association"]
        same, bank = group_mask(association), None
        if self._bank is not None:
            bank = self._bank.features
            more = same_pair(association, batch.forget.index, self._bank.association, self._bank.rows)
            same = torch.cat([same, more], dim=1)
        same = same.to(student.image.device)
        return {"forget": delete_loss(student, teacher, same, self.options.temperature, bank)}


@torch.no_grad()
def embed(model: DualEncoder, batches: Iterable[Pairs]) -> Bank:
    """Embed pairs without gradients, and keep what tells which of them are the same pair."""
    parts = [(model(pairs), pairs) for pairs in batches]
    image, text = (torch.cat([features[side] for features, _ in parts]) for side in (0, 1))
    return Bank(
        Features(image, text, parts[0][0].scale),
        torch.cat([pairs.columns["association"] for _, pairs in parts]),
        torch.cat([pairs.index for _, pairs in parts]),
    )


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """DELETE."""
    return [Delete]
