"""DELETE, Decoupled Distillation to Erase: distil the model's own in-batch softmax with the true pair masked out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from salmu_core import (
    Batch,
    DualEncoder,
    Features,
    Field,
    FitOptions,
    LossMethod,
    Pairs,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from torch import Tensor


class Candidates(NamedTuple):
    """Embedded pairs that rows may be matched with, and what tells which of them are the same pair."""

    image: Float[Tensor, "n dim"]
    text: Float[Tensor, "n dim"]
    association: Int[Tensor, " n"]
    index: Int[Tensor, " n"]


def same_pair(rows: Candidates, others: Candidates) -> Bool[Tensor, "rows others"]:
    """The group mask between two sets of pairs of one split: True where row and candidate are the same row, or share an
    association. Rows without an association (-1) match only themselves."""
    known = (rows.association >= 0)[:, None]
    same_association = rows.association[:, None] == others.association[None, :]
    return (known & same_association) | (rows.index[:, None] == others.index[None, :])


def masked_distillation(
    student: Float[Tensor, "rows candidates"],
    teacher: Float[Tensor, "rows candidates"],
    same: Bool[Tensor, "rows candidates"],
) -> Float[Tensor, ""]:
    """`mean_i KL(p_i || q_i)` with p the softmax of the teacher's logits where `same` is set to minus infinity and q the
    softmax of the student's, unmasked: the loss of DELETE (arXiv 2503.23751 and the authors'
    `method/delete.py`), which masks a class.

    It equals `-log(1 - q_y) + KL(p || q given not y)`, y being all masked candidates: forgetting and keeping in one term.
    Its gradient in the student's logits is q - p. Rows whose every candidate is masked have no target and are left out.
    """
    possible = ~same.all(dim=1)
    target = teacher[possible].masked_fill(same[possible], -torch.inf).softmax(dim=1)
    divergence = F.kl_div(student[possible].log_softmax(dim=1), target, reduction="sum")
    return divergence / possible.sum().clamp(min=1)


def delete_loss(
    student: Features,
    teacher: Features,
    same: Bool[Tensor, "rows candidates"],
    temperature: float,
    bank_image: Float[Tensor, "bank dim"],
    bank_text: Float[Tensor, "bank dim"],
) -> Float[Tensor, ""]:
    """DELETE for pairs: half the masked distillation of each image's row over captions plus half that of each caption's
    row over images. Candidates are the batch and then the bank, whose embeddings are the teacher's for both models."""
    scale = teacher.scale / temperature

    def rows(queries: Tensor, candidates: Tensor, bank: Tensor) -> Tensor:
        return scale * queries @ torch.cat([candidates, bank]).T

    image_to_text = masked_distillation(
        rows(student.image, student.text, bank_text), rows(teacher.image, teacher.text, bank_text), same
    )
    text_to_image = masked_distillation(
        rows(student.text, student.image, bank_image), rows(teacher.text, teacher.image, bank_image), same
    )
    return (image_to_text + text_to_image) / 2


class Delete(LossMethod):
    """Follow a frozen copy of the model whose in-batch softmax has every caption of the same association removed."""

    name = "delete"
    summary = "Distil the model's own in-batch softmax with the true pair masked out (DELETE)."
    family = "distillation"
    paper = "https://arxiv.org/abs/2503.23751"
    data = ("forget",)

    class Options(FitOptions):
        """Options of delete."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        temperature: float = Field(1.0, gt=0, description="divides the logits of teacher and student")
        bank: int = Field(0, ge=0, description="forget pairs, encoded once, that are extra candidates of every row")

    _teacher: DualEncoder
    _bank: Candidates

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the teacher and let it encode the bank."""
        self._teacher = ctx.frozen_copy()
        rows = ctx.rows("forget")
        size = min(self.options.bank, rows)
        drawn = torch.randperm(rows, generator=ctx.generator("bank"))[:size]
        # `batches` counts `size` samples and goes by row order; the bank is as many rows drawn at random.
        parts = [Pairs(pairs.store, drawn) for pairs in ctx.batches("forget", max(size, 1), rows=size)]
        self._bank = [_candidates(pairs, self._encode(pairs)) for pairs in parts]

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Masked distillation of the forget batch, in both directions."""
        student = model(batch.forget)
        with torch.no_grad():
            teacher = self._teacher(batch.forget)
        rows = _candidates(batch.forget, teacher)
        candidates = [rows, *self._bank]
        return {"forget": delete_loss(student, teacher)}


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """DELETE."""
    return [Delete]
