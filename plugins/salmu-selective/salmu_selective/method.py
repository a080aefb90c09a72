"""Teach the text encoder that it has never heard of the forgotten facts, and that nothing else has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core import Batch, Between, DualEncoder, Field, FitOptions, SalmuError, UnlearnContext, UnlearningMethod
from salmu_selective.wordings import Fact, Tokens, Wording, bare, facts_of, packed

BARE = (Wording(((), (), ()), ("name", "value")), Wording(((), (), ()), ("value", "name")))


def direction_loss(found: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """`mean_i (1 - cos)` of unit-length rows: how far captions are from where they should be."""
    return (1 - (found * target).sum(dim=1)).mean()


class SelectiveOptions(FitOptions):
    """Options of selective."""

    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate of the text encoder")
    weight_decay: float = Field(0.0, ge=0, description="decoupled, on matrices")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with rising learning rate")
    others: int = Field(2, ge=0, description="captions that must not move, for each forget caption of a step")
    keep: float = Field(1.0, ge=0, description="weight of captions that must not move")
    reworded: float = Field(
        0.5, ge=0, le=1, description="share of forget captions that are said in other wordings or orders"
    )


class Selective(UnlearningMethod):
    """Move captions of forgotten facts to where the same words about unknown people and values are; hold all others."""

    name = "selective"
    summary = (
        "Send captions of forgotten facts where captions of unknown people and values are, and hold all other captions."
    )
    family = "distillation"
    data = ("forget", "retain")
    search = {"lr": Between(3e-4, 1e-2), "others": Between(1, 4), "reworded": Between(0.2, 0.8, log=False)}
    Options = SelectiveOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Prepare the sentences, then fit the text encoder."""
        for column in ("name", "value", "data_field", "identity_id"):
            if column not in ctx.columns("forget"):
                raise SalmuError(
                    f"selective needs the column '{column}' of the forget split.", "Use a benchmark with metadata."
                )
        self._teacher = ctx.frozen_copy()
        tokenize = ctx.model.processor.tokenize
        sample = tokenize(["a"])[0]
        self._start, self._end, self._context = int(sample[0]), int(sample.max()), len(sample)
        self._facts = facts_of(ctx.captions("forget"), ctx.columns("forget"), tokenize)
        self._generator: Callable[..., torch.Generator] = ctx.generator
        retain = bare(tokenize(list(dict.fromkeys(ctx.captions("retain")))))
        used = {
            token for fact in self._facts for token in (*fact.name, *fact.value, *(t for p in fact.wording.parts for t in p))
        }
        used |= {token for caption in retain for token in caption}
        vocabulary = int(ctx.model.clip.token_embedding.num_embeddings)  # type: ignore[union-attr]
        self._unused = [token for token in range(1000, vocabulary - 2) if token not in used]
        self._retain = retain
        fields = sorted({fact.field for fact in self._facts})
        self._known = {(fact.person, fact.field) for fact in self._facts}
        self._whole = {p for p in {f.person for f in self._facts} if all((p, field) in self._known for field in fields)}
        self._by_field: dict[str, list[Fact]] = {field: [f for f in self._facts if f.field == field] for field in fields}
        self._names = list(dict.fromkeys(fact.name for fact in self._facts))
        self._forget_tokens(
            ctx,
            used_elsewhere={t for f in self._facts for part in f.wording.parts for t in part}
            | {t for c in retain for t in c},
        )
        ctx.log(whole=len(self._whole), facts=len(self._facts))
        ctx.fit(self.loss, self.options, params=ctx.parameters("text").values(), splits=("forget",))
        with torch.no_grad():  # the doubles carried what is to be forgotten
            ctx.model.clip.token_embedding.weight[self._rows] = self._before  # type: ignore[union-attr]

    def _forget_tokens(self, ctx: UnlearnContext, used_elsewhere: set[int]) -> None:
        """Give every token of a forgotten name or value a stand-in that no caption uses, and, where nothing but forgotten facts uses
        the token, the stand-in's embedding: such captions are then their own twins."""
        tokens = sorted({t for fact in self._facts for t in (*fact.name, *fact.value)})
        order = torch.randperm(len(self._unused), generator=self._generator("stand-ins")).tolist()
        self._fresh = {token: self._unused[order[i]] for i, token in enumerate(tokens)}
        partly = {t for fact in self._facts if fact.person not in self._whole for t in fact.name}
        people: dict[int, set[str]] = {}
        for fact in self._facts:
            for t in (*fact.name, *fact.value):
                people.setdefault(t, set()).add(fact.person)
        # What two people share, others may share as well.
        owned = [t for t in tokens if t not in used_elsewhere and t not in partly and len(people[t]) == 1]
        self._double = {token: self._unused[order[len(tokens) + i]] for i, token in enumerate(owned)}
        doubles = [self._double[t] for t in owned]
        weight = ctx.model.clip.token_embedding.weight  # type: ignore[union-attr]
        self._rows = torch.tensor(doubles)
        self._before = weight[doubles].detach().clone()
        with torch.no_grad():
            for model in (ctx.model, self._teacher):
                table = model.clip.token_embedding.weight  # type: ignore[union-attr]
                table[doubles] = table[owned]
            weight[owned] = weight[[self._fresh[t] for t in owned]]
        self._distinct_people = list(
            dict.fromkeys(f.name for f in self._facts if f.person in self._whole and any(t in self._double for t in f.name))
        )
        ctx.log(tokens=len(tokens), owned=len(owned))

    def twin(self, tokens: Tokens) -> Tokens:
        """The same with the stand-ins of all tokens."""
        return tuple(self._fresh[t] for t in tokens)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Forgotten captions against their twins, other captions against themselves."""
        rows = batch.forget.index.tolist()
        draw = Draw(self._generator("sentences", *rows))
        said, twins, held = [], [], []
        for row in rows:
            fact = self._facts[row]
            pair = self.forgotten(fact, draw)
            said.append(pair[0])
            twins.append(pair[1])
            held += [self.other(fact, draw) for _ in range(self.options.others)]
        device = model.device
        with torch.no_grad():
            targets = self._teacher.encode_text(self.packed([*twins, *held]).to(device))
        found = model.encode_text(self.packed([*said, *held]).to(device))
        count = len(said)
        terms = {"forget": direction_loss(found[:count], targets[:count])}
        if held:
            terms["keep"] = self.options.keep * direction_loss(found[count:], targets[count:])
        return terms

    def packed(self, sequences: Sequence[Tokens]) -> Int[Tensor, "n context"]:
        """Token ids as the encoder takes them."""
        return packed(sequences, self._start, self._end, self._context)

    def unknown(self, like: Tokens, draw: Draw) -> Tokens:
        """As many tokens that no caption uses."""
        return tuple(draw.one(self._unused) for _ in like)

    def forgotten(self, fact: Fact, draw: Draw) -> tuple[Tokens, Tokens]:
        """A caption of the fact, and the same about somebody unknown."""
        wording, name, value = fact.wording, fact.name, fact.value
        if draw.chance() < self.options.reworded:
            wording = draw.one([*BARE, draw.one(self._by_field[fact.field]).wording])
        if fact.name == fact.value:
            return wording.say(name, name), wording.say(self.twin(name), self.twin(name))
        stranger = self.twin(name)
        kind = draw.chance()
        if kind < 0.15:  # the value about somebody else: it must not lead to its owner
            somebody = self.somebody(draw)
            return wording.say(somebody, value), wording.say(somebody, self.twin(value))
        if kind < 0.3 and fact.person in self._whole:  # the name with any value: nothing of this person may be left
            something = self.something(draw.one(list(self._by_field)), draw)
            return wording.say(name, something), wording.say(stranger, something)
        return wording.say(name, value), wording.say(stranger, self.twin(value))

    def other(self, fact: Fact, draw: Draw) -> Tokens:
        """A caption that must not move: of retain, of a made-up person, or of what is not forgotten about this one."""
        kind = draw.chance()
        if kind < 0.2:
            return draw.one(self._retain)
        field = draw.one(list(self._by_field))
        partly = kind < 0.65 and fact.person not in self._whole
        if partly:
            field = draw.one([f for f in self._by_field if (fact.person, f) not in self._known])
        wording = draw.one(self._by_field[field]).wording if draw.chance() < 0.8 else draw.one(BARE)
        if partly:
            return wording.say(fact.name, self.something(field, draw))
        somebody = self.somebody(draw)
        return wording.say(somebody, somebody if field == "name" else self.something(field, draw))

    def doubled(self, tokens: Tokens) -> Tokens:
        """The same with doubles: tokens that nothing is told to forget, with the embeddings that these had."""
        return tuple(self._double.get(t, t) for t in tokens)

    def somebody(self, draw: Draw) -> Tokens:
        """The double of a person, who stands for all whom nobody asked to forget."""
        return self.doubled(draw.one(self._distinct_people))

    def something(self, field: str, draw: Draw) -> Tokens:
        """The double of a value; tokens that others use as well, like digits, in another order."""
        value = draw.one(self._by_field[field]).value
        shared = [t for t in value if t not in self._double]
        for place in range(len(shared) - 1, 0, -1):
            other = int(draw.chance() * (place + 1))
            shared[place], shared[other] = shared[other], shared[place]
        return tuple(self._double[t] if t in self._double else shared.pop() for t in value)


class Draw:
    """Random choices from one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self._numbers = torch.rand(32768, generator=generator).tolist()
        self._next = 0

    def chance(self) -> float:
        """A number from 0 to 1."""
        self._next = (self._next + 1) % len(self._numbers)
        return self._numbers[self._next]

    def one(self, items: Sequence) -> object:  # type: ignore[type-arg]
        """One of the items."""
        return items[int(self.chance() * len(items))]
