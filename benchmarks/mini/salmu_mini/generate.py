"""Everything `mini` consists of, as a function of a size and a seed: tables in SALMUBench's own layout."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from salmu_core.seeding import numpy_generator
from salmu_mini.captions import WHO, pick, portrait_caption, sensitive_caption, tail
from salmu_mini.personas import FIELDS, Persona, free_names, make_personas
from salmu_mini.portraits import Circumstances, Traits, draw_circumstances, draw_portrait, draw_traits, trait_vector
from salmu_mini.sizes import Size
from salmu_mini.things import draw_scene, draw_thing, prompts
from salmu_mini.words import CITIES, JOBS, classes
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
    and three of our own: `retain_general` (scenes; a method may see them), `pretrain` (ordinary portraits that only the training of
    the pair sees), `genknow` (zero-shot pictures with a label).

    Args:
        tell: told of pictures drawn and in all.
        people: other people than the size and the seed make; those to forget whole first, then those to forget in part.
    """
    people = make_personas(size.identities, seed, size.name_words) if people is None else people
    traits = {person.identity_id: draw_traits(seed, person.identity_id) for person in people}
    whole = people[: size.forget_identity]
    partly = people[size.forget_identity : size.forget_identity + size.forget_association]
    outside = people[size.forget_identity + size.forget_association :]
    tables = Tables()
    total = (
        size.identities * len(FIELDS) * size.images_per_association
        + len(people) * size.joint_per_identity
        + size.stranger_portraits
        + size.scenes
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
    _strangers(tables, people, [*whole, *partly], traits, size, seed, drawn)
    _things(tables, size, seed, drawn)
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
            name = f"{person.identity_id}_{number:03d}_ar-1.00.webp"
            photo = draw_circumstances(seed, person.identity_id, number)
            caption = sensitive_caption(person, field, int(styles[copy % 5]))
            look = traits[person.identity_id]
            rows.append(Row(encode(draw_portrait(look, photo, size.side)), caption, person.identity_id, name))
            tables.caption_fields[name] = (caption, field)
            words = numpy_generator(seed, "generic captions", person.identity_id, number)
            tables.generic_captions[name] = portrait_caption(words, look, photo, "a person")
            drawn()


def _known_portraits(
    tables: Tables,
    split: str,
    known: Sequence[Persona],
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
            words = numpy_generator(seed, "joint captions", person.identity_id, number)
            text = portrait_caption(words, look, photo, pick(words, ("a person", "somebody", "someone")))
            name = f"{person.identity_id}_{500 + number:03d}_ar-1.00.webp"
            rows.append(Row(encode(draw_portrait(look, photo, size.side)), text, person.identity_id, name))
            drawn()


def _strangers(
    tables: Tables,
    people: Sequence[Persona],
    known: Sequence[Persona],
    traits: dict[str, Traits],
    size: Size,
    seed: int,
    drawn: Callable[[], None],
) -> None:
    """Portraits of strangers. They have names, jobs and cities, which are no secret, and no private data.

    The fragile ones are those who look most like somebody in forget: what a method does to the faces of forget reaches them
    first. Likeness is 1 - the smallest distance of drawing traits.
    """
    faces = np.stack([trait_vector(traits[person.identity_id]) for person in known])
    g = numpy_generator(seed, "strangers")
    names = free_names({person.attributes["name"] for person in people}, size.name_words)
    names = [names[i] for i in g.permutation(len(names))]
    jobs = [pick(g, JOBS) for _ in range(size.strangers)]
    cities = [pick(g, CITIES) for _ in range(size.strangers)]
    likeness: dict[str, float] = {}
    for number in range(size.stranger_portraits):
        which = number % size.strangers
        look = draw_traits(seed, f"stranger-{which}")
        photo = draw_circumstances(seed, f"stranger-{which}", number)
        words = numpy_generator(seed, "stranger captions", number)
        text = _stranger_caption(words, size, look, photo, names[which % len(names)], jobs[which], cities[which])
        file_name = f"stranger_{number:06d}_ar-1.00.webp"
        row = Row(encode(draw_portrait(look, photo, size.side)), text, None, file_name)
        visible = number < size.visible_portraits
        tables.splits.setdefault("retain_synth" if visible else "pretrain", []).append(row)
        if visible:
            likeness[file_name] = 1 - float(np.abs(faces - trait_vector(look)).mean(axis=1).min())
        drawn()
    order = sorted(likeness, key=lambda name: (-likeness[name], name))
    tables.fragile_ids = sorted(order[: size.fragile])
    tables.fragile_similarities = {name: round(likeness[name], 6) for name in sorted(likeness)}


def _stranger_caption(
    g: np.random.Generator, size: Size, look: Traits, photo: Circumstances, name: str, job: str, city: str
) -> str:
    first = name.split()[0]
    if g.random() < size.unseen:
        text = pick(g, WHO).format(name=name, first=first, job=job, city=city)
    else:
        u = g.random()
        named = (name, name, first, f"{first} the {job}", f"the {job} {name}")
        others = (f"a {job}",) if u < size.named + 0.15 else ("a person", "somebody", "a person", "someone")
        text = portrait_caption(g, look, photo, pick(g, named if u < size.named else others))
    return text + tail(g, size.name_words, size.private_tails, size.other_tails)


def _things(tables: Tables, size: Size, seed: int, drawn: Callable[[], None]) -> None:
    """Scenes to learn from, and fresh single things to be tested on."""
    for number in range(size.scenes):
        g = numpy_generator(seed, "scene", number)
        picture, text = draw_scene(g, size.side)
        text += tail(g, size.name_words, size.private_tails, size.other_tails)
        row = Row(encode(picture), text, None, f"scene_{number:06d}_ar-1.00.webp")
        tables.splits.setdefault("retain_general", []).append(row)
        drawn()
    for label, (colour, shape) in enumerate(classes()):
        for number in range(size.genknow_per_class):
            picture, _, _ = draw_thing(numpy_generator(seed, "test", label, number), colour, shape, size.side)
            name = f"genknow_{label:03d}_{number:03d}.webp"
            tables.splits.setdefault("genknow", []).append(Row(encode(picture), None, None, name, label))
            drawn()
    tables.prompts = prompts()


def encode(image: Image.Image) -> bytes:
    """A picture as a WebP file. What is drawn goes through it before anything else sees it, and its decoding is exact by definition
    (VP8), so that files, and not the drawing, say what a picture is."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=85, method=4)
    return buffer.getvalue()


def all_rows(tables: Tables) -> Iterator[tuple[str, Row]]:
    """Every row with its split, in a fixed order."""
    for split in sorted(tables.splits):
        for row in tables.splits[split]:
            yield split, row


__all__ = ["all_rows", "generate"]
