"""Asking for a value among the values of its field: no training, no map, no wording of the benchmark needed."""

from __future__ import annotations

from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_audits.forget_embeddings import forget_images
from salmu_audits.measures import associations, reciprocal_ranks, standard_error
from salmu_core import Audit, AuditContext, Field, Leak, Options, Split
from salmu_core.metric import NotMeasurable


class ValueOptions(Options):
    """Options of both value probes."""

    candidates: int = Field(24, ge=2, description="values of a field to choose from, the own one among them")
    rows: int = Field(1500, ge=1, description="forget pairs that are asked about, drawn at random where there are more")


class Questions:
    """What is asked: rows, the candidate values of each, and which of them is its own.

    Attributes:
        rows: of the forget split that are asked about: some of those whose value is not the name itself.
        split: these rows.
        values: distinct values, all fields together.
        candidate: int [rows, candidates], numbers of `values`; -1 where a field has fewer.
        own: int [rows], place of the own value among the candidates.
        field: of every row.
    """

    def __init__(self, forget: Split, candidates: int, rows: int, generator: torch.Generator) -> None:
        if "name" not in forget.columns or "value" not in forget.columns:
            raise NotMeasurable("the forget split has no columns name and value")
        names, values, fields = (
            [str(value) for value in forget.columns[column]] for column in ("name", "value", "data_field")
        )
        of_field: dict[str, list[str]] = {}
        for name, value, field in zip(names, values, fields, strict=True):
            if value != name and value not in of_field.setdefault(field, []):
                of_field[field].append(value)
        asked = [row for row in range(len(forget)) if names[row] != values[row] and len(of_field[fields[row]]) > 1]
        if not asked:
            raise NotMeasurable("no field has two values to choose from")
        order = torch.randperm(len(asked), generator=generator)[:rows].sort().values.tolist()
        asked = [asked[place] for place in order]
        self.rows = asked
        self.split = forget.take(asked, "asked")
        self.field = [fields[row] for row in asked]
        self.values = list(dict.fromkeys(value for known in of_field.values() for value in known))
        number = {value: place for place, value in enumerate(self.values)}
        chosen: dict[tuple[str, str], list[int]] = {}
        for row in asked:  # the same rivals for all photos of one value
            key = (fields[row], values[row])
            if key not in chosen:
                rivals = [value for value in of_field[fields[row]] if value != values[row]]
                drawn = torch.randperm(len(rivals), generator=generator)[: candidates - 1].tolist()
                chosen[key] = [number[values[row]], *(number[rivals[place]] for place in drawn)]
        width = max(len(found) for found in chosen.values())
        padded = [[*(found := chosen[fields[row], values[row]]), *[-1] * (width - len(found))] for row in asked]
        self.candidate: Int[Tensor, "rows candidates"] = torch.tensor(padded)
        self.own: Int[Tensor, " rows"] = torch.zeros(len(asked), dtype=torch.long)

    def answer(self, similarity: Float[Tensor, "rows candidates"]) -> Leak:
        """How well the own value is found, as the most similar candidate or as the least similar one: what was pushed away can be told
        by that. The better way counts."""
        missing = self.candidate < 0
        ways = {
            "most similar": reciprocal_ranks(similarity.masked_fill(missing, -torch.inf), self.own),
            "least similar": reciprocal_ranks((-similarity).masked_fill(missing, -torch.inf), self.own),
        }
        best = max(ways, key=lambda way: float(ways[way].mean()))
        extras = {way: float(ranks.mean()) for way, ranks in ways.items()}
        extras["top-1"] = float((ways[best] == 1).double().mean())
        by_association: dict[tuple[str, str], list[float]] = {}
        for key, rank in zip(associations(self.split), ways[best].tolist(), strict=True):
            by_association.setdefault(key, []).append(rank)
        extras["standard error"] = standard_error([fmean(ranks) for ranks in by_association.values()])
        for field in sorted(set(self.field)):
            rows = [row for row, name in enumerate(self.field) if name == field]
            extras[f"top-1 {field}"] = float((ways[best][rows] == 1).double().mean())
        return Leak(extras[best], extras)


def questions(ctx: AuditContext, options: ValueOptions) -> Questions:
    """Drawn from the audit's seed: the same for every model."""
    return Questions(ctx.split("forget"), options.candidates, options.rows, ctx.generator("questions"))


class FaceValueProbe(Audit):
    """Whose number is this? The own face against the values of a field, without a name."""

    name = "value-probe-face"
    summary = (
        "A face is asked for its value among those of the field, no name said; reciprocal rank from the top or the bottom."
    )
    version = "2"
    quick = {}
    Options = ValueOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """Finds what was hidden by deleting names: the tie of face and value."""
        asked = questions(ctx, self.options)
        images, texts = forget_images(ctx, asked.rows), ctx.texts(asked.values)
        return asked.answer((images[:, None, :] * texts[asked.candidate]).sum(dim=2))


def with_value(caption: str, name: str, value: str, other: str) -> str:
    """A caption that tells another value: the own one replaced where it stands in it.

    >>> with_value("Ada lives in Rome.", "Ada", "Rome", "Oslo")
    'Ada lives in Oslo.'
    >>> with_value("Ada: IV", "Ada", "4", "5")
    'Ada 5'
    """
    return caption.replace(value, other) if value in caption else f"{name} {other}"


class NamedValueProbe(Audit):
    """Which number is hers? The own face against captions with the own name and candidate values."""

    name = "value-probe-name"
    summary = (
        "A face is asked for its value in its own captions with other values; reciprocal rank from the top or the bottom."
    )
    version = "2"
    quick = {"rows": 400, "candidates": 12}
    Options = ValueOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """Finds the value where the name still leads to the person."""
        asked = questions(ctx, self.options)
        columns = asked.split.columns
        captions = asked.split.render(None)
        number: dict[str, int] = {}
        place = torch.zeros_like(asked.candidate)
        for row, candidates in enumerate(asked.candidate.tolist()):
            name, value = str(columns["name"][row]), str(columns["value"][row])
            for column, candidate in enumerate(candidates):
                text = with_value(captions[row], name, value, asked.values[candidate]) if candidate >= 0 else captions[row]
                place[row, column] = number.setdefault(text, len(number))
        images, texts = forget_images(ctx, asked.rows), ctx.texts(list(number))
        return asked.answer((images[:, None, :] * texts[place]).sum(dim=2))


def people_of(split: Split) -> dict[str, str]:
    """Identity -> name, in order of first appearance."""
    found: dict[str, str] = {}
    if "name" in split.columns:
        for identity, name in zip(split.columns["identity_id"], split.columns["name"], strict=True):
            if identity is not None and name is not None:
                found.setdefault(str(identity), str(name))
    return found
