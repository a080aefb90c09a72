"""Stranger targets: read forgotten captions as captions about somebody whom the model never met, and hold their neighbours."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    LossMethod,
    MakeMethod,
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.data.pairs import code_values
from salmu_core.losses import pair_cosine

_CHUNK = 256  # captions or pictures that the start model embeds at a time
_POOL = 4096  # captions that are made up of each kind, at most; no more than a quarter of the budget's pairs
_BARE = 0.25  # share of them that is nothing but name and value
_LOOKED_AT = 256  # forget pairs that strangers are compared with, at most; no more than a tenth of the budget


def _looked_at(left: int | None) -> int:
    """How many forget pairs strangers are compared with, of so many samples that are left."""
    return _LOOKED_AT if left is None else min(_LOOKED_AT, max(8, left // 10))


# ---------------------------------------------------------------- formulas


def distance(now: Float[Tensor, "rows dim"], target: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Compute `mean_i (1 - cos(now_i, target_i))` of unit-length rows; 0 where there is no row."""
    return (1 - pair_cosine(now, target)).sum() / max(1, len(now))


def renamed(caption: str, old: str, new: str) -> str:
    """Put one name in the place of another, word by word, also in lower case (mail addresses)."""
    to = {old: new}  # first the whole name: the two need not have equally many words
    for word, other in zip(old.split(), new.split(), strict=False):
        to |= {word: to.get(word, other), word.lower(): other.lower()}
    pattern = "|".join(re.escape(word) for word in sorted(to, key=len, reverse=True))
    return re.sub(rf"(?<![^\W\d_])(?:{pattern})(?![^\W\d_])", lambda found: to[found[0]], caption)


def without_own(
    image: Float[Tensor, "rows dim"],
    own: Float[Tensor, "rows dim"],
    common: Float[Tensor, " dim"],
    level: float,
    share: float = 1.0,
) -> Float[Tensor, "rows dim"]:
    """Move each image against what is peculiar to its person's captions: `cos(image, own)` goes `share` of its way to `level`.

    `u' = (u - alpha d) / |u - alpha d|`, d the part of `own` orthogonal to `common`, alpha >= 0 found by halving. An image at or below
    the level stays.

    Args:
        image, own: unit length; `own` is the mean direction of the captions of the image's person.
        common: what captions share anyway.
    """
    unit = F.normalize(common, dim=0)
    direction = F.normalize(own - (own @ unit)[:, None] * unit, dim=1)

    def moved(alpha: Tensor) -> Tensor:
        return F.normalize(image - alpha[:, None] * direction, dim=1)

    start = pair_cosine(image, own)
    wanted = start - share * (start - level)
    low, high = image.new_zeros(len(image)), image.new_full((len(image),), 2.0)
    for _ in range(40):
        middle = (low + high) / 2
        above = pair_cosine(moved(middle), own) > wanted
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where((start > level)[:, None], moved(high), image)


def made_up_names(names: Sequence[str], count: int, draw: random.Random, spare: Sequence[str] = ()) -> list[str]:
    """Draw `count` names that nobody in `names` has: the first words of one with the last word of another, or two `spare` words
    where names give nothing new.

    Raises:
        SalmuError: nothing new can be made of either."""
    known, parts = set(names), [name.split() for name in sorted(set(names))]
    heads, ends = {tuple(name[:-1]) for name in parts}, {name[-1] for name in parts}
    new = {(*head, end) for head in heads for end in ends} - {tuple(name) for name in parts}
    made: list[str] = []
    while new and len(made) < count:  # by hand and not from `new`, so that a name is drawn as often as its words are
        found = (*draw.choice(parts)[:-1], draw.choice(parts)[-1])
        made += [" ".join(found)] if found in new else []
    if not new and len(spare) > 1:
        made = [" ".join(draw.choice(spare).capitalize() for _ in range(2)) for _ in range(count)]
    if len(made) < count or known & set(made):
        raise SalmuError(
            f"No names can be made up from the {len(known)} names of the forget split.",
            "It needs two people with names of two words.",
        )
    return made


# ---------------------------------------------------------------- captions that nobody wrote


@dataclass(frozen=True)
class Request:
    """The forget split as words: `facts` says which fields of a person are forgotten, all else has an entry for each row."""

    captions: Sequence[str]
    people: Sequence[str]
    fields: Sequence[str]
    names: Sequence[str]
    values: Sequence[str]
    facts: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, ctx: UnlearnContext) -> Request:
        """Read captions and metadata of the forget split.

        Raises:
            SalmuError: a column is missing, or a row says no name."""
        columns = ctx.columns("forget")
        missing = [name for name in StrangerTargets.columns if name not in columns]
        if missing or not all(str(name or "").strip() for name in columns["name"]):
            raise SalmuError(
                "stranger-targets puts other names into captions: it needs the columns identity_id, data_field, name and value of the"
                f" forget split, {f'and {missing[0]} is missing' if missing else 'and a row has no name'}.",
                "Add them, or choose a method that reads captions alone.",
            )
        people, fields, names, values = ([str(value) for value in columns[name]] for name in StrangerTargets.columns)
        facts: dict[str, set[str]] = {}
        for person, fact in zip(people, fields, strict=True):
            facts.setdefault(person, set()).add(fact)
        return cls(ctx.captions("forget"), people, fields, names, values, {p: frozenset(f) for p, f in facts.items()})

    @cached_property
    def of_field(self) -> Mapping[str, Sequence[int]]:
        """Field -> its rows."""
        found: dict[str, list[int]] = {}
        for row, fact in enumerate(self.fields):
            found.setdefault(fact, []).append(row)
        return found

    @cached_property
    def whole(self) -> frozenset[str]:
        """People with every field that the request speaks of, where it speaks of several. Nobody else's picture is changed: other
        facts of theirs may have to stay."""
        every = set(self.fields)
        return frozenset(person for person, facts in self.facts.items() if facts == every and len(every) > 1)

    def about(self, row: int, name: str, bare: bool = False, value_first: bool = False) -> str:
        """A row's caption with another name in it; `bare`: only name and value."""
        if not bare:
            return renamed(self.captions[row], self.names[row], name)
        value = renamed(self.values[row], self.names[row], name)
        return f"{value} {name}" if value_first else f"{name} {value}"


class StrangerOptions(FitOptions):
    """Options of stranger-targets."""

    lr: float = Field(2e-3, gt=0, le=10, description="peak learning rate")
    batch_size: int = Field(32, ge=1, description="forget pairs, and retain pairs, per step")
    keep: float = Field(1.0, ge=0, description="weight of all that stays")
    faces: float = Field(
        0.25, ge=0, le=1, description="share of the way that faces go towards a stranger's; 0 trains the text encoder alone"
    )
    swapped: int = Field(64, ge=0, description="made-up captions per step of forgotten people with somebody else's value")
    neighbours: int = Field(64, ge=0, description="made-up captions per step that stay as they are")
    strangers: int = Field(4, ge=1, description="made-up people as whom forgotten ones are read")
    candidates: int = Field(12, ge=1, description="names made up, of which the most ordinary are taken")


class StrangerTargets(LossMethod):
    """Distil the start model: forgotten captions as if about a stranger, forgotten faces without their own part, the rest as it is."""

    name = "stranger-targets"
    summary = "Read forgotten captions as captions about a stranger, hold recombined neighbours and ordinary pairs where they were."
    family = "distillation"
    data = ("forget", "retain")
    columns = ("identity_id", "data_field", "name", "value")
    search = {"lr": Between(1e-4, 2e-3), "keep": Between(0.3, 3), "faces": Between(0, 1, log=False)}
    Options = StrangerOptions

    _ctx: UnlearnContext
    _start: DualEncoder
    _request: Request
    _strangers: dict[str, str]  # person -> who they are read as
    _level: float
    _pool: int
    _own: dict[int, Tensor]  # forget row of somebody forgotten whole -> mean direction of that person's captions
    _common: Tensor
    _kept: tuple[Tensor, Tensor]  # tokens of captions that stay, and their embeddings
    _moved: tuple[Tensor, Tensor]  # tokens of captions that are forgotten, and the embeddings that they get

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Count the steps that choosing strangers leaves room for."""
        meter.take("forget", min(rows["forget"], _looked_at(meter.left("forget"))))
        return super().planned_steps(rows, meter, make_method)

    def prepare(self, ctx: UnlearnContext) -> None:
        """Make up people and captions, and embed what stays with the start model."""
        self._ctx, self._start, self._request = ctx, ctx.frozen_copy(), Request.of(ctx)
        draw = random.Random(int(torch.randint(2**62, (), generator=ctx.generator("captions"))))
        left = [ctx.budget_left(role) for role in self.data]
        self._pool = _POOL if None in left else min(_POOL, max(64, sum(filter(None, left)) // 4))
        self._choose_strangers(draw)
        if self.options.faces:
            self._find_own_parts()
        forgotten = self._about_forgotten(draw)
        self._moved = self._tokens([old for old, _ in forgotten]), self._embedded([new for _, new in forgotten])[1]
        self._kept = self._embedded(self.captions_that_stay(draw))
        ctx.log(level=self._level, made_up=len(self._kept[0]) + len(forgotten), people_whole=len(self._request.whole))

    def trainable(self, model: DualEncoder) -> Iterable[nn.Parameter]:
        """Both encoders, or the text encoder where pictures have no weight."""
        return model.tower_parameters(self.options.tower if self.options.faces else "text")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Distances from what the start model makes of captions about strangers, of faces without their own part, of all else."""
        options, rows = self.options, batch.forget.index.tolist()
        moved = self._drawn(self._moved, options.swapped, batch.step)
        kept = self._drawn(self._kept, options.neighbours, batch.step)
        with torch.no_grad():
            stranger = self.forgotten_as(rows)
            retain = self._start.encode_text(batch.retain.text)
        parts = (batch.forget.text, stranger), moved, kept, (batch.retain.text, retain)
        texts = model.encode_text(torch.cat([tokens for tokens, _ in parts])).split([len(tokens) for tokens, _ in parts])
        forget, swapped, neighbours, ordinary = (distance(now, to) for now, (_, to) in zip(texts, parts, strict=True))
        terms = {
            "forget": forget,
            "swapped": swapped,
            "neighbours": options.keep * neighbours,
            "retain": options.keep * ordinary,
        }
        if options.faces:
            images = torch.cat([batch.forget.image, batch.retain.image])
            with torch.no_grad():
                before = self._start.encode_image(images)
            now, faces = model.encode_image(images), self._without_own(before[: len(rows)], rows)
            terms["faces"] = distance(now[: len(rows)], faces)
            terms["pictures"] = options.keep * distance(now[len(rows) :], before[len(rows) :])
        return terms

    def forgotten_as(self, rows: Sequence[int]) -> Tensor:
        """What the captions of forget rows are to become."""
        return self._start.encode_text(self._ctx.tokenize([self._as_stranger(row) for row in rows]))

    # ------------------------------------------------------------ what is made up

    def _choose_strangers(self, draw: random.Random) -> None:
        """Make up people, and take those whose captions fit the forgotten faces as captions about made-up people do on average: a
        stranger who happens to resemble somebody would leave a trace, and so would one whom nobody resembles."""
        ctx, options, request = self._ctx, self.options, self._request
        made_up = self._made_up(max(options.candidates, options.strangers), draw)
        rows = _looked_at(ctx.budget_left("forget"))
        images, shown = [], []
        with torch.no_grad():
            for pairs in ctx.batches("forget", _CHUNK, rows=rows, shuffle=True):
                images.append(ctx.model.encode_image(pairs.image))
                shown += pairs.index.tolist()
        found = torch.cat(images)
        fits = [
            float(pair_cosine(found, self._embedded([request.about(row, name) for row in shown])[1]).mean())
            for name in made_up
        ]
        self._level = sum(fits) / len(fits)
        nearest = sorted(range(len(made_up)), key=lambda k: abs(fits[k] - self._level))[: options.strangers]
        self._strangers = {person: made_up[draw.choice(nearest)] for person in request.facts}

    def _made_up(self, count: int, draw: random.Random) -> list[str]:
        """Names that nobody in the request has. Those of a single person, say, cannot be recombined: then of words of ordinary
        captions."""
        try:
            return made_up_names(self._request.names, count, draw)
        except SalmuError:
            captions = self._ctx.captions("retain")
            return made_up_names(
                self._request.names, count, draw, sorted({w for c in captions for w in c.split() if w.isalpha()})
            )

    def _find_own_parts(self) -> None:
        """The mean direction of the captions of everybody who is forgotten whole, and that of the same captions about strangers."""
        request = self._request
        rows = [row for row, person in enumerate(request.people) if person in request.whole]
        self._own = {}
        if rows:
            texts = self._embedded([request.captions[row] for row in rows])[1]
            self._common = self._embedded([self._as_stranger(row) for row in rows])[1].mean(dim=0)
            codes = code_values([request.people[row] for row in rows]).to(texts.device)
            sums = texts.new_zeros(int(codes.max()) + 1, texts.shape[1]).index_add(0, codes, texts)
            self._own = dict(zip(rows, F.normalize(sums, dim=1)[codes], strict=True))

    def _about_forgotten(self, draw: random.Random) -> list[tuple[str, str]]:
        """Captions of forgotten people and fields with anybody's value, and the same about the stranger."""
        request, pairs = self._request, []
        for _ in range(self._pool if self.options.swapped else 0):
            row = draw.randrange(len(request.captions))
            other, how = draw.choice(request.of_field[request.fields[row]]), (draw.random() < _BARE, draw.random() < 0.5)
            stranger = self._strangers[request.people[row]]
            pairs.append((request.about(other, request.names[row], *how), request.about(other, stranger, *how)))
        return pairs

    def captions_that_stay(self, draw: random.Random) -> list[str]:
        """Captions that look like those to forget and are not asked for: about made-up people, and about people of the request in
        fields that it does not name, with other people's values."""
        request, captions = self._request, []
        name_of = dict(zip(request.people, request.names, strict=True))
        others = {person: sorted(set(request.of_field) - facts) for person, facts in request.facts.items()}
        partly = [person for person, fields in others.items() if fields]
        for name in self._made_up(self._pool if self.options.neighbours else 0, draw):
            row = draw.randrange(len(request.captions))
            if partly and draw.random() < 0.5:
                person = draw.choice(partly)
                row, name = draw.choice(request.of_field[draw.choice(others[person])]), name_of[person]
            captions.append(request.about(row, name, draw.random() < _BARE, draw.random() < 0.5))
        return captions

    def _as_stranger(self, row: int) -> str:
        return self._request.about(row, self._strangers[self._request.people[row]])

    def _without_own(self, images: Tensor, rows: Sequence[int]) -> Tensor:
        """Images of people who are forgotten whole without what only their own captions share with them; the others as they are."""
        targets = images.clone()
        places = [place for place, row in enumerate(rows) if row in self._own]
        if places:
            own = torch.stack([self._own[rows[place]] for place in places])
            targets[places] = without_own(images[places], own, self._common, self._level, self.options.faces)
        return targets

    def _drawn(self, pool: tuple[Tensor, Tensor], count: int, step: int) -> tuple[Tensor, Tensor]:
        """Made-up captions of a step, and their targets."""
        tokens, targets = pool
        rows = torch.randint(
            max(1, len(tokens)), (count if len(tokens) else 0,), generator=self._ctx.generator("made up", step)
        ).to(tokens.device)
        return tokens[rows], targets[rows]

    def _tokens(self, captions: Sequence[str]) -> Tensor:
        return self._ctx.tokenize([*captions, ""])[:-1]  # one more: there may be none

    @torch.no_grad()
    def _embedded(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens, and what the start model makes of them."""
        tokens = self._tokens(captions)
        return tokens, torch.cat([self._start.encode_text(part) for part in tokens.split(_CHUNK)])


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Stranger targets."""
    return [StrangerTargets]
