"""Cells of a user's table as text: one reader for CSV, parquet and tar. Cells that are not text are reported by row, not converted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from salmu_core.files.names import visible
from salmu_core.layout import Finding
from salmu_deletion.own_data.spelling import folded

#: Whole numbers from here on are no longer told apart by a type with so many bits of significand.
EXACT = {"halffloat": 2**11, "float": 2**24, "double": 2**53}
_SHOWN = 3  # rows that a finding names
_UUID = re.compile(r"[0-9a-f]{32}")
_POWER = re.compile(r"[-+]?\d+([.,]\d+)?[eE]\+?\d+")
#: What programs write where nothing was there. Some of these are names of people too, so they are told and kept.
_STAND_INS = frozenset({"nan", "null", "none", "nil", "<na>", "n/a", "na", "#n/a", "nat", "undefined"}) | {
    f"#{fault}"
    for fault in ("ref!", "value!", "name?", "div/0!", "num!", "null!", "spill!", "calc!")  # of spreadsheets
}


def read_texts(
    values: Sequence[Any], part: str, where: str, exact: int = EXACT["double"]
) -> tuple[list[str | None], list[Finding]]:
    """The cells of one column.

    Text is taken as it stands, without blanks around it; identities, fields, names and values also in one Unicode form (NFC), in which
    equal letters are equal. Whole numbers are text but for captions, also where the column is one of floating point numbers, as pandas
    makes it when a cell is empty. None and NaN are empty.

    Args:
        part: that the column plays, see `columns.PARTS`.
        where: table and column, for messages.
        exact: whole numbers below this are told apart by the column's type.

    Returns:
        Per row its text, or None for an empty cell; and errors about cells that are not text, whose rows are None too.
    """
    texts: list[str | None] = []
    faults: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        text, fault = _read(value, part, exact)
        if fault is not None:
            faults.setdefault(fault, []).append(row)
        texts.append(text)
    known = [row for row, text in enumerate(texts) if text is not None]
    if part == "identity" and known and {str(texts[row]).casefold() for row in known} <= {"true", "false"}:
        faults["true or false"], texts = known, [None] * len(texts)  # bools, as programs write them into a CSV
    wanted = "text" if part in ("caption", "image") else "text or whole numbers"
    findings = [
        Finding(
            "error",
            f"{len(rows)} {'cells' if len(rows) > 1 else 'cell'} of {where} hold {fault}: {named_rows(rows)}.",
            f"The {part} has to be {wanted}. Save the column as text.",
            f"{part} is not text",
        )
        for fault, rows in faults.items()
    ]
    powers = [row for row, text in enumerate(texts) if part not in ("caption", "image") and text and _POWER.fullmatch(text)]
    if powers:
        findings.append(
            Finding(
                "warning",
                f"{len(powers)} {'cells' if len(powers) > 1 else 'cell'} of {where} are numbers in powers of ten, as spreadsheets"
                f" write long ones: {named_rows(powers)}.",
                "Their last digits are lost. Take them from where the table came from, as text.",
                f"{part} in powers of ten",
            )
        )
    steering = [row for row, text in enumerate(texts) if part != "caption" and text and visible(text, one_line=True) != text]
    if steering:
        findings.append(
            Finding(
                "warning",
                f"{len(steering)} {'cells' if len(steering) > 1 else 'cell'} of {where} hold line breaks, control characters or signs"
                f" that turn the direction of writing: {named_rows(steering)}.",
                "They tell two people apart whose names look alike. Take them out unless that is meant.",
                f"{part} with control characters",
            )
        )
    stand_ins = [row for row, text in enumerate(texts) if text is not None and text.casefold() in _STAND_INS]
    if stand_ins and part != "image":
        literal = sorted({str(texts[row]) for row in stand_ins})
        findings.append(
            Finding(
                "warning",
                f"{len(stand_ins)} {'cells' if len(stand_ins) > 1 else 'cell'} of {where} say {' or '.join(literal)}, which many"
                f" programs write for nothing: {named_rows(stand_ins)}.",
                f"They are taken as {'one person of that name' if part == 'identity' else 'they stand'}. Leave cells empty where"
                " nothing is meant.",
                f"{part} stands for nothing",
            )
        )
    return texts, findings


def named_rows(rows: Sequence[int], name: Callable[[int], str] = lambda row: f"row {row + 1}") -> str:
    """The first of some rows, counted from 1."""
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(visible(name(row), one_line=True) for row in rows[:_SHOWN]) + more


def loose(identity: str) -> str:
    """An identity without what programs and people change in it: case, width, accents, blanks and underscores, kinds of apostrophes
    and hyphens, quotes around it, hyphens of a UUID, digits of other scripts, leading zeros, the .0 of floating point numbers.

    >>> loose("007") == loose("7.0") == loose(" 7"), loose("Ann  Lee") == loose("ann lee"), loose("p1") == loose("p01")
    (True, True, True)
    >>> loose("O’Brien") == loose("O'Brien"), loose("José_Luis") == loose("jose luis"), loose("'7") == loose("٧")
    (True, True, True)
    """
    signs = (" " if sign.isspace() or sign == "_" else sign for sign in identity)
    seen = folded("".join(sign for sign in signs if not _invisible(sign))).strip("'\"")
    if len(bare := seen.strip("{}").replace("-", "")) == 32 and _UUID.fullmatch(bare):
        return bare
    head, dot, tail = seen.partition(".")
    seen = head if dot and head.lstrip("-").isdigit() and not tail.strip("0") else seen
    # Zeros before digits go, also after letters: p01 is p1.
    return "".join(sign for place, sign in enumerate(seen) if not _leading_zero(seen, place))


def shape(identity: str) -> str:
    """How an identity is built: runs of digits and letters.

    >>> shape("p017"), shape("person-3"), shape("12.0")
    ('a0', 'a-0', '0.0')
    """
    kinds = ["0" if sign.isdigit() else "a" if sign.isalpha() else sign for sign in identity]
    return "".join(kind for place, kind in enumerate(kinds) if place == 0 or kind != kinds[place - 1] or kind not in "0a")


def plain_numbers(identities: Iterable[str | None]) -> bool:
    """Are some of these whole numbers as they are usually written, and others the same with `.0` at the end?

    One program wrote the numbers and another one the floating point numbers that pandas makes of them: the same people.
    """
    known = {identity for identity in identities if identity is not None}
    with_zero = {identity for identity in known if without_zero(identity) != identity}
    fractions = any(_is_number(identity) and "." in identity and identity not in with_zero for identity in known)
    return bool(with_zero) and not fractions and any(identity.lstrip("-").isdecimal() for identity in known)


def without_zero(identity: str) -> str:
    """`12.0` as `12`; everything else as it is."""
    head, dot, tail = identity.partition(".")
    return head if dot and tail == "0" and head.lstrip("-").isdecimal() else identity


def _read(value: Any, part: str, exact: int) -> tuple[str | None, str | None]:
    """Text of a cell, and what is wrong with it."""
    match value:
        case None:
            return None, None
        case str():
            return _clean(value, part)
        case bool():
            return None, "true or false"
        case int() | float() | Decimal() if value != value:  # NaN is how pandas writes an empty cell
            return None, None
        case int() | float() | Decimal() if part in ("caption", "image"):
            return None, "numbers"
        case int():
            return str(value), None
        case float() | Decimal():
            if value in (float("inf"), float("-inf")) or value != int(value):
                return None, "numbers that are not whole"
            if isinstance(value, float) and abs(value) >= exact:
                return None, f"floating point numbers of {exact:,} and more, which have lost their last digits"
            return str(int(value)), None
        case UUID():
            return str(value), None
        case bytes() | bytearray():
            return None, "bytes"
        case list() | tuple():
            return None, "lists"
        case dict():
            return None, "structs"
    return None, f"values of type {type(value).__name__}"


def _clean(text: str, part: str) -> tuple[str | None, str | None]:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        return None, "halves of characters (surrogates)"
    if "\0" in text:  # padding, or another encoding: what is equal without it would be two
        return None, "NUL characters"
    if all(sign.isspace() or _invisible(sign) for sign in text):
        return None, None
    text = text.strip().strip("\ufeff").strip()
    return (text if part in ("caption", "image") else unicodedata.normalize("NFC", text)), None


def _invisible(sign: str) -> bool:
    """Does nobody see it: zero-width signs, marks of byte order, control signs?"""
    return unicodedata.category(sign) in ("Cf", "Cc")


def _leading_zero(text: str, place: int) -> bool:
    """Is this a zero at the beginning of a run of digits, with a digit after it?"""
    start = place
    while start and text[start - 1] == "0":
        start -= 1
    before = text[start - 1] if start else ""
    after = text[place + 1] if place + 1 < len(text) else ""
    return text[place] == "0" and not before.isdigit() and before != "." and after.isdigit()


def _is_number(text: str) -> bool:
    head, _, tail = text.lstrip("-").partition(".")
    return head.isdecimal() and (not tail or tail.isdecimal())
