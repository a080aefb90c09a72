"""The method: two passes without gradients, then one system of linear equations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from salmu_closed_form.formulas import (
    group_sums,
    least_squares_edit,
    own_part,
    retreat,
    two_way_levels,
)
from salmu_closed_form.text_end import Caught, Place, TextEnd, text_end
from salmu_core import (
    Between,
    Field,
    OneOf,
    Options,
    Pairs,
    SalmuError,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import group_codes


class KeyValueOptions(Options):
    """Options of key-value-edit."""

    place: Place = Field("mlp", description="the matrix: the text projection, or the second layer of the last text MLP")
    keep: float = Field(1.0, ge=0, description="weight of keeping what retain captions get")
    strength: float = Field(1.0, ge=0, description="how often the change is added")
    ridge: float = Field(1e-4, gt=0, description="weight of a small change, relative to the mean eigenvalue of the system")
    batch_size: int = Field(256, ge=1, description="pairs per forward pass; does not change the result")


class KeyValueEdit(UnlearningMethod):
    """Find the change of one matrix of the text encoder that moves forget captions away from their people."""

    name = "key-value-edit"
    summary = "Edit one matrix of the text encoder in closed form, so that forget captions leave their people's images."
    family = "closed form"
    paper = "https://arxiv.org/abs/2403.14236"
    data = ("forget", "retain")
    columns = ("identity_id",)
    fewest_identities = 2  # what strangers have in common is measured among them
    search = {
        "strength": Between(0.3, 30),
        "keep": Between(1e-3, 100),
        "place": OneOf(("mlp", "projection")),
    }
    Options = KeyValueOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Embed both splits once, decide where every forget caption should go, solve, and add."""
        options = self.options
        end = text_end(ctx.model)
        image, text, identity, caught = forget_rows(ctx, end, options.batch_size)
        level = two_way_levels(image, text, identity)
        if not torch.isfinite(level).all():
            raise SalmuError(
                "key-value-edit cannot measure what strangers have in common: all forget pairs are of one identity.",
                "It needs a forget split with at least two identities.",
            )
        codes = group_codes(identity)
        person = group_sums(image, codes) / torch.bincount(codes)[codes][:, None]
        direction = own_part(person, image.mean(dim=0))
        away = -retreat(text, person, direction, level)[:, None] * direction
        stream, keys = torch.cat(caught.stream).double(), torch.cat(caught.hidden).double()
        normalised = end.normalised(stream)
        changes = end.outputs(normalised).norm(dim=1, keepdim=True) * away
        if options.place == "projection":
            keys = normalised
        else:
            # Captions that stay get exactly nothing: the way through the normalisation and back only rounds.
            moved = (changes != 0).any(dim=1, keepdim=True)
            changes = torch.where(moved, end.stream_for(stream, changes) - stream, torch.zeros_like(stream))
        kept = kept_moment(ctx, end, options.place, options.batch_size)
        change = options.strength * least_squares_edit(changes, keys, kept, options.keep, options.ridge)
        before = (person * text).sum(dim=1).mean()
        end.add(options.place, change)
        if options.place == "mlp":
            normalised = end.normalised(stream + keys @ change.T)
        after = (person * F.normalize(end.outputs(normalised), dim=1)).sum(dim=1).mean()
        ctx.log(level=float(level.mean()), similarity_before=float(before), similarity=float(after))


def encode_captions(ctx: UnlearnContext, end: TextEnd, pairs: Pairs, caught: Caught) -> Tensor:
    """Caption embeddings of a batch; what passes the end of the encoder is left in `caught`."""
    tokens = pairs.text
    # The encoder itself, not model(pairs): so every process measures the whole batch.
    with end.watched(tokens.argmax(dim=-1), caught):
        return ctx.model.encode_text(tokens)


@torch.no_grad()
def forget_rows(ctx: UnlearnContext, end: TextEnd, batch_size: int) -> tuple[Tensor, Tensor, Tensor, Caught]:
    """Embeddings of forget pairs in double precision on the CPU, their identities, and what passed the end of the text
    encoder: one counted pass."""
    images, texts, identities, caught = [], [], [], Caught()
    for pairs in ctx.batches("forget", batch_size, rows=ctx.affordable_rows("forget"), shuffle=True):
        images.append(ctx.model.encode_image(pairs.image).cpu())
        texts.append(encode_captions(ctx, end, pairs, caught).cpu())
        identities.append(pairs.columns["identity"].cpu())
    return torch.cat(images).double(), torch.cat(texts).double(), torch.cat(identities), caught


def kept_moment(ctx: UnlearnContext, end: TextEnd, place: Place, batch_size: int) -> Tensor:
    """The second moment of the keys of retain captions, in double precision on the CPU: one counted pass."""

    def measure(pairs: Pairs) -> dict[str, Tensor]:
        caught = Caught()
        encode_captions(ctx, end, pairs, caught)
        keys = end.normalised(caught.stream[0].double()) if place == "projection" else caught.hidden[0].double()
        return {"products": keys.T @ keys, "rows": keys.new_tensor(len(keys))}

    sums = ctx.accumulate(measure, "retain", batch_size, rows=ctx.affordable_rows("retain"), shuffle=True)
    return sums["products"] / sums["rows"]


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Key-value editing."""
    return [KeyValueEdit]
