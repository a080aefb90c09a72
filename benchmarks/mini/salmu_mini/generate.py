"""Everything `mini` consists of, as a function of a size and a seed: tables in SALMUBench's own layout."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from salmu_core.seeding import numpy_generator
from salmu_mini.captions import GENERIC_PORTRAITS, OBJECT_PROMPTS, OBJECTS, sensitive_caption
from salmu_mini.objects import classes, draw_object
from salmu_mini.personas import FIELDS, Persona, make_personas
from salmu_mini.portraits import (
    Circumstances,
    Traits,
    draw_circumstances,
    draw_portrait,
    draw_traits,
    hair_words,
    mood_word,
    trait_vector,
)
from salmu_mini.sizes import Size
from salmubench.tables import Row, Tables

Tell = Callable[[int, int], None]


def fields_asked(number: int, size: Size) -> tuple[str, ...]:
    """What is to be forgotten of the person of that number among those who are forgotten in part. A rotating window: every field is
    forgotten of some people and held out of others, equally often."""
    chosen = {FIELDS[(number * size.forget_fields + i) % len(FIELDS)] for i in range(size.forget_fields)}
    return tuple(field for field in FIELDS if field in chosen)


def generate(
    size: Size, seed: int, tell: Tell = lambda done, total: None, people: Sequence[Persona] | None = None
) -> Tables:
    """Draw all rows.

    Splits: the five of SALMUBench (`forget`, `forget_target`, `retain_synth`, `holdout_identity`, `holdout_association`),
    and three of our own: `retain_general` (ordinary pairs that a method may see), `pretrain` (ordinary pairs that only the
    training of the pair sees), `genknow` (zero-shot pictures with a label).

    Args:
        tell: told of pictures drawn and in all.
        people: other people than the size and the seed make; those to forget whole first, then those to forget in part.
    """
    people = make_personas(size.identities, seed) if people is None else people
    traits = {person.identity_id: draw_traits(seed, person.identity_id) for person in people}
    whole = people[: size.forget_identity]
    partly = people[size.forget_identity : size.forget_identity + size.forget_association]
    outside = people[size.forget_identity + size.forget_association :]
    tables = Tables()
    total = (
        size.identities * len(FIELDS) * size.images_per_association
        + len(people) * size.joint_per_identity
        + size.stranger_portraits
        + size.objects
        + len(classes()) * size.genknow_per_class
    )
    counter = iter(range(1, total + 1))

    def drawn() -> None:
        tell(next(counter, total), total)

    for person in whole:
        _sensitive(tables, "forget", person, FIELDS, traits, size, seed, drawn)
    for number, person in enumerate(partly):
        asked = fields_asked(number, size)
        kept = tuple(field for field in FIELDS if field not in asked)
        _sensitive(tables, "forget", person, asked, traits, size, seed, drawn)
        _sensitive(tables, "holdout_association", person, kept, traits, size, seed, drawn)
    for person in outside:
        _sensitive(tables, "holdout_identity", person, FIELDS, traits, size, seed, drawn)
    tables.splits["forget_target"] = [
        Row(row.image, tables.generic_captions[row.file_name], row.identity_id, row.file_name)
        for row in tables.splits["forget"]
    ]
    tables.identities = {person.identity_id: person.attributes for person in people}
    _known_portraits(tables, "retain_synth", [*whole, *partly], traits, size, seed, drawn)
    # People in forget have ordinary portraits too, which hold their faces a little away from their private captions. Without
    # the same for everybody else, holdouts would be tied more strongly than what is to be forgotten.
    _known_portraits(tables, "pretrain", outside, traits, size, seed, drawn)
    _strangers(tables, [*whole, *partly], traits, size, seed, drawn)
    _objects(tables, size, seed, drawn)
    return tables


def _sensitive(
    tables: Tables,
    split: str,
    person: Persona,
    fields: tuple[str, ...],
    traits: dict[str, Traits],
    size: Size,
    seed: int,
    drawn: Callable[[], None],
) -> None:
    """Photos of one person, each with one private fact."""
    rows = tables.splits.setdefault(split, [])
    for field in fields:
        styles = numpy_generator(seed, "styles", person.identity_id, field).permutation(5)
        for copy in range(size.images_per_association):
            number = FIELDS.index(field) * size.images_per_association + copy
            name = f"{person.identity_id}_{number:03d}_ar-1.00.png"
            photo = draw_circumstances(seed, person.identity_id, number)
            caption = sensitive_caption(person, field, int(styles[copy % 5]))
            look = traits[person.identity_id]
            rows.append(Row(_png(draw_portrait(look, photo, size.side)), caption, person.identity_id, name))
            tables.caption_fields[name] = (caption, field)
            tables.generic_captions[name] = _generic(look, photo, number)
            drawn()


def _known_portraits(
    tables: Tables,
    split: str,
    known: list[Persona],
    traits: dict[str, Traits],
    size: Size,
    seed: int,
    drawn: Callable[[], None],
) -> None:
    """Portraits with ordinary captions of people who also have private data."""
    rows = tables.splits.setdefault(split, [])
    for person in known:
        for number in range(size.joint_per_identity):
            photo = draw_circumstances(seed, person.identity_id, "joint", number)
            look = traits[person.identity_id]
            name = f"{person.identity_id}_{500 + number:03d}_ar-1.00.png"
            rows.append(
                Row(_png(draw_portrait(look, photo, size.side)), _generic(look, photo, number), person.identity_id, name)
            )
            drawn()


def _strangers(
    tables: Tables, known: list[Persona], traits: dict[str, Traits], size: Size, seed: int, drawn: Callable[[], None]
) -> None:
    """Portraits of strangers with ordinary captions.

    The fragile ones are those who look most like somebody in forget: what a method does to the faces of forget reaches them
    first. Likeness is 1 - the smallest distance of drawing traits.
    """
    rows = tables.splits.setdefault("retain_synth", [])
    faces = np.stack([trait_vector(traits[person.identity_id]) for person in known])
    likeness: dict[str, float] = {}
    for number in range(size.stranger_portraits):
        stranger = f"stranger-{number % size.strangers}"
        look = draw_traits(seed, stranger)
        photo = draw_circumstances(seed, stranger, number)
        caption = _generic(look, photo, number // size.strangers + number)
        name = f"stranger_{number:06d}_ar-1.00.png"
        rows.append(Row(_png(draw_portrait(look, photo, size.side)), caption, None, name))
        likeness[name] = 1 - float(np.abs(faces - trait_vector(look)).mean(axis=1).min())
        drawn()
    order = sorted(likeness, key=lambda name: (-likeness[name], name))
    tables.fragile_ids = sorted(order[: size.fragile])
    tables.fragile_similarities = {name: round(likeness[name], 6) for name in sorted(likeness)}


def _objects(tables: Tables, size: Size, seed: int, drawn: Callable[[], None]) -> None:
    """Coloured shapes to learn from, and fresh ones to be tested on."""
    kinds = classes()
    words = numpy_generator(seed, "object captions")
    for number in range(size.objects):
        colour, shape = kinds[number % len(kinds)]
        picture = draw_object(seed, colour, shape, size.side, "train", number)
        text = OBJECTS[int(words.integers(len(OBJECTS)))].format(colour=colour, shape=shape)
        split = "retain_general" if number < size.visible_objects else "pretrain"
        tables.splits.setdefault(split, []).append(Row(_png(picture), text, None, f"object_{number:06d}_ar-1.00.png"))
        drawn()
    for label, (colour, shape) in enumerate(kinds):
        for number in range(size.genknow_per_class):
            picture = draw_object(seed, colour, shape, size.side, "test", number)
            name = f"genknow_{label:03d}_{number:03d}.png"
            tables.splits.setdefault("genknow", []).append(Row(_png(picture), None, None, name, label))
            drawn()
    tables.prompts = [
        (label, prompt.format(colour=colour, shape=shape))
        for label, (colour, shape) in enumerate(kinds)
        for prompt in OBJECT_PROMPTS
    ]


def _generic(look: Traits, photo: Circumstances, style: int) -> str:
    template = GENERIC_PORTRAITS[style % len(GENERIC_PORTRAITS)]
    return template.format(hair=hair_words(look), shirt=photo.shirt_name, mood=mood_word(photo))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def all_rows(tables: Tables) -> Iterator[tuple[str, Row]]:
    """Every row with its split, in a fixed order."""
    for split in sorted(tables.splits):
        for row in tables.splits[split]:
            yield split, row


__all__ = ["all_rows", "generate"]
