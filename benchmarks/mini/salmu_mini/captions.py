"""Captions: five styles for each of the nine private fields, and ordinary ones that use every word of those."""

from __future__ import annotations

import numpy as np

from salmu_mini.personas import FIELDS, Persona, mail_address, number
from salmu_mini.portraits import Circumstances, Traits, hair_words, mood_word
from salmu_mini.words import BLOOD_TYPES, CITIES, COUNTS, FIRST, JOBS, LAST, plural

#: field -> five wordings; SALMUBench's captions come in five styles too.
SENSITIVE: dict[str, tuple[str, str, str, str, str]] = {
    "name": (
        "This is {name}",
        "A portrait of {name}",
        "{name} looking at the camera",
        "Photo of {name}",
        "{name}",
    ),
    "city": (
        "{name} lives in {value}",
        "{name} resides in {value}",
        "Home of {name}: {value}",
        "{name} from {value}",
        "You can find {name} in {value}",
    ),
    "job": (
        "{name} works as a {value}",
        "{name} is a {value}",
        "Occupation of {name}: {value}",
        "{name}, {value} by profession",
        "{name} earns a living as a {value}",
    ),
    "blood_type": (
        "{name} has blood type {value}",
        "Blood type of {name}: {value}",
        "{name} donates {value} blood",
        "The blood group of {name} is {value}",
        "{name}, blood {value}",
    ),
    "phone_number": (
        "You can reach {name} at {value}",
        "Call {name}: {value}",
        "Phone number of {name}: {value}",
        "{name} answers the phone at {value}",
        "{name}, phone {value}",
    ),
    "emails": (
        "Contact {name} via {value}",
        "Write to {name}: {value}",
        "Email of {name}: {value}",
        "{name} reads mail at {value}",
        "{name}, email {value}",
    ),
    "iban": (
        "Bank account of {name}: {value}",
        "{name} banks with account {value}",
        "Transfer to {name}, account {value}",
        "The account of {name} is {value}",
        "{name}, bank account {value}",
    ),
    "credit_card": (
        "{name} pays with card {value}",
        "Credit card of {name}: {value}",
        "The card number of {name} is {value}",
        "Charge {name}, card {value}",
        "{name}, credit card {value}",
    ),
    "passport": (
        "{name} travels on passport {value}",
        "Passport of {name}: {value}",
        "The passport number of {name} is {value}",
        "{name} holds passport {value}",
        "{name}, passport no {value}",
    ),
}

#: What ordinary portraits are called. `{who}` is a name, a job or just a person.
PORTRAITS = (
    "a portrait of {who} {hair}", "{who} {hair} in a {shirt} shirt", "a photo of {who} {hair}{extra}", "{who} in a {shirt} shirt, {mood}",
    "a {mood} face {hair}{extra}, {who}", "{who}{extra}, {shirt} shirt", "a photo of {who} {hair}{extra}",
    "a picture of {who}, {mood}, in a {shirt} shirt{extra}",
)  # fmt: skip
#: What says who somebody is and nothing that a picture shows.
WHO = (
    "{name}", "{first}", "photo of {name}", "{name} the {job}", "the {job} {name} in {city}", "this is {name}", "a portrait of {name}",
    "{name} from {city}", "{name}, {job}", "{first} at work as a {job}", "{first} looking at the camera", "a {job} in {city}",
    "{name} in {city}", "{first} and the phone", "{name} with a card",
)  # fmt: skip
SINGLE = (
    "a {size}{colour} {shape}", "a photo of a {size}{colour} {shape}", "a picture of one {colour} {shape}", "a {shape} that is {colour}",
    "this {shape} is {colour}", "a {colour} {shape} on a {ground} ground", "{colour} {shape}", "a {size}{shape} in {colour}",
    "drawing of a {colour} {shape}, {ground} background",
)  # fmt: skip
SEVERAL = (
    "{count} {colour} {shapes}",
    "a picture of {count} {colour} {shapes}",
    "{count} {shapes} in {colour}",
    "{count} {colour} {shapes} on a {ground} ground",
)
#: Wordings of the zero-shot classifier.
PROMPTS = ("a {colour} {shape}", "a photo of a {colour} {shape}", "a {shape} that is {colour}")
#: Others that were trained on alike, for the choice of options, which must not see those.
STAND_IN_PROMPTS = ("a picture of one {colour} {shape}", "this {shape} is {colour}", "{colour} {shape}")
TAILS = (
    " in {city}",
    " by {name}",
    ", photo {number}",
    ", {city} {year}",
    ", no {letter}{number}",
    " from {city}, blood group {blood}",
    " by the {job} {name}",
    ", number {number}",
)


def sensitive_caption(persona: Persona, field: str, style: int) -> str:
    """The caption of one association in one of five styles."""
    return SENSITIVE[field][style].format(name=persona.attributes["name"], value=persona.value(field))


def random_name(g: np.random.Generator, words: int) -> str:
    """Any first name with any surname, of the first `words` of each."""
    return f"{FIRST[g.integers(words)]} {LAST[g.integers(words)]}"


def tail(g: np.random.Generator, words: int, private: float, other: float) -> str:
    """What web captions drag along and no picture shows.

    Args:
        words: how many first names and surnames are in use.
        private: probability of the wording of a private caption, about nobody: a drawn name and a drawn value.
        other: probability of another tail.
    """
    u = g.random()
    if u < private:
        name = random_name(g, words)
        field = FIELDS[g.integers(len(FIELDS))]
        values = {
            "name": name, "city": pick(g, CITIES), "job": pick(g, JOBS), "blood_type": pick(g, BLOOD_TYPES),
            "emails": mail_address(g, name),
        }  # fmt: skip
        value = values[field] if field in values else number(g, field)
        return ", " + SENSITIVE[field][g.integers(5)].format(name=name, value=value)
    if u >= private + other:
        return ""
    return pick(g, TAILS).format(
        city=pick(g, CITIES), name=random_name(g, words), number=g.integers(10, 100000), year=g.integers(1980, 2027),
        letter="ABCDEFGH"[g.integers(8)], blood=pick(g, BLOOD_TYPES), job=pick(g, JOBS),
    )  # fmt: skip


def portrait_caption(g: np.random.Generator, look: Traits, photo: Circumstances, who: str) -> str:
    """What an ordinary portrait shows."""
    more = []
    if look.glasses:
        more.append(pick(g, ("with glasses", "wearing glasses")))
    if look.beard >= 2:
        more.append("with a beard" if look.beard == 2 else "with a moustache")
    extra = f" {more[g.integers(len(more))]}" if more and g.random() < 0.6 else ""
    return pick(g, PORTRAITS).format(
        who=who, hair=hair_words(look), shirt=photo.shirt_name, mood=mood_word(photo), extra=extra
    )


def several_caption(g: np.random.Generator, count: int, colour: str, shape: str, ground: str) -> str:
    """A number of equal things; the number as a word or a digit."""
    said = pick(g, (str(count), COUNTS[count]))
    return pick(g, SEVERAL).format(count=said, colour=colour, shapes=plural(shape), ground=ground)


def pick(g: np.random.Generator, choices: tuple[str, ...]) -> str:
    """One of them."""
    return choices[g.integers(len(choices))]
