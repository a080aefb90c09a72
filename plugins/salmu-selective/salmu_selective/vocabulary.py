"""Tokens in the place of others: for what nobody ever heard of, and for people whom nobody asked to forget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from salmu_core import DualEncoder, SalmuError
from salmu_selective.wordings import Draw, Fact, Tokens

_RESERVED = 2  # start and end of text have the two largest ids


@dataclass(frozen=True)
class Vocabulary:
    """Which unused token stands for what.

    Attributes:
        owned: tokens that nothing but one person's forgotten facts uses.
        stand_in: for each token of a forgotten name or value an unknown one.
        unknown: tokens that no caption uses, with the embeddings they have.
        double: for each owned token an unused token that is lent the owned one's embedding as long as training lasts.
        familiar: tokens that the model knows, and that no caption uses.
        strangers: unused tokens that are lent random embeddings, distributed as those of the owned ones.
    """

    owned: tuple[int, ...]
    stand_in: dict[int, int]
    unknown: tuple[int, ...]
    double: dict[int, int]
    familiar: tuple[int, ...]
    strangers: tuple[int, ...]

    def twin(self, tokens: Tokens, draw: Draw, *, anew: bool = False) -> Tokens:
        """As many tokens that nobody ever heard of; the same ones each time, or others."""
        return tuple(draw.one(self.unknown) if anew else self.stand_in[t] for t in tokens)

    def doubled(self, tokens: Tokens) -> Tokens:
        """The same with doubles. Nothing is told to forget them, so they are people and values whom nobody asked to forget."""
        return tuple(self.double.get(t, t) for t in tokens)

    @property
    def lent(self) -> list[int]:
        """Tokens that have another embedding while training lasts."""
        return [*self.double.values(), *self.strangers]

    def lend(self, table: Float[Tensor, "vocabulary width"], generator: torch.Generator) -> Float[Tensor, "lent width"]:
        """Embeddings for `lent`: copies for the doubles, and for the strangers normal draws with the mean and covariance of what
        the owned tokens have."""
        doubled = table[torch.tensor(list(self.double), dtype=torch.long, device=table.device)].detach()
        if not self.strangers:
            return doubled.clone()
        known = doubled if len(doubled) > 1 else table[torch.tensor(list(self.stand_in), device=table.device)].detach()
        mean = known.mean(dim=0)
        draws = torch.randn(len(self.strangers), len(known), generator=generator).to(known)
        # Weighted sums of deviations have their covariance, also where there are fewer tokens than dimensions.
        return torch.cat([doubled, mean + draws @ (known - mean) / max(1, len(known) - 1) ** 0.5])


def assign_tokens(
    facts: Sequence[Fact],
    elsewhere: set[int],
    whole: set[str],
    table: Float[Tensor, "vocabulary width"],
    *,
    doubles: bool,
    strangers: int,
    generator: torch.Generator,
) -> Vocabulary:
    """Choose unused tokens at random.

    Args:
        elsewhere: tokens of ordinary captions and of the words around facts.
        whole: people of whom everything is to be forgotten.
        table: the token embeddings.
        strangers: fewer where the vocabulary has not that many to spare.

    Raises:
        SalmuError: the vocabulary has too few tokens that no caption uses.
    """
    tokens = sorted({t for fact in facts for t in (*fact.name, *fact.value)})
    owned = owned_tokens(facts, elsewhere, whole)
    lent = owned if doubles else []
    unused = set(range(1, len(table) - _RESERVED)) - elsewhere - set(tokens)
    familiar = sorted(unused & set(familiar_tokens(table)))
    unknown = sorted(unused - set(familiar))
    needed = len(tokens) + len(lent)
    if len(unknown) < needed:
        raise SalmuError(
            f"selective needs {needed} tokens that no caption uses, and the vocabulary has {len(unknown)}.",
            "Forget in several rounds, or use an encoder with a larger vocabulary.",
        )
    order = torch.randperm(len(unknown), generator=generator).tolist()
    chosen = [unknown[i] for i in order]
    count = len(lent) + (min(strangers, len(unknown) - needed) if doubles else 0)
    return Vocabulary(
        tuple(owned),
        dict(zip(tokens, chosen[count:], strict=False)),
        tuple(chosen[count:]),
        dict(zip(lent, chosen, strict=False)),
        tuple(familiar),
        tuple(chosen[len(lent) : count]),
    )


def familiar_tokens(table: Float[Tensor, "vocabulary width"], spread: float = 5.0) -> list[int]:
    """Tokens whose embeddings are much longer or shorter than most: in a small model, those that training ever saw. Of a model that
    was trained on everything, hardly any stands out.

    Args:
        spread: how many times the median deviation from the median counts as much.
    """
    norms = table.detach().float().norm(dim=1)
    deviation = (norms - norms.median()).abs()
    return (deviation > spread * deviation.median()).nonzero().flatten().tolist()


def owned_tokens(facts: Sequence[Fact], used_elsewhere: set[int], whole: set[str]) -> list[int]:
    """Tokens that nothing but one person's forgotten facts uses: neither ordinary captions nor the words around facts, nor another
    person (what two share, others may share as well), nor the name of somebody of whom other facts are to stay."""
    people: dict[int, set[str]] = {}
    for fact in facts:
        for token in (*fact.name, *fact.value):
            people.setdefault(token, set()).add(fact.person)
    staying = {token for fact in facts if fact.person not in whole for token in fact.name}
    return sorted(t for t, owners in people.items() if len(owners) == 1 and t not in used_elsewhere | staying)


def embedding_of(model: DualEncoder) -> Float[Tensor, "vocabulary width"]:
    """The weights of the token embedding.

    Raises:
        SalmuError: the architecture has none of open_clip's own.
    """
    for owner in (model.clip, getattr(model.clip, "text", None)):
        weight = getattr(getattr(owner, "token_embedding", None), "weight", None)
        if weight is not None:
            return weight  # type: ignore[no-any-return]
    raise SalmuError("selective takes open_clip's own text encoders, and this architecture has another.")


def only_rows(parameter: str, rows: Sequence[int]) -> Callable[[Mapping[str, Tensor]], None]:
    """What `ctx.fit(on_gradients=...)` calls so that of one table these rows alone are trained."""

    trained = torch.tensor(list(rows), dtype=torch.long)  # once: it may be the whole vocabulary, and steps are many

    def keep(gradients: Mapping[str, Tensor]) -> None:
        table = gradients[parameter]
        frozen = torch.ones(len(table), dtype=torch.bool)
        frozen[trained] = False
        table.masked_fill_(frozen.to(table.device)[:, None], 0.0)

    return keep
