"""`mini` with other requests: one association, one person, nine tenths of all, and captions that are longer.

The models and the pictures are mini's own. What is not asked for becomes a holdout, so the same metrics say what was lost.

`mini-shared` has a pair of its own: people who are forgotten in part have one number twice, once to be forgotten and once to stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from salmu_core import Field, Split, hookimpl
from salmu_core.benchmark import Benchmark, SplitInfo
from salmu_core.data import join_splits
from salmu_mini.benchmark import Mini, MiniOptions
from salmu_mini.generate import fields_asked, generate
from salmu_mini.personas import Persona, make_personas
from salmu_mini.sizes import SIZES, Size
from salmubench.tables import Tables

_PARTS = ("forget", "holdout_identity", "holdout_association")
_MADE = (*_PARTS, "forget_identity")
LONGER = ", as it was written down at the desk of the second floor on a rainy afternoon in early spring"


class AskedOptions(MiniOptions):
    """Options of `mini-asked`."""

    request: Literal["association", "identity", "ninety", "longer"] = Field(
        "association",
        description="one association of one person; everything about one person; everything about nine tenths of all people;"
        " mini's own request, all captions longer",
    )


class Asked(Mini):
    """Another request to the models of mini."""

    name = "mini-asked"
    version = "1"
    summary = "mini with another request: one association, one person, nine tenths, or longer captions."
    Options = AskedOptions

    @cached_property
    def _made(self) -> dict[str, Split]:
        parts = [super(Asked, self).load_split(name) for name in _PARTS]
        every = join_splits("sensitive", parts)
        people = np.array([str(person) for person in every.columns["identity_id"]])
        fields = np.array([str(field) for field in every.columns["data_field"]])
        order = sorted(set(people))
        if self.options.request == "longer":
            asked = np.arange(len(every)) < len(parts[0])
            every = Split(every.name, every.images, [text + LONGER for text in every.texts or ()], every.columns)
        elif self.options.request == "ninety":
            asked = np.isin(people, order[: round(0.9 * len(order))])
        else:
            asked = people == order[0]
            if self.options.request == "association":
                asked &= fields == "phone_number"
        known = np.isin(people, people[asked])
        whole = asked & ~np.isin(people, people[known & ~asked])
        rows = {
            "forget": asked,
            "holdout_association": known & ~asked,
            "holdout_identity": ~known,
            "forget_identity": whole,
        }
        return {name: every.take(np.flatnonzero(mask).tolist(), name) for name, mask in rows.items()}

    def splits(self) -> Mapping[str, SplitInfo]:
        made = self._made if self.ready() else {}
        return {name: info for name, info in super().splits().items() if name not in made or len(made[name])}

    def load_split(self, name: str) -> Split:
        return self._made[name] if name in _MADE else super().load_split(name)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-{self.options.request}"

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return {}


_NUMBERS = ("phone_number", "iban", "credit_card", "passport")


def sharing(people: list[Persona], size: Size) -> list[Persona]:
    """The same people, but that one number of everybody who is forgotten in part, which is to stay, is another one of theirs, which
    is to be forgotten; where they have both."""
    made = list(people)
    for number in range(size.forget_association):
        person, asked = people[size.forget_identity + number], fields_asked(number, size)
        forgotten = [field for field in _NUMBERS if field in asked]
        kept = [field for field in _NUMBERS if field not in asked]
        if forgotten and kept:
            changed = {**person.attributes, kept[0]: person.value(forgotten[0])}
            made[size.forget_identity + number] = replace(person, attributes=changed)
    return made


class Shared(Mini):
    """Two associations of a person share a value, one of which is to be forgotten."""

    name = "mini-shared"
    version = "1"
    summary = (
        "mini whose partly forgotten people have one number twice; holdout_association holds what must stay of these alone."
    )

    @property
    def folder(self) -> Path:
        return super().folder.with_name(f"shared-{super().folder.name}")

    def _tables(self, tell: Callable[[int, int], None]) -> Tables:
        size = SIZES[self.options.size]
        people = sharing(make_personas(size.identities, self.options.seed), size)
        return generate(size, self.options.seed, tell, people)

    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        if name != "holdout_association":
            return split
        forget = super().load_split("forget")
        twice = set(zip(forget.columns["identity_id"], forget.columns["value"], strict=True))
        owned = zip(split.columns["identity_id"], split.columns["value"], strict=True)
        return split.take([row for row, fact in enumerate(owned) if fact in twice], name)

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        return {}


class AskedPlugin:
    """Registers the benchmarks for as long as an experiment runs."""

    @hookimpl
    def register_benchmarks(self) -> list[type[Benchmark]]:
        """`mini-asked` and `mini-shared`."""
        return [Asked, Shared]
