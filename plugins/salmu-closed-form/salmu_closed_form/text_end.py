"""The end of a text encoder: the last MLP, the last normalisation, and the projection, and what passes through them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from salmu_closed_form.formulas import layer_norm, step_before_norm
from salmu_core import DualEncoder, SalmuError

Place = Literal["projection", "mlp"]


@dataclass
class Caught:
    """What passed, one row per caption, at the position that becomes its embedding."""

    stream: list[Tensor] = field(default_factory=list)  # what the last normalisation reads
    hidden: list[Tensor] = field(default_factory=list)  # what the second layer of the last MLP reads


@dataclass(frozen=True)
class TextEnd:
    """The last layers of open_clip's text transformers. `x` is what the last normalisation reads.

    Attributes:
        projection: (inputs, outputs), or a layer.
        second: the second layer of the last block's MLP, whose results are added to x.
    """

    norm: nn.LayerNorm
    projection: nn.Parameter | nn.Linear
    second: nn.Linear

    @property
    def matrix(self) -> Float[Tensor, "width dim"]:
        """The projection as it is multiplied with, in double precision on the CPU."""
        given = self.projection.weight.T if isinstance(self.projection, nn.Linear) else self.projection
        return given.detach().double().cpu()

    def parameter(self, place: Place) -> Tensor:
        """What an edit of that place changes."""
        if place == "mlp":
            return self.second.weight
        return self.projection.weight if isinstance(self.projection, nn.Linear) else self.projection

    @torch.no_grad()
    def add(self, place: Place, change: Float[Tensor, "out keys"]) -> None:
        """Add to the map's matrix, outputs first."""
        parameter = self.parameter(place)
        outputs_first = place == "mlp" or isinstance(self.projection, nn.Linear)
        parameter += (change if outputs_first else change.T).to(parameter)

    def normalised(self, stream: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """What the projection reads, its keys."""
        return layer_norm(stream, *self._norm)

    def outputs(self, normalised: Float[Tensor, "n width"]) -> Float[Tensor, "n dim"]:
        """What the projection gives: embeddings before they are made unit length."""
        bias = self.projection.bias if isinstance(self.projection, nn.Linear) else None
        result = normalised @ self.matrix
        return result if bias is None else result + bias.detach().double().cpu()

    def stream_for(self, stream: Float[Tensor, "n width"], changes: Float[Tensor, "n dim"]) -> Float[Tensor, "n width"]:
        """A stream of the same mean and spread that the last layers turn into outputs changed so, as nearly as can be."""
        weight, _, eps = self._norm
        mean = stream.mean(dim=1, keepdim=True)
        spread = (stream.var(dim=1, keepdim=True, correction=0) + eps).sqrt()
        return mean + spread * step_before_norm((stream - mean) / spread, changes, weight[:, None] * self.matrix)

    @property
    def _norm(self) -> tuple[Tensor, Tensor, float]:
        return self.norm.weight.detach().double().cpu(), self.norm.bias.detach().double().cpu(), self.norm.eps

    @contextmanager
    def watched(self, last: Int[Tensor, " n"], caught: Caught) -> Iterator[None]:
        """While open, a forward pass of captions whose embedding is read at the positions `last` leaves its rows in `caught`."""

        def keep(into: list[Tensor], tokens: Tensor) -> None:
            into.append(tokens[torch.arange(len(tokens), device=tokens.device), last].float().cpu())

        handles = [
            self.norm.register_forward_pre_hook(lambda module, inputs: keep(caught.stream, inputs[0])),
            self.second.register_forward_pre_hook(lambda module, inputs: keep(caught.hidden, inputs[0])),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def text_end(model: DualEncoder) -> TextEnd:
    """The end of the model's text encoder.

    Raises:
        SalmuError: it is built in another way.
    """
    clip: Any = model.clip
    text = clip.text if hasattr(clip, "text") else clip
    norm, projection = getattr(text, "ln_final", None), getattr(text, "text_projection", None)
    pooling = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    blocks = getattr(getattr(text, "transformer", None), "resblocks", None)
    block = blocks[-1] if blocks else None
    second = getattr(getattr(block, "mlp", None), "c_proj", None)
    if (
        isinstance(norm, nn.LayerNorm)
        and isinstance(projection, nn.Parameter | nn.Linear)
        and isinstance(second, nn.Linear)
        and isinstance(getattr(block, "ls_2", None), nn.Identity)
        and getattr(text, "cls_emb", None) is None
        and pooling == "argmax"
    ):
        return TextEnd(norm, projection, second)
    raise SalmuError(
        "key-value-edit does not know how the text encoder of this architecture ends.",
        "It edits open_clip's own text transformers with a projection, which read a caption at its end-of-text token.",
    )
