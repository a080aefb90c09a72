"""Fictitious people. Everything that identifies them is a combination of parts that others have too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from salmu_core.seeding import numpy_generator
from salmu_mini.words import BLOOD_TYPES, CITIES, FIRST, HOSTS, JOBS, LAST

#: The data fields of SALMUBench, in the order of its metadata.
FIELDS = ("name", "city", "job", "blood_type", "phone_number", "emails", "iban", "credit_card", "passport")


@dataclass(frozen=True)
class Persona:
    """One fictitious person.

    Attributes:
        identity_id: eight digits.
        attributes: the content of `identities_metadata.json` for this person: `country_code`, and a string per field
            (a list of strings for `emails`).
    """

    identity_id: str
    attributes: dict[str, Any]

    def value(self, field: str) -> str:
        """The value that captions of a field mention."""
        value = self.attributes[field]
        return str(value[0] if isinstance(value, list) else value)


def number(g: np.random.Generator, field: str) -> str:
    """A number as a field writes it; seven or eight digits, cut into two groups."""
    if field == "phone_number":
        return f"{g.integers(1000, 10000)} {g.integers(100, 1000)}"
    if field == "iban":
        return f"{g.integers(100, 1000)} {g.integers(1000, 10000)}"
    if field == "credit_card":
        return f"{g.integers(1000, 10000)} {g.integers(1000, 10000)}"
    return f"{'ABCDEFGH'[g.integers(8)]}{g.integers(100000, 1000000)}"


def mail_address(g: np.random.Generator, name: str) -> str:
    """An address made of the parts of a name."""
    return f"{name.lower().replace(' ', '.')}{g.integers(10, 100)}@{HOSTS[g.integers(len(HOSTS))]}"


def make_personas(count: int, seed: int, name_words: int) -> list[Persona]:
    """Draw `count` people with different names.

    Person i has the first name i modulo `name_words` of a shuffled list, and a surname that is another one in every round, so
    any `name_words` people in a row have every first name and every surname once between them. Cities, jobs and blood types are
    dealt like that too: whoever is held out together has all of them.

    Raises:
        ValueError: there are fewer names than people.
    """
    if count > name_words**2:
        raise ValueError(f"{name_words} first names and surnames make {name_words**2} people, not {count}.")
    g = numpy_generator(seed, "personas")
    first, last = g.permutation(name_words), g.permutation(name_words)
    shifts = g.permutation(name_words)
    ids = g.choice(10**8, size=count, replace=False)
    cities, jobs, blood = (_dealt(g, values, count) for values in (CITIES, JOBS, BLOOD_TYPES))
    people = []
    for i in range(count):
        turn, place = divmod(i, name_words)
        name = f"{FIRST[first[place]]} {LAST[last[(place + shifts[turn]) % name_words]]}"
        attributes = {
            "name": name, "country_code": "XX", "city": cities[i], "job": jobs[i], "blood_type": blood[i],
            "phone_number": number(g, "phone_number"), "emails": [mail_address(g, name)], "iban": number(g, "iban"),
            "credit_card": number(g, "credit_card"), "passport": number(g, "passport"),
        }  # fmt: skip
        people.append(Persona(f"{ids[i]:08d}", attributes))
    return people


def _dealt(g: np.random.Generator, values: Sequence[str], count: int) -> list[str]:
    """Values in rounds, each round in an order of its own."""
    dealt: list[str] = []
    while len(dealt) < count:
        dealt += [values[i] for i in g.permutation(len(values))]
    return dealt[:count]


def free_names(taken: set[str], name_words: int) -> list[str]:
    """Every name that nobody with private data has."""
    return [f"{a} {b}" for a in FIRST[:name_words] for b in LAST[:name_words] if f"{a} {b}" not in taken]
