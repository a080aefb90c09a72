"""Giving forgotten names their faces back, by their token rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn

from salmu_audits.forget_embeddings import forget_images, forget_texts
from salmu_audits.measures import distinct, mean_reciprocal_rank, one_each
from salmu_audits.relative import relative, typical_sizes, usual_scale
from salmu_core import Audit, AuditContext, Batch, DualEncoder, Field, FitOptions, Leak, Options, Split
from salmu_core.errors import Diverged
from salmu_core.losses import pair_losses
from salmu_core.metric import NotMeasurable


def token_table(model: DualEncoder) -> nn.Embedding:
    """The text encoder's table of tokens: its largest embedding.

    Raises:
        NotMeasurable: it has none.
    """
    tables = _tables(model)
    if not tables:
        raise NotMeasurable("the text encoder has no table of tokens")
    return max(tables, key=lambda table: table.num_embeddings)


def rows_of(table: nn.Embedding) -> nn.Parameter:
    """The rows of a table."""
    assert isinstance(table.weight, nn.Parameter)
    return table.weight


def _tables(model: DualEncoder) -> list[nn.Embedding]:
    named = model.clip.named_modules()
    return [module for name, module in named if isinstance(module, nn.Embedding) and not name.startswith("visual.")]


def has_token_table(model: DualEncoder) -> bool:
    """Does its text encoder have a table of tokens?"""
    return bool(_tables(model))


def tokens_of(model: DualEncoder, texts: list[str]) -> Int[Tensor, " tokens"]:
    """Tokens of the given texts and of no empty one: what starts, ends and pads a text is left out."""
    processor = model.processor
    empty = set(processor.tokenize([""]).unique().tolist())
    return torch.tensor(sorted(set(processor.tokenize(texts).unique().tolist()) - empty), dtype=torch.long)


_FREE = "rows_of_names"  # the name under which a model holds them for a while


class InversionOptions(Options):
    """Options of name-inversion."""

    lrs: tuple[float, ...] = Field(
        (0.05, 0.15, 0.5), description="learning rates, as shares of a usual row's size; the best one counts"
    )
    steps: int = Field(150, ge=1, description="optimiser steps at each rate")
    batch_size: int = Field(64, ge=2, description="photos per step")
    rows: int = Field(2000, ge=2, description="photos that are trained on, drawn at random where there are more")


class NameInversion(Audit):
    """Optimise only the token rows of forgotten names, then ask for the other facts."""

    name = "name-inversion"
    summary = (
        "Token rows of forgotten names are fitted to faces, all else frozen; reciprocal rank of the people's other facts."
    )
    paper = "https://arxiv.org/abs/2208.01618"
    version = "3"
    quick = {"lrs": (0.35,), "rows": 600, "steps": 60, "batch_size": 48}
    Options = InversionOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """The attacker has names and photos, and none of the facts that are asked for afterwards."""
        forget = ctx.split("forget")
        if "name" not in forget.columns or "value" not in forget.columns:
            raise NotMeasurable("the forget split has no columns name and value")
        names, values = ([str(value) for value in forget.columns[column]] for column in ("name", "value"))
        told = [row for row in range(len(forget)) if names[row] != values[row]]
        facts = forget.take(told, "facts")
        if not told:
            raise NotMeasurable("nothing but names was to be forgotten")
        known = _name_captions(forget, names, values)
        photos = torch.randperm(len(forget), generator=ctx.generator("photos"))[: self.options.rows].sort().values.tolist()
        shown = forget.take(photos, "photos")
        seen = Split("photos", shown.images, [known[name] for name in shown.columns["name"]], shown.columns)
        of_photos, of_facts = forget_images(ctx, photos).to(ctx.model.device), forget_images(ctx, told)
        captions, own = distinct(facts.render(None))
        of_captions = one_each(forget_texts(ctx, told), own)
        scale = usual_scale(ctx)
        sizes = typical_sizes(rows_of(token_table(ctx.model)).detach(), table=True)[:1]

        def loss(model: DualEncoder, batch: Batch) -> Tensor:
            person = batch.forget.columns["identity"]
            same = (person[:, None] == person[None, :]).to(of_photos.device)
            image = of_photos[batch.forget.index.to(of_photos.device)]
            return pair_losses(image, model.encode_text(batch.forget.text), scale, same).mean()

        extras = {"before": mean_reciprocal_rank(of_facts, of_captions, own)}
        tokens = tokens_of(ctx.model, sorted(set(names)))
        extras["tokens"] = float(len(tokens))
        steps, size = self.options.steps, min(self.options.batch_size, len(seen))
        for lr in self.options.lrs:
            how = FitOptions(lr=lr, batch_size=size, weight_decay=0.0)
            with freed_rows(ctx.model, tokens) as free:
                rows = rows_of(free)
                with relative(ctx.model, [rows], {id(rows): sizes.expand_as(rows).contiguous()}) as changes:
                    try:
                        ctx.train(seen, loss, how, steps=steps, params=changes)
                    except Diverged:
                        continue
                extras[f"lr {lr:g}"] = mean_reciprocal_rank(of_facts, ctx.texts(captions), own)
        # An attacker may also leave the rows as they are: fitting them to few photos can lose what an intact model gives away.
        found = [value for key, value in extras.items() if key == "before" or key.startswith("lr ")]
        return Leak(max(found), extras)


@contextmanager
def freed_rows(model: DualEncoder, tokens: Int[Tensor, " tokens"]) -> Iterator[nn.Embedding]:
    """The rows of some tokens as a small table of their own, which is read in their place: an optimiser then has a few hundred rows to
    move and not a whole vocabulary. Afterwards the model is as it was.

    Yields:
        Row i is that of token `tokens[i]`.
    """
    table = token_table(model)
    device = table.weight.device
    place = torch.full((table.num_embeddings,), -1, dtype=torch.long)
    place[tokens] = torch.arange(len(tokens))
    place = place.to(device)
    # From values that are there: a table that fills itself would draw from torch's own generator.
    free = nn.Embedding.from_pretrained(table.weight.detach()[tokens.to(device)].clone(), freeze=False)

    def read(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        at = place[given[0]]
        return torch.where((at >= 0)[..., None], free(at.clamp(min=0)).to(output.dtype), output)

    model.add_module(_FREE, free)
    handle = table.register_forward_hook(read)
    try:
        yield free
    finally:
        handle.remove()
        delattr(model, _FREE)


def _name_captions(forget: Split, names: list[str], values: list[str]) -> dict[str, str]:
    """A caption that says nothing but the name: the split's own where it has some, else the name itself."""
    captions = forget.render(None)
    found: dict[str, str] = {}
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        if name == value:
            found.setdefault(name, captions[row])
    return {name: found.get(name, name) for name in dict.fromkeys(names)}
