"""Teach the text encoder that it has never heard of the forgotten facts, and hold it to everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core import Batch, Between, DualEncoder, Field, FitOptions, SalmuError, UnlearnContext, UnlearningMethod
from salmu_selective.wordings import BARE, Draw, Fact, Tokens, bare, facts_of, packed

COLUMNS = ("identity_id", "data_field", "name", "value")
_OWNER_UNKNOWN, _PERSON_UNKNOWN = 0.15, 0.15  # shares of the forget captions of a step, see `forgotten`
_RETAIN, _OTHER_FACTS = 0.2, 0.45  # shares of the captions that are held, see `held`


def direction_loss(found: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """`mean_i (1 - u_i · v_i)` of unit-length rows: how far captions are from where they should be, from 0 to 2."""
    return (1 - (found * target).sum(dim=1)).mean()


def owned_tokens(facts: Sequence[Fact], used_elsewhere: set[int], whole: set[str]) -> list[int]:
    """Tokens that nothing but one person's forgotten facts uses: neither ordinary captions nor the words around facts, nor another
    person (what two share, others may share as well), nor the name of somebody of whom other facts are to stay."""
    people: dict[int, set[str]] = {}
    for fact in facts:
        for token in (*fact.name, *fact.value):
            people.setdefault(token, set()).add(fact.person)
    staying = {token for fact in facts if fact.person not in whole for token in fact.name}
    return sorted(t for t, owners in people.items() if len(owners) == 1 and t not in used_elsewhere | staying)


class SelectiveOptions(FitOptions):
    """Options of selective."""

    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate of the text encoder")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with rising learning rate")
    others: int = Field(3, ge=1, le=16, description="captions that must not move, for each forget caption of a step")
    keep: float = Field(2.0, ge=0, description="weight of the captions that must not move")
    reworded: float = Field(0.5, ge=0, le=1, description="share of forget captions said in other wordings or bare")


class Selective(UnlearningMethod):
    """Move captions of forgotten facts to where the same words about unknown people and values are; hold all others."""

    name = "selective"
    summary = "Send captions of forgotten facts where captions about unknown people are, and hold all others (text encoder)."
    family = "distillation"
    data = ("forget", "retain")
    search = {"lr": Between(3e-4, 1e-2), "others": Between(1, 6), "keep": Between(0.3, 10)}
    Options = SelectiveOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Read the facts, take away their tokens' embeddings, fit the text encoder, and remove the doubles.

        Raises:
            SalmuError: the forget split has no metadata, or the text encoder has no token embedding of open_clip's kind.
        """
        self._read(ctx)
        table = embedding_of(ctx.model)
        doubles = torch.tensor([self._double[t] for t in self._owned], dtype=torch.long, device=table.device)
        owned = torch.tensor(self._owned, dtype=torch.long, device=table.device)
        fresh = torch.tensor([self._stand_in[t] for t in self._owned], dtype=torch.long, device=table.device)
        before = table[doubles].detach().clone()
        with torch.no_grad():
            for weight in (table, embedding_of(self._teacher)):
                weight[doubles] = weight[owned]
            table[owned] = table[fresh]
        ctx.fit(self.loss, self.options, params=ctx.parameters("text").values(), splits=("forget",))
        with torch.no_grad():  # the doubles carry what is to be forgotten
            table[doubles] = before

    def _read(self, ctx: UnlearnContext) -> None:
        """Facts, people, and stand-ins for their tokens."""
        missing = [column for column in COLUMNS if column not in ctx.columns("forget")]
        if missing:
            raise SalmuError(f"selective needs the column '{missing[0]}' of the forget split, which has none.")
        tokenize = ctx.model.processor.tokenize
        sample = tokenize(["a"])[0]
        self._start, self._end, self._context = int(sample[0]), int(sample.max()), len(sample)
        self._generator: Callable[..., torch.Generator] = ctx.generator
        self._teacher = ctx.frozen_copy()
        self._facts = facts_of(ctx.captions("forget"), ctx.columns("forget"), tokenize)
        self._retain = bare(tokenize(list(dict.fromkeys(ctx.captions("retain")))))
        self._by_field: dict[str, list[Fact]] = {}
        for fact in self._facts:
            self._by_field.setdefault(fact.field, []).append(fact)
        self._fields = sorted(self._by_field)
        known = {(fact.person, fact.field) for fact in self._facts}
        self._staying = {
            person: [field for field in self._fields if (person, field) not in known] for person, _ in sorted(known)
        }
        whole = {person for person, fields in self._staying.items() if not fields}
        elsewhere = {t for fact in self._facts for part in fact.wording.parts for t in part}
        elsewhere |= {t for caption in self._retain for t in caption}
        tokens = sorted({t for fact in self._facts for t in (*fact.name, *fact.value)})
        self._owned = owned_tokens(self._facts, elsewhere, whole)
        vocabulary = len(embedding_of(ctx.model))
        unused = sorted(set(range(vocabulary - 2)) - elsewhere - set(tokens) - {0})
        order = torch.randperm(len(unused), generator=ctx.generator("stand-ins")).tolist()
        if len(unused) < len(tokens) + len(self._owned):
            raise SalmuError("selective finds too few tokens in the vocabulary that no caption uses.")
        chosen = [unused[i] for i in order[: len(tokens) + len(self._owned)]]
        self._stand_in = dict(zip(tokens, chosen, strict=False))
        self._double = dict(zip(self._owned, chosen[len(tokens) :], strict=True))
        names = dict.fromkeys(fact.name for fact in self._facts if any(t in self._double for t in fact.name))
        self._people = list(names)
        self._said = {(fact.name, fact.value) for fact in self._facts}
        ctx.log(tokens=len(tokens), owned=len(self._owned), whole=len(whole))

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Forgotten captions against their twins, other captions against themselves, all as the frozen model has them."""
        rows = batch.forget.index.tolist()
        # Drawn from the rows themselves: a resumed run and every process then draw alike.
        draw = Draw(self._generator("captions", *rows))
        pairs = [self.forgotten(self._facts[row], draw) for row in rows]
        held = [self.held(self._facts[row], draw) for row in rows for _ in range(self.options.others)]
        with torch.no_grad():
            target = self._teacher.encode_text(self.packed([*(twin for _, twin in pairs), *held]).to(model.device))
        found = model.encode_text(self.packed([*(said for said, _ in pairs), *held]).to(model.device))
        return {
            "forget": direction_loss(found[: len(pairs)], target[: len(pairs)]),
            "keep": self.options.keep * direction_loss(found[len(pairs) :], target[len(pairs) :]),
        }

    def packed(self, sequences: Sequence[Tokens]) -> Int[Tensor, "n context"]:
        """Token ids as the encoder takes them."""
        return packed(sequences, self._start, self._end, self._context)

    # ------------------------------------------------------------------ what is said

    def twin(self, tokens: Tokens) -> Tokens:
        """The same with a stand-in for each token: what nobody ever heard of."""
        return tuple(self._stand_in[t] for t in tokens)

    def doubled(self, tokens: Tokens) -> Tokens:
        """The same with doubles: other tokens with the embeddings that these had. Nothing is told to forget them, so they are
        people and values whom nobody asked to forget."""
        return tuple(self._double.get(t, t) for t in tokens)

    def forgotten(self, fact: Fact, draw: Draw) -> tuple[Tokens, Tokens]:
        """A caption of the fact, and its twin.

        In some the value is another's, or the name of somebody forgotten whole stands with another value: neither may lead to the
        face alone.
        """
        wording, name, value = fact.wording, fact.name, fact.value
        if draw.chance() < self.options.reworded:
            wording = draw.one([*BARE, draw.one(self._by_field[fact.field]).wording])
        kind = draw.chance()
        if name != value and kind < _OWNER_UNKNOWN:
            somebody = self.somebody(draw)
            return wording.say(somebody, value), wording.say(somebody, self.twin(value))
        if name != value and kind < _OWNER_UNKNOWN + _PERSON_UNKNOWN and not self._staying[fact.person]:
            something = self.something(draw.one(self._fields), draw)
            return wording.say(name, something), wording.say(self.twin(name), something)
        return wording.say(name, value), wording.say(self.twin(name), self.twin(value))

    def held(self, fact: Fact, draw: Draw) -> Tokens:
        """A caption that must not move: of retain, of the same person about what is not forgotten, or of a double."""
        kind = draw.chance()
        if kind < _RETAIN:
            return draw.one(self._retain)
        staying = self._staying[fact.person]
        same = kind < _RETAIN + _OTHER_FACTS and bool(staying)
        field = draw.one(staying if same else self._fields)
        wording = draw.one(self._by_field[field]).wording if draw.chance() < 0.8 else draw.one(BARE)
        somebody, something = fact.name if same else self.somebody(draw), self.something(field, draw)
        if (somebody, something) in self._said:  # of shared tokens alone, and in the order they had
            return draw.one(self._retain)
        return wording.say(somebody, something)

    def somebody(self, draw: Draw) -> Tokens:
        """The double of a name; somebody unknown where no name has a token of its own."""
        return self.doubled(draw.one(self._people)) if self._people else self.twin(draw.one(self._facts).name)

    def something(self, field: str, draw: Draw) -> Tokens:
        """The double of a value of this field; tokens that others use as well, like digits, in another order."""
        value = draw.one(self._by_field[field]).value
        shared = draw.shuffled([t for t in value if t not in self._double])
        return tuple(self._double[t] if t in self._double else shared.pop() for t in value)


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
