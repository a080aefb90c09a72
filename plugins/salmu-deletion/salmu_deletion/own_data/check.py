"""Find everything that is wrong with a user's tables of pairs, and report it at once, before hours are spent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from salmu_core.layout import Finding
from salmu_core.models.processor import Processor
from salmu_deletion.own_data.cells import named_rows
from salmu_deletion.own_data.looks import Look, Reading, look_at_pictures, read_captions
from salmu_deletion.own_data.people import people_of_both, people_of_one, written_in_two_ways
from salmu_deletion.own_data.tables import Table

_AS_SEEN = " (written differently, and the same to the model)"
#: problem or trait of a picture -> severity, words, hint.
_PICTURES: Mapping[str, tuple[str, str, str]] = {
    "missing": (
        "error",
        "pictures are not there",
        "Give the folder that paths begin in with --images, or take the rows out.",
    ),
    "unreadable": (
        "error",
        "pictures cannot be decoded",
        "The files are cut short, are not pictures, or are of a kind that is not read (HEIC, SVG). Mend them or take the rows out.",
    ),
    "pointer": ("error", "pictures are Git LFS pointers: the files were not fetched", "Fetch them with `git lfs pull`."),
    "huge": (
        "error",
        "pictures have more pixels than Pillow reads (twice its MAX_IMAGE_PIXELS), which could be meant to fill the memory",
        "Make them smaller, or take the rows out.",
    ),
    "long": (
        "error",
        "pictures are more than 500 times as long as they are wide, which would fill the memory",
        "Cut out what they are to show, or take the rows out.",
    ),
    "deep": (
        "error",
        "pictures have values beyond 8 bits, of which the model would see black and white only",
        "Save them as 8-bit, with values scaled to 0 to 255.",
    ),
    "one colour": (
        "warning",
        "pictures are of one colour to the model",
        "There is nothing to see in them. Take the rows out.",
    ),
    "turned": (
        "warning",
        "pictures say in their EXIF data that they are to be shown turned, and the model sees them as they are stored, like open_clip",
        "Store them upright, unless the model was trained and is used on such files.",
    ),
    "frames": (
        "warning",
        "pictures have several frames or pages, of which the model sees the first",
        "Save those that count as files.",
    ),
    "transparent": ("fact", "pictures have transparent parts, in which the model sees the colours beneath", ""),
}
#: What stands in the place of paths, and what is to be done about it.
_NO_PATHS: Mapping[re.Pattern[str], str] = {
    re.compile(
        r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE
    ): "Some are addresses on the web: fetch them first, and give paths.",
    # As base64 begins of PNG, JPEG, GIF, WebP and TIFF.
    re.compile(
        r"data:|(iVBORw0KGgo|/9j/|R0lGOD|UklGR|SUkqA|TU0AK)[A-Za-z0-9+/=\s]{40}"
    ): "Some are pictures written as text (base64): save them as"
    " files and give paths, or as bytes in a column of a parquet file.",
}
_LONGEST_NAME = 300


@dataclass(frozen=True)
class _Seen:
    """A table and what the model sees of it."""

    name: str
    table: Table
    looks: Sequence[Look]
    reading: Reading

    def pairs(self) -> list[tuple[bytes, bytes] | None]:
        """What tells each pair from others; None where picture or caption is missing."""
        return [
            (look.key, key) if look.key and key else None for look, key in zip(self.looks, self.reading.keys, strict=True)
        ]

    def named(self, rows: Sequence[int]) -> str:
        """The first of some rows, as a person finds them again."""
        return named_rows(rows, lambda row: f"row {row + 1} ({_short(self.table.file_names[row]) or 'no file name'})")


def _short(name: str) -> str:
    """A path as it stands; the ends of what is none, such as a picture written as text."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:40]}…{name[-20:]}, {len(name):,} letters"


def _see(name: str, table: Table, processor: Processor | None, decode: bool, tell: Callable[[str, int, int], None]) -> _Seen:
    looks = look_at_pictures(table, decode, processor, lambda done, total: tell(f"look at {name}", done, total))
    return _Seen(name, table, looks, read_captions(table.captions, processor))


def check_pairs(
    forget: Table,
    retain: Table | None,
    processor: Processor | None = None,
    *,
    earlier: Sequence[Table] = (),
    decode: bool = True,
    tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> list[Finding]:
    """Look at every row of both tables as the model does.

    Args:
        processor: the model's: pictures and captions count as equal where the model is given the same. None: they are compared as they
            stand in the tables.
        earlier: pairs of earlier requests, which retain must not hold.
        decode: decode every picture; otherwise they are only read.

    Returns:
        Errors, with which nothing can be run; warnings, for a person to decide on; and facts. Captions are never quoted:
        reports are passed around.
    """
    findings: list[Finding] = []
    seen: dict[str, _Seen] = {}
    for name, table in (("forget", forget), ("retain", retain)):
        if table is None:
            continue
        seen[name] = _see(name, table, processor, decode, tell)
        findings += _of_one(seen[name])
    if retain is None:
        findings += written_in_two_ways({"forget": forget})
        findings.append(
            Finding(
                "warning",
                "No retain pairs were given: what the model loses besides cannot be measured, and methods that see retain cannot run.",
                "Give some with --retain: ordinary pairs of the kind the model is used for.",
                "no retain",
            )
        )
    else:
        findings += [*_between(seen["forget"], seen["retain"]), *people_of_both(forget, retain)]
        findings += _taught_again(
            [_see("earlier requests", table, processor, decode, tell) for table in earlier], seen["retain"]
        )
    order = {"error": 0, "warning": 1, "fact": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def _of_one(seen: _Seen) -> list[Finding]:
    name, table = seen.name, seen.table
    if not len(table):
        return [Finding("error", f"{name}: '{table.source}' has no rows.", None, "no rows")]
    findings = [replace(finding, message=f"{name}: {finding.message}") for finding in table.findings]
    findings += [*_columns(name, table), *_pictures(seen), *_captions(seen)]
    pairs = [pair for pair in seen.pairs() if pair is not None]
    twice = len(pairs) - len(set(pairs))
    if twice:
        findings.append(
            Finding(
                "warning",
                f"{name}: {twice} rows repeat the picture and caption of another row.",
                "A row that stands there twice counts twice. Take repetitions out unless that is meant.",
                "duplicate",
            )
        )
    return [*findings, *_of_several_people(seen), *people_of_one(name, table)]


def _of_several_people(seen: _Seen) -> list[Finding]:
    """Pictures that stand for several identities: none of them gets them when pairs are mismatched."""
    people: dict[bytes, set[str]] = {}
    for look, identity in zip(seen.looks, seen.table.identities or (), strict=False):
        if look.key is not None and identity is not None:
            people.setdefault(look.key, set()).add(identity)
    rows = [row for row, look in enumerate(seen.looks) if look.key is not None and len(people.get(look.key, ())) > 1]
    if seen.name != "forget" or not rows:
        return []
    return [
        Finding(
            "warning",
            f"forget: {len(rows)} rows show a picture that other identities have too: {seen.named(rows)}.",
            "Right for group photos. Of one person under several names, write one: pictures of the other name would pass for those of"
            " a stranger.",
            "picture of several people",
        )
    ]


def _columns(name: str, table: Table) -> list[Finding]:
    """What was read from where, and what was not."""
    if table.used is None:
        return []
    used = ", ".join(f"{part} from '{column}'" for part, column in table.used.items())
    unused = (
        f" Not used: {', '.join(table.unused[:8])}{' and more' if len(table.unused) > 8 else ''}." if table.unused else ""
    )
    return [Finding("fact", f"{name}: {used}.{unused}", None, "columns")]


def _pictures(seen: _Seen) -> list[Finding]:
    findings = []
    for what, (severity, words, hint) in _PICTURES.items():
        rows = [row for row, look in enumerate(seen.looks) if look.problem == what or what in look.traits]
        if rows:
            where = [seen.table.file_names[row] for row in rows]
            if what == "missing":
                hint = next((words for kind, words in _NO_PATHS.items() if any(map(kind.match, where))), hint)
            message = f"{seen.name}: {len(rows)} {words}: {seen.named(rows)}."
            rule = what if severity != "error" else f"{what} picture"
            findings.append(Finding(severity, message, hint or None, rule))  # type: ignore[arg-type]
    return findings


def _captions(seen: _Seen) -> list[Finding]:
    name, table, reading = seen.name, seen.table, seen.reading
    findings = []
    faulty = any(finding.rule == "caption is not text" for finding in table.findings)
    empty = [row for row, key in enumerate(reading.keys) if key is None]
    if empty and not faulty:
        left = " or leave nothing for the model to read" if any(table.captions[row] for row in empty) else ""
        findings.append(
            Finding(
                "error",
                f"{name}: {len(empty)} captions are empty{left}: {seen.named(empty)}.",
                "Write them or take the rows out.",
                "empty caption",
            )
        )
    if reading.cut:
        findings.append(
            Finding(
                "warning",
                f"{name}: {len(reading.cut)} captions are longer than what the model reads of them (at most {reading.context}"
                f" tokens): {seen.named(reading.cut)}.",
                "Their end is neither forgotten nor measured. Shorten them, or put first what counts.",
                "cut caption",
            )
        )
    wordings: dict[bytes, set[str]] = {}
    for key, caption in zip(reading.keys, table.captions, strict=True):
        if key is not None:
            wordings.setdefault(key, set()).add(" ".join(caption.casefold().split()))
    alike = [row for row, key in enumerate(reading.keys) if key is not None and len(wordings[key]) > 1]
    if alike:
        findings.append(
            Finding(
                "warning",
                f"{name}: {len(alike)} captions differ only in what the model does not read: cut off, or signs that its tokenizer"
                f" does not know: {seen.named(alike)}.",
                "What tells them apart can be neither forgotten nor measured.",
                "captions alike to the model",
            )
        )
    return findings


def _between(forget: _Seen, retain: _Seen) -> list[Finding]:
    pairs = {pair for pair in forget.pairs() if pair is not None}
    pictures = {look.key for look in forget.looks if look.key}
    captions = {key for key in forget.reading.keys if key}
    written = set(forget.table.captions)
    same_pair, same_picture, same_caption = [], [], []
    for row, (pair, look, key) in enumerate(zip(retain.pairs(), retain.looks, retain.reading.keys, strict=True)):
        if pair in pairs:
            same_pair.append(row)
        elif look.key in pictures:
            same_picture.append(row)
        elif key in captions:
            same_caption.append(row)
    findings = []

    def add(severity: str, rows: Sequence[int], message: str, hint: str, rule: str) -> None:
        if rows:
            other = (
                _AS_SEEN
                if any(retain.table.captions[row] not in written for row in rows) and rule != "shared picture"
                else ""
            )
            text = f"{len(rows)} {message}: {retain.named(rows)} of retain{other}."
            findings.append(Finding(severity, text, hint, rule))  # type: ignore[arg-type]

    add(
        "error",
        same_pair,
        "pairs are in forget and in retain",
        "A pair cannot be forgotten and kept. Take them out of one of the tables.",
        "overlap",
    )
    add(
        "warning",
        same_picture,
        "rows of retain show a picture of forget with another caption",
        "They are kept: right where only some facts of a person go, wrong where the picture itself has to go.",
        "shared picture",
    )
    add(
        "warning",
        same_caption,
        "rows of retain have a caption of forget with another picture",
        "Training on them teaches the words again that forget is to lose.",
        "shared caption",
    )
    return findings


def _taught_again(earlier: Sequence[_Seen], retain: _Seen) -> list[Finding]:
    """Pairs of earlier requests among those to keep."""
    gone = {pair for seen in earlier for pair in seen.pairs() if pair is not None}
    rows = [row for row, pair in enumerate(retain.pairs()) if pair in gone]
    if not rows:
        return []
    return [
        Finding(
            "error",
            f"retain: {len(rows)} rows are pairs of earlier requests, as {retain.named(rows)}: the method would teach them again.",
            "Take them out of the table of pairs to keep.",
            "pairs of earlier requests",
        )
    ]


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Those with which nothing can be run."""
    return [finding for finding in findings if finding.severity == "error"]
