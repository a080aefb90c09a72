"""What one model makes of the forget split, embedded once: most attacks begin by asking for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from salmu_audits.measures import distinct
from salmu_core import AuditContext, Split

#: Share of the split from which on all of it is embedded. What an attack asks for decides, and not what others asked for before, or
#: numbers would depend on the order of attacks.
_WORTH_ALL = 0.25


class ForgetEmbeddings:
    """One model's vectors of pictures and captions of the forget split, as it was handed over."""

    def __init__(self) -> None:
        self._vectors: dict[str, Tensor] = {}

    def get(self, side: str, embed: Callable[[], Tensor]) -> Tensor:
        """Of all rows; embedded the first time."""
        if side not in self._vectors:
            self._vectors[side] = embed()
        return self._vectors[side]


class SharingContext(AuditContext):
    """A context whose model other attacks were or will be made on."""

    forget_embeddings: ForgetEmbeddings


def forget_images(ctx: AuditContext, rows: Sequence[int]) -> Float[Tensor, "n dim"]:
    """Unit-length vectors of pictures of the forget split. To be asked before the attack changes its model."""
    forget = ctx.split("forget")
    shared = _shared(ctx, rows, forget)
    if shared is None:
        return ctx.images(forget.take(rows, "asked"))
    return shared.get("image", lambda: ctx.images(forget))[torch.tensor(rows)]


def forget_texts(ctx: AuditContext, rows: Sequence[int]) -> Float[Tensor, "n dim"]:
    """Unit-length vectors of the captions of rows of the forget split. To be asked before the attack changes its model."""
    forget = ctx.split("forget")
    shared = _shared(ctx, rows, forget)
    asked = forget if shared is not None else forget.take(rows, "asked")

    def embed() -> Tensor:
        captions, own = distinct(asked.render(None))
        return ctx.texts(captions)[own]

    return embed() if shared is None else shared.get("text", embed)[torch.tensor(rows)]


def _shared(ctx: AuditContext, rows: Sequence[int], forget: Split) -> ForgetEmbeddings | None:
    known = ctx.forget_embeddings if isinstance(ctx, SharingContext) else None
    return known if len(rows) >= _WORTH_ALL * len(forget) else None
