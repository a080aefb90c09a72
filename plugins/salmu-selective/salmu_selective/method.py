"""Teach the text encoder that it has never heard of the forgotten facts, and hold it to everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    Pairs,
    SalmuError,
    UnlearnContext,
    UnlearningMethod,
)
from salmu_selective.captions import Captions, known_from
from salmu_selective.vocabulary import assign_tokens, embedding_of, only_rows
from salmu_selective.wordings import Draw, Tokens, bare, characters, facts_of, packed

_PARTS = 4  # of a step's captions, by length
COLUMNS = ("identity_id", "data_field", "name", "value")


def direction_loss(found: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """`mean_i (1 - u_i · v_i)` of unit-length rows: how far captions are from where they should be, from 0 to 2."""
    return (1 - (found * target).sum(dim=1)).mean()


def face_loss(
    found: Float[Tensor, "n dim"], target: Float[Tensor, "n dim"], faces: Float[Tensor, "n dim"]
) -> Float[Tensor, ""]:
    """`mean_i (u_i · f_i - v_i · f_i)²`: how far captions are from where they should be, seen from the face. What all metrics of
    the association look at is this one direction, and it is a small part of the distance. A row of zeros counts as none."""
    return ((found - target) * faces).sum(dim=1).square().mean()


def batch_and_steps(samples: int, batch: int, least: int) -> tuple[int, int]:
    """A batch of at most `batch` rows with which `samples` are at least `least` steps, or as many as there can be; and the steps."""
    batch = max(1, min(batch, samples // least))
    return batch, samples // batch


class SelectiveOptions(FitOptions):
    """Options of selective."""

    lr: float = Field(6e-3, gt=0, le=1, description="peak learning rate of the text encoder")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with rising learning rate")
    tower: Literal["text"] = Field("text", description="the text encoder is what is trained")
    steps: int = Field(500, ge=1, description="batches are smaller where there would be fewer steps than this")
    rate_steps: int = Field(
        1000, ge=1, description="the learning rate is lower in proportion where there are fewer steps than this"
    )
    batch_size: int = Field(32, ge=1, description="global batch size per role; less where a request is small")
    others: int = Field(6, ge=1, le=16, description="captions that must not move, for each forget caption of a full batch")
    keep: float = Field(3.0, ge=0, description="weight of the captions that must not move")
    face: float = Field(
        7.0, ge=0, description="weight of the direction of the face, for forget captions; 0: no image is read"
    )
    keep_face: float = Field(6.0, ge=0, description="the same for the captions that must not move")
    reworded: float = Field(0.4, ge=0, le=1, description="share of forget captions said in other wordings or bare")
    partly: float = Field(
        0.6, ge=0, le=1, description="share of forget captions given to people of whom something is to stay"
    )
    mixed: float = Field(
        0.12, ge=0, le=1, description="share of other people's names and values with a forgotten token among them"
    )
    twins: Literal["same", "anew"] = Field(
        "anew", description="the unknown tokens of a forgotten one: the same each time, or others"
    )
    doubles: bool = Field(True, description="other people are doubles; false: the forgotten ones' own names, at random")
    familiar: float = Field(
        0.7, ge=0, le=1, description="share of other people and values made of words that the model knows from elsewhere"
    )
    strangers: int = Field(2000, ge=0, description="random embeddings for names of yet other people; 0: doubles alone")
    embeddings: Literal["own", "all"] = Field("all", description="token embeddings that are trained: of owned tokens and of names"
                                              " of people forgotten in part; or all of them")  # fmt: skip


class Selective(UnlearningMethod):
    """Move captions of forgotten facts to where the same words about unknown people and values are; hold all others."""

    name = "selective"
    summary = "Send captions of forgotten facts where captions about unknown people are, and hold all others (text encoder)."
    family = "distillation"
    data = ("forget", "retain")
    search = {"lr": Between(3e-4, 1e-2), "keep": Between(0.5, 10), "mixed": Between(0.0, 0.5, log=False)}
    Options = SelectiveOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Read the facts, lend unused tokens embeddings, fit the text encoder, and take them back.

        Raises:
            SalmuError: the forget split has no metadata, or the text encoder has no token embedding of open_clip's kind.
        """
        self._read(ctx)
        table = embedding_of(ctx.model)
        lent = torch.tensor(self._vocabulary.lent, dtype=torch.long, device=table.device)
        before = table[lent].detach().clone()
        with torch.no_grad():
            embeddings = self._vocabulary.lend(table, ctx.generator("strangers")) if len(lent) else before
            for weight in (table, embedding_of(self._teacher)):
                weight[lent] = embeddings
        text = ctx.parameters("text")
        name = next(name for name, parameter in text.items() if parameter is table)
        ctx.fit(
            self.loss,
            self._fitted(ctx),
            params=text.values(),
            splits=("forget",),
            # What is lent never moves: what moves must be what real people share with doubles, not the doubles themselves.
            on_gradients=only_rows(name, self._movable(len(table))),
        )
        with torch.no_grad():  # doubles carry what is to be forgotten
            table[lent] = before

    def _fitted(self, ctx: UnlearnContext) -> SelectiveOptions:
        """The options as a request of this size needs them: what must not move is held at every step, so many small steps lose
        less of it than few large ones."""
        options, rows, left = self.options, ctx.rows("forget"), ctx.budget_left("forget")
        if options.epochs is None and left is None:  # the loop will say what is missing
            return options
        samples = int(left if options.epochs is None else options.epochs * rows)
        batch, steps = batch_and_steps(samples, min(options.batch_size, rows), options.steps)
        changed = {
            "batch_size": batch,
            "accumulate": 1 if batch % options.accumulate else options.accumulate,
            "lr": options.lr * min(1.0, steps / options.rate_steps),
        }
        return options.model_copy(update=changed)

    def _movable(self, vocabulary: int) -> list[int]:
        """Tokens whose embeddings are trained."""
        if self.options.embeddings == "all":
            return sorted(set(range(vocabulary)) - set(self._vocabulary.lent))
        # That something of a person is to be forgotten and the rest is not has to be written somewhere: in the name.
        names = {t for fact in self._known.partly for t in fact.name}
        return sorted(names | set(self._vocabulary.owned))

    def _read(self, ctx: UnlearnContext) -> None:
        """Facts, people, faces, and tokens in the place of others."""
        missing = [column for column in COLUMNS if column not in ctx.columns("forget")]
        if missing:
            raise SalmuError(f"selective needs the column '{missing[0]}' of the forget split, which has none.")
        tokenize = ctx.model.processor.tokenize
        sample = tokenize(["a"])[0]
        self._start, self._end, self._context = int(sample[0]), int(sample.max()), len(sample)
        self._generator: Callable[..., torch.Generator] = ctx.generator
        self._teacher = ctx.frozen_copy()
        facts = facts_of(ctx.captions("forget"), ctx.columns("forget"), tokenize)
        self._known = known_from(facts, bare(tokenize(list(dict.fromkeys(ctx.captions("retain"))))))
        elsewhere = {t for fact in facts for part in fact.wording.parts for t in part}
        elsewhere |= {t for caption in self._known.retain for t in caption}
        elsewhere |= characters([str(v) for column in ("name", "value") for v in ctx.columns("forget")[column]], tokenize)
        self._vocabulary = assign_tokens(
            facts,
            elsewhere,
            self._known.whole,
            embedding_of(ctx.model),
            doubles=self.options.doubles,
            strangers=self.options.strangers,
            generator=ctx.generator("stand-ins"),
        )
        options = self.options
        self._captions = Captions(
            self._known,
            self._vocabulary,
            reworded=options.reworded,
            partly=options.partly,
            mixed=options.mixed,
            familiar=options.familiar,
            anew=options.twins == "anew",
        )
        self._number: dict[str | None, int] = {person: row for row, person in enumerate(sorted(self._known.staying))}
        self._faces = self._mean_faces(ctx) if options.face or options.keep_face else None
        vocabulary = self._vocabulary
        ctx.log(tokens=len(vocabulary.stand_in), owned=len(vocabulary.owned), familiar=len(vocabulary.familiar))
        ctx.log(whole=len(self._known.whole))

    def _mean_faces(self, ctx: UnlearnContext) -> Float[Tensor, "rows dim"]:
        """Direction of the mean image embedding of each person, and a row of zeros for nobody in particular."""
        people = torch.tensor([self._number[fact.person] for fact in self._known.facts])

        def measure(pairs: Pairs) -> dict[str, Tensor]:
            images = ctx.model.encode_image(pairs.image).float()
            sums = torch.zeros(len(self._number) + 1, images.shape[1], device=images.device)
            return {"faces": sums.index_add(0, people[pairs.index.cpu()].to(images.device), images)}

        return torch.nn.functional.normalize(ctx.accumulate(measure, "forget")["faces"], dim=1)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """Forgotten captions against their twins, other captions against themselves, all as the frozen model has them."""
        rows = batch.forget.index.tolist()
        draw = Draw(self._generator("captions", batch.step, *rows))
        facts = [self._captions.fact(row, draw) for row in rows]
        pairs = [self._captions.forgotten(fact, draw) for fact in facts]
        # A request of few rows makes small batches; what must not move is as much as ever.
        least = self.options.others * max(len(facts), self.options.batch_size)
        held = [self._captions.held(facts[number % len(facts)], draw) for number in range(least)]
        with torch.no_grad():
            twins = [twin for _, twin in pairs]
            target = self._encoded(self._teacher, [*twins, *(said for said, _ in held)])
        found = self._encoded(model, [said for said, _ in (*pairs, *held)])
        count, options = len(pairs), self.options
        terms = {
            "forget": direction_loss(found[:count], target[:count]),
            "keep": options.keep * direction_loss(found[count:], target[count:]),
        }
        if self._faces is not None:
            nobody = len(self._number)
            about = [*(fact.person for fact in facts), *(person for _, person in held)]
            faces = self._faces[[self._number.get(person, nobody) for person in about]]
            terms["face"] = options.face * face_loss(found[:count], target[:count], faces[:count])
            terms["keep face"] = options.keep_face * face_loss(found[count:], target[count:], faces[count:])
        return terms

    def _encoded(self, model: DualEncoder, sequences: Sequence[Tokens]) -> Float[Tensor, "n dim"]:
        """Captions of like length together: half of all would be padding next to the longest one."""
        order = torch.tensor(sorted(range(len(sequences)), key=lambda row: len(sequences[row])))
        parts = [self.packed([sequences[row] for row in part]) for part in order.tensor_split(_PARTS) if len(part)]
        return torch.cat([model.encode_text(part.to(model.device)) for part in parts])[order.argsort().to(model.device)]

    def packed(self, sequences: Sequence[Tokens]) -> Int[Tensor, "n context"]:
        """Token ids as the encoder takes them."""
        return packed(sequences, self._start, self._end, self._context)
