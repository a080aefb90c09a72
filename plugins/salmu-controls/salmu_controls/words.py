"""Controls that look at words alone: rows of the token table are overwritten or exchanged. No picture is read, nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from salmu_core import DualEncoder, Field, Options, SalmuError, UnlearnContext, UnlearningMethod

Counts = Int[Tensor, " vocabulary"]


def token_table(model: DualEncoder) -> Tensor:
    """The embeddings of tokens, [vocabulary, width].

    Raises:
        SalmuError: the text encoder has no table of that name.
    """
    for module in (model.clip, getattr(model.clip, "text", None)):
        table = getattr(module, "token_embedding", None)
        if isinstance(table, nn.Embedding):
            return table.weight
    raise SalmuError(
        "This text encoder has no token_embedding to edit.", "Controls of words need open_clip's text transformer."
    )


def token_counts(tokens: Sequence[Int[Tensor, "n context"]], vocabulary: int) -> Counts:
    """How often each token stands in captions, without what frames every caption: padding, start and end of text."""
    counts = torch.zeros(vocabulary, dtype=torch.long)
    for part in tokens:
        ends = part.argmax(dim=1, keepdim=True)  # end of text has the largest id
        inside = torch.arange(part.shape[1])[None, :] < ends.cpu()
        inside[:, 0] = False  # start of text
        counts += torch.bincount(part.cpu()[inside], minlength=vocabulary)
    return counts


class WordRemovalOptions(Options):
    """Options of word-removal."""

    variant: Literal["owned", "rare", "rarest", "unseen"] = Field(
        "rare",
        description="owned: tokens of forget that no retain caption uses; rare: r times as frequent in forget as in retain; rarest:"
        " the k tokens of forget that are rarest in retain; unseen: tokens that neither uses",
    )
    r: float = Field(
        3.0, gt=0, description="for rare: how many times as frequent in forget as in retain, by share of tokens"
    )
    k: int = Field(40, ge=1, description="for rarest: how many tokens")
    by: Literal["mean", "random", "unused"] = Field(
        "mean",
        description="what rows become: the mean row, a random one of the same spread, or that of a token no caption uses",
    )


def chosen_tokens(
    forget: Counts, retain: Counts, variant: Literal["owned", "rare", "rarest", "unseen"], r: float, k: int
) -> Int[Tensor, " chosen"]:
    """The tokens that a variant takes.

    Example:
        >>> forget, retain = torch.tensor([6, 3, 1, 0, 0]), torch.tensor([0, 1, 8, 1, 0])
        >>> chosen_tokens(forget, retain, "owned", 0, 0).tolist()
        [0]
        >>> chosen_tokens(forget, retain, "rare", 3.0, 0).tolist()
        [0, 1]
        >>> chosen_tokens(forget, retain, "rarest", 0, 2).tolist()
        [0, 1]
        >>> chosen_tokens(forget, retain, "unseen", 0, 0).tolist()
        [4]
    """
    used = forget > 0
    if variant == "owned":
        return (used & (retain == 0)).nonzero().flatten()
    if variant == "unseen":
        return (~used & (retain == 0)).nonzero().flatten()
    if variant == "rare":
        share = forget.double() / max(1, int(forget.sum())), retain.double() / max(1, int(retain.sum()))
        return (used & (share[0] >= r * share[1])).nonzero().flatten()
    candidates = used.nonzero().flatten()
    order = torch.argsort(retain[candidates], stable=True)
    return candidates[order[:k]].sort().values


class WordRemoval(UnlearningMethod):
    """Overwrite the rows of tokens that forget captions use and others do not."""

    name = "word-removal"
    summary = "Control: overwrite the token rows of words that forget captions use more than others. Trains nothing."
    family = "control"
    data = ("forget", "retain")
    Options = WordRemovalOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Count tokens, choose, overwrite."""
        table = token_table(ctx.model)
        forget, retain = (token_counts([ctx.tokenize(ctx.captions(role))], len(table)) for role in ("forget", "retain"))
        options = self.options
        chosen = chosen_tokens(forget, retain, options.variant, options.r, options.k)
        if options.variant == "unseen":  # what frames captions is in none of them
            frame = ctx.tokenize([""]).unique().cpu()
            chosen = chosen[~torch.isin(chosen, frame)]
        ctx.log(rows=float(len(chosen)))
        if len(chosen) == 0:
            return
        with torch.no_grad():
            table[chosen.to(table.device)] = self._rows(table, chosen, forget + retain, ctx).to(table)

    def _rows(
        self, table: Float[Tensor, "vocabulary width"], chosen: Int[Tensor, " chosen"], used: Counts, ctx: UnlearnContext
    ) -> Float[Tensor, "chosen width"]:
        known = table.detach().cpu()[(used > 0).nonzero().flatten()]
        mean = known.mean(dim=0)
        generator = ctx.generator("rows")
        if self.options.by == "mean":
            return mean.expand(len(chosen), -1)
        if self.options.by == "random":
            return mean + known.std(dim=0) * torch.randn(len(chosen), table.shape[1], generator=generator)
        unused = (used == 0).nonzero().flatten()
        unused = unused[~torch.isin(unused, ctx.tokenize([""]).unique().cpu())]
        if len(unused) == 0:
            raise SalmuError("Every token of the vocabulary is used by some caption.", "--set by=mean or by=random.")
        return table.detach().cpu()[unused[torch.randint(len(unused), (len(chosen),), generator=generator)]]


class NameShuffle(UnlearningMethod):
    """Exchange the token rows of forgotten people's names among each other."""

    name = "name-shuffle"
    summary = "Control: exchange the token rows of forgotten names among themselves. Trains nothing."
    family = "control"
    data = ("forget",)
    columns = ("name",)

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Give each token of a name the row of the next one, in an order drawn from the seed."""
        known = ctx.columns("forget")
        if "name" not in known:
            raise SalmuError(
                "name-shuffle needs the column 'name' of forget, which this benchmark has not.", "Leave it out."
            )
        names = sorted({str(name) for name in known["name"] if name is not None})
        table = token_table(ctx.model)
        tokens = token_counts([ctx.tokenize(names)], len(table)).nonzero().flatten()
        ctx.log(rows=float(len(tokens)))
        if len(tokens) < 2:
            return
        order = tokens[torch.randperm(len(tokens), generator=ctx.generator("names"))].to(table.device)
        with torch.no_grad():
            table[order] = table[order.roll(1)].clone()
