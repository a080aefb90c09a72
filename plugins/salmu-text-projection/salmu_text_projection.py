"""Adapt the text projection alone, by a low-rank change, so that forget captions go where the empty caption is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    LossMethod,
    SalmuError,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)

_NAMES = ("text_projection", "text_projection.weight")

# ---------------------------------------------------------------- formulas


def mean_distance(rows: Float[Tensor, "rows dim"], targets: Float[Tensor, "*rows dim"]) -> Float[Tensor, ""]:
    """`mean_i ||v_i - t_i||_2`, not squared: forgetting and preserving of Kravets & Namboodiri 2025 (TMLR). At 0 its gradient is 0."""
    distance: Tensor = torch.linalg.vector_norm(rows - targets, dim=1).mean()
    return distance


def matrix_distance(now: Float[Tensor, "*shape"], start: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """`||W - W_0||` over all entries. At 0 its gradient is 0."""
    distance: Tensor = torch.linalg.vector_norm(now - start)
    return distance


# ---------------------------------------------------------------- the method


class ProjectionOptions(FitOptions):
    """Options of text-projection."""

    lr: float = Field(1e-2, gt=0, le=10, description="peak learning rate")
    tower: Literal["text"] = Field("text", description="only the text projection is trained")
    adapter: Literal["lora"] | None = Field(
        "lora", description="train a low-rank adapter and merge it; none: the matrix itself"
    )
    adapter_rank: int = Field(5, ge=1, description="rank of the adapter")
    adapter_alpha: float = Field(5.0, gt=0, description="what the adapter adds is multiplied with alpha / rank")
    adapter_layers: Literal["all"] = Field("all", description="fixed: the projection is the one matrix that is trained")
    forget_weight: float = Field(1.1, ge=0, description="weight of the distance of forget captions from the empty caption")
    preserve_weight: float = Field(0.3, ge=0, description="weight of the distance of retain captions from where they were")
    change_weight: float = Field(0.01, ge=0, description="weight of the change of the matrix")


class TextProjection(LossMethod):
    """Send forget captions to the empty caption by a change of the last matrix of the text encoder."""

    name = "text-projection"
    summary = "Send forget captions to the empty caption by a low-rank change of the text projection; images are not used."
    family = "relabel"
    paper = "https://openreview.net/forum?id=V2SD2uVKEE"
    data = ("forget", "retain")
    search = {"change_weight": Between(1e-3, 1), "forget_weight": Between(0.1, 30), "preserve_weight": Between(0.03, 30)}
    Options = ProjectionOptions

    _start: DualEncoder
    _empty: Tensor
    _name: str

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the start model and embed the empty caption."""
        self._start = ctx.frozen_copy()
        with torch.no_grad():
            self._empty = self._start.encode_text(ctx.tokenize([""]))

    def trainable(self, model: DualEncoder) -> Iterable[nn.Parameter]:
        """The text projection.

        Raises:
            SalmuError: the architecture has none.
        """
        ids = {id(parameter) for parameter in model.tower_parameters("text")}
        for name, parameter in model.named_parameters():
            if id(parameter) in ids and name.endswith(_NAMES) and parameter.ndim == 2:
                self._name = name
                return [parameter]
        raise SalmuError("This text encoder has no text projection to adapt.", "Choose another method.")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The three terms on the captions of both splits."""
        options = self.options
        forget, retain = model.encode_text(batch.forget.text), model.encode_text(batch.retain.text)
        with torch.no_grad():
            before = self._start.encode_text(batch.retain.text)
        change = matrix_distance(model.weight_in_use(self._name), self._start.weight_in_use(self._name))
        return {
            "forget": options.forget_weight * mean_distance(forget, self._empty.expand_as(forget)),
            "preserve": options.preserve_weight * mean_distance(retain, before),
            "change": options.change_weight * change,
        }


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Adaptation of the text projection."""
    return [TextProjection]
