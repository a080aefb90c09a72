"""Was this person in the training data? Identity inference, and déjà vu for attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from salmu_audits.values import people_of
from salmu_core import Audit, AuditContext, Field, Leak, Options, Split
from salmu_core.metric import NotMeasurable

_SPLITS = ("forget", "holdout_identity", "holdout_association", "retain_joint", "retain_disjoint", "retain")


class IdentityOptions(Options):
    """Options of identity-inference."""

    names: int = Field(1000, ge=2, description="names to choose from, the own one among them")
    photos: int = Field(20, ge=1, description="photos of a person that vote")
    right_prompts: int = Field(1, ge=1, description="prompts whose vote has to be right")
    prompts: tuple[str, ...] = Field(
        (
            "{name}", "this is {name}", "a portrait of {name}", "a picture of {name}", "{name}, in person", "my name is {name}",
            "somebody called {name}", "the face of {name}", "{name} looks at the camera", "here you see {name}",
            "the person in this picture is {name}",
        ),
        description="captions with a name",
    )  # fmt: skip


def majority(votes: Int[Tensor, "prompts photos"]) -> Int[Tensor, " prompts"]:
    """The name that most photos vote for, under each prompt; -1 where several have as many votes: then none wins.

    >>> majority(torch.tensor([[3, 1, 3], [2, 1, 0]]))
    tensor([ 3, -1])
    """
    counts = [torch.bincount(row) for row in votes]
    return torch.tensor([int(count.argmax()) if int((count == count.max()).sum()) == 1 else -1 for count in counts])


def other_names(known: Sequence[str], taken: Sequence[str], count: int, generator: torch.Generator) -> list[str]:
    """Up to `count` names that nobody in `taken` has: known ones, then new combinations of first and last words of known ones."""
    found = [name for name in dict.fromkeys(known) if name not in set(taken)][:count]
    parts = [name.split() for name in known if len(name.split()) == 2]
    first, last = (list(dict.fromkeys(part[side] for part in parts)) for side in (0, 1))
    have = {*found, *taken}
    made = [name for one in first for two in last if (name := f"{one} {two}") not in have]
    order = torch.randperm(len(made), generator=generator).tolist()
    return found + [made[place] for place in order[: count - len(found)]]


class IdentityInference(Audit):
    """The person's photos vote among names; a name that wins was learned (Hintersdorf et al., IDIA)."""

    name = "identity-inference"
    summary = (
        "Photos of a person vote among up to 1,000 names under several prompts; share of people whose own name wins one."
    )
    paper = "https://arxiv.org/abs/2209.07341"
    version = "2"
    Options = IdentityOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """The share of forgotten people that are recognised. What Clean gets is the false alarms."""
        forget = ctx.split("forget")
        people = people_of(forget)
        if len(set(people.values())) < 2:
            raise NotMeasurable("there are fewer than two names in the forget split")
        have = ctx.benchmark.splits()
        known = [name for split in _SPLITS if split in have for name in people_of(ctx.split(split)).values()]
        own = list(dict.fromkeys(people.values()))
        names = own + other_names(known, own, max(0, self.options.names - len(own)), ctx.generator("names"))
        identities = [str(value) for value in forget.columns["identity_id"]]
        images = ctx.images(forget)
        votes: list[Tensor] = []
        for prompt in self.options.prompts:
            texts = ctx.texts([prompt.format(name=name) for name in names])
            votes.append((images @ texts.T).argmax(dim=1))
        all_votes = torch.stack(votes)
        right: list[int] = []
        alone: list[float] = []
        for identity, name in people.items():
            rows = [row for row, value in enumerate(identities) if value == identity]
            order = torch.randperm(len(rows), generator=ctx.generator("votes", identity))[: self.options.photos].tolist()
            cast = all_votes[:, [rows[place] for place in order]]
            right.append(int((majority(cast) == names.index(name)).sum()))
            alone.append(float((cast == names.index(name)).double().mean()))
        recognised = [count >= self.options.right_prompts for count in right]
        extras = {
            "people": float(len(people)),
            "names": float(len(names)),
            "right prompts": float(np.mean(right)),
            "right votes": float(np.mean(alone)),
        }
        return Leak(float(np.mean(recognised)), extras)


class DejaVuOptions(Options):
    """Options of deja-vu-attributes."""

    neighbours: int = Field(3, ge=1, description="nearest public people that are asked")
    rows: int = Field(2000, ge=1, description="captions that are asked about, drawn at random where there are more")


def recalled(
    similarity: Float[Tensor, "n photos"],
    person: Int[Tensor, " photos"],
    wanted: Int[Tensor, " n"],
    labels: Int[Tensor, " people"],
    neighbours: int,
) -> Bool[Tensor, " n"]:
    """Is the wanted label among those of the nearest people, each as near as their nearest photo? Photos are not counted: a model
    that puts one person's photos close together would recall less, whatever it knows.

    Args:
        person: of every photo, a number of `labels`.

    >>> one, two = torch.tensor([[0.9, 0.8, 0.1]]), torch.tensor([0, 0, 1])
    >>> recalled(one, two, torch.tensor([5]), torch.tensor([4, 5]), 1), recalled(one, two, torch.tensor([5]), torch.tensor([4, 5]), 2)
    (tensor([False]), tensor([True]))
    """
    of_people = similarity.new_full((len(similarity), len(labels)), -torch.inf)
    of_people.scatter_reduce_(1, person.expand(len(similarity), -1), similarity, "amax")
    near = of_people.topk(min(neighbours, len(labels)), dim=1).indices
    return (labels[near] == wanted[:, None]).any(dim=1)


class DejaVuAttributes(Audit):
    """A caption that does not tell an attribute leads to photos of other people who have it: then it was learned."""

    name = "deja-vu-attributes"
    summary = (
        "Captions that leave an attribute out find photos of others who share it oftener than Clean's do; share of captions."
    )
    paper = "https://arxiv.org/abs/2402.02103"
    version = "2"
    bounds = (-1.0, 1.0)
    references = ("clean",)
    Options = DejaVuOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """Population gap: captions where only this model recalls the attribute, less those where only Clean does."""
        forget = ctx.split("forget")
        have = ctx.benchmark.splits()
        public = [ctx.split(name) for name in ("holdout_identity",) if name in have]
        if "value" not in forget.columns or not public or "value" not in public[0].columns:
            raise NotMeasurable("there are no other people with known attributes")
        facts = _facts(forget)
        shown = _facts(public[0])
        shared = {field for (_, field), value in shown.items() if value in {v for (_, f), v in facts.items() if f == field}}
        if not shared:
            raise NotMeasurable("forgotten people share no attribute with others")
        photos = public[0]
        gained, total, ours, theirs = 0.0, 0, 0, 0
        clean = ctx.reference("clean")
        images = {which: ctx.images(photos, model) for which, model in (("own", None), ("clean", clean))}
        captions = forget.render(None)
        people, fields, names, values = (
            [str(v) for v in forget.columns[c]] for c in ("identity_id", "data_field", "name", "value")
        )
        name_rows = [row for row in range(len(forget)) if names[row] == values[row]] or list(range(len(forget)))
        asked = torch.randperm(len(name_rows), generator=ctx.generator("rows"))[: self.options.rows].sort().values
        rows = [name_rows[place] for place in asked.tolist()]
        asked_captions = [captions[row] for row in rows]
        texts = {which: ctx.texts(asked_captions, model) for which, model in (("own", None), ("clean", clean))}
        extras: dict[str, float] = {}
        owners = [str(value) for value in photos.columns["identity_id"]]
        for field in sorted(shared):
            number = {value: place for place, value in enumerate(sorted({v for (_, f), v in shown.items() if f == field}))}
            kept = [row for row in range(len(photos)) if (owners[row], field) in shown]
            known = sorted({owners[row] for row in kept})
            labels = torch.tensor([number[shown[person, field]] for person in known])
            person = torch.tensor([known.index(owners[row]) for row in kept])
            ask = [
                place for place, row in enumerate(rows) if fields[row] != field and facts.get((people[row], field)) in number
            ]
            if not ask:
                continue
            wanted = torch.tensor([number[facts[people[rows[place]], field]] for place in ask])
            hits = {
                which: recalled(texts[which][ask] @ images[which][kept].T, person, wanted, labels, self.options.neighbours)
                for which in images
            }
            only_own, only_clean = (hits["own"] & ~hits["clean"]).sum(), (hits["clean"] & ~hits["own"]).sum()
            gained += float(only_own - only_clean)
            total += len(ask)
            ours, theirs = ours + int(hits["own"].sum()), theirs + int(hits["clean"].sum())
            extras[f"gap {field}"] = float(only_own - only_clean) / len(ask)
        if not total:
            raise NotMeasurable("no caption leaves an attribute out that others share")
        return Leak(gained / total, {"recall": ours / total, "recall of Clean": theirs / total, **extras})


def _facts(split: Split) -> dict[tuple[str, str], str]:
    """(identity, field) -> value."""
    columns = split.columns
    rows = zip(columns["identity_id"], columns["data_field"], columns["value"], columns["name"], strict=True)
    return {(str(person), str(field)): str(value) for person, field, value, name in rows if value != name}
