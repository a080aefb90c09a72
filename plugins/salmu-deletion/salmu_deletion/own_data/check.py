"""Everything that can be wrong with somebody's tables of pairs, told at once and before hours are spent."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from salmu_core.data.cache import decode_pool
from salmu_core.data.layout import Finding
from salmu_core.data.pairs import content_key
from salmu_core.errors import BadData
from salmu_deletion.own_data.tables import Table

_SHOWN = 3  # rows that a finding names


@dataclass(frozen=True)
class Look:
    """What was seen of one picture: its content key, or what is wrong with it."""

    key: bytes | None
    problem: str | None = None  # "missing" or "unreadable"


def check_pairs(
    forget: Table,
    retain: Table | None,
    *,
    decode: bool = True,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[Finding]:
    """Look at every row of both tables.

    Args:
        decode: decode every picture; otherwise they are only read.

    Returns:
        Errors, with which nothing can be run; warnings, for a person to decide on; and facts. Captions are never quoted:
        reports are passed around.
    """
    findings: list[Finding] = []
    looks: dict[str, list[Look]] = {}
    for name, table in (("forget", forget), ("retain", retain)):
        if table is None:
            continue
        looks[name] = look_at_pictures(table, decode, lambda done, total, n=name: tell(f"look at {n}", done, total))
        findings += _of_one(name, table, looks[name])
    if retain is None:
        findings.append(
            Finding(
                "warning",
                "No retain pairs were given: what the model loses besides cannot be measured, and methods that see retain cannot run.",
                "Give some with --retain: ordinary pairs of the kind the model is used for.",
                "no retain",
            )
        )
    else:
        findings += _between(forget, retain, looks["forget"], looks["retain"])
    order = {"error": 0, "warning": 1, "fact": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def look_at_pictures(table: Table, decode: bool, tell: Callable[[int, int], None] = lambda done, total: None) -> list[Look]:
    """Read, and decode, every picture of a table."""
    looks: list[Look] = [Look(None)] * len(table)
    done = 0

    def look(start: int, end: int) -> None:
        nonlocal done
        for row in range(start, end):
            looks[row] = _look(table, row, decode)
        done += end - start
        tell(done, len(table))

    decode_pool.in_blocks(look, len(table), block=32)
    return looks


def _look(table: Table, row: int, decode: bool) -> Look:
    try:
        encoded = table.images.read(row)
    except (BadData, OSError):
        return Look(None, "missing")
    if decode:
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                image.load()
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return Look(content_key(encoded), "unreadable")
    return Look(content_key(encoded))


def _of_one(name: str, table: Table, looks: Sequence[Look]) -> list[Finding]:
    if not len(table):
        return [Finding("error", f"{name}: '{table.source}' has no rows.", None, "no rows")]
    findings = []
    for problem, words, hint in (
        ("missing", "pictures are not there", "Give the folder that paths begin in with --images, or take the rows out."),
        (
            "unreadable",
            "pictures cannot be decoded",
            "The files are cut short or are no pictures. Mend them or take the rows out.",
        ),
    ):
        rows = [row for row, look in enumerate(looks) if look.problem == problem]
        if rows:
            findings.append(
                Finding("error", f"{name}: {len(rows)} {words}: {_named(table, rows)}.", hint, f"{problem} picture")
            )
    empty = [row for row, caption in enumerate(table.captions) if not caption]
    if empty:
        findings.append(
            Finding(
                "error",
                f"{name}: {len(empty)} captions are empty: {_named(table, empty)}.",
                "Write them or take the rows out.",
                "empty caption",
            )
        )
    seen = Counter((look.key, caption) for look, caption in zip(looks, table.captions, strict=True) if look.key and caption)
    twice = sum(count - 1 for count in seen.values())
    if twice:
        findings.append(
            Finding(
                "warning",
                f"{name}: {twice} rows repeat the picture and caption of another row.",
                "A row that stands there twice counts twice. Take repetitions out unless that is meant.",
                "duplicate",
            )
        )
    findings += _identities(name, table)
    return findings


def _identities(name: str, table: Table) -> list[Finding]:
    if table.identities is None:
        if name == "retain":
            return []
        return [
            Finding(
                "warning",
                "forget: no column says whose pair a row is, so every picture counts as a person of its own.",
                "Say which with --columns identity=COLUMN: intervals and the never-learned comparison rest on it.",
                "no identities",
            )
        ]
    known = Counter(identity for identity in table.identities if identity is not None)
    nobody = len(table) - sum(known.values())
    if not known:
        return [Finding("fact", f"{name}: {len(table)} rows, no identity in any of them.", None, "rows")]
    sizes = sorted(known.values())
    middle = sizes[len(sizes) // 2]
    each = f"{middle} rows each" if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]} rows each, typically {middle}"
    others = f", and {nobody} rows of nobody known" if nobody else ""
    found = [Finding("fact", f"{name}: {len(table)} rows of {len(known)} identities ({each}){others}.", None, "rows")]
    if name == "forget" and nobody:
        found.append(
            Finding(
                "warning",
                f"forget: {nobody} rows have no identity; every picture of theirs counts as a person of its own.",
                None,
                "no identity",
            )
        )
    return found


def _between(forget: Table, retain: Table, of_forget: Sequence[Look], of_retain: Sequence[Look]) -> list[Finding]:
    pairs = {(look.key, caption) for look, caption in zip(of_forget, forget.captions, strict=True) if look.key}
    pictures = {look.key for look in of_forget if look.key}
    captions = {caption for caption in forget.captions if caption}
    same_pair, same_picture, same_caption = [], [], []
    for row, (look, caption) in enumerate(zip(of_retain, retain.captions, strict=True)):
        if (look.key, caption) in pairs:
            same_pair.append(row)
        elif look.key in pictures:
            same_picture.append(row)
        elif caption in captions:
            same_caption.append(row)
    findings = []
    if same_pair:
        findings.append(
            Finding(
                "error",
                f"{len(same_pair)} pairs are in forget and in retain: {_named(retain, same_pair)} of retain.",
                "A pair cannot be forgotten and kept. Take them out of one of the tables.",
                "overlap",
            )
        )
    if same_picture:
        findings.append(
            Finding(
                "warning",
                f"{len(same_picture)} rows of retain show a picture of forget with another caption: {_named(retain, same_picture)}.",
                "They are kept: right where only some facts of a person go, wrong where the picture itself has to go.",
                "shared picture",
            )
        )
    if same_caption:
        findings.append(
            Finding(
                "warning",
                f"{len(same_caption)} rows of retain have a caption of forget with another picture: {_named(retain, same_caption)}.",
                "Training on them teaches the words again that forget is to lose.",
                "shared caption",
            )
        )
    people = {i for i in forget.identities or () if i is not None} & {i for i in retain.identities or () if i is not None}
    if people:
        findings.append(
            Finding(
                "fact",
                f"{len(people)} identities of forget are in retain too: what is kept of them is measured.",
                None,
                "both",
            )
        )
    return findings


def _named(table: Table, rows: Sequence[int]) -> str:
    """The first of some rows, as a person finds them again."""
    listed = [f"row {row + 1} ({table.file_names[row] or 'no file name'})" for row in rows[:_SHOWN]]
    return ", ".join(listed) + (f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else "")


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Those with which nothing can be run."""
    return [finding for finding in findings if finding.severity == "error"]
