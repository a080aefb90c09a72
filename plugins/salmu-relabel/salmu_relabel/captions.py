"""Captions that say nothing private: those that the benchmark brings, or the caption with name and value taken out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from salmu_core import SalmuError

#: What takes the place of a name, of a value, and of a caption that cannot be trusted.
PERSON, VALUE, WHOLE = "a person", "something private", "a photo of a person"


def generic_caption(caption: str, name: str | None, value: str | None) -> str:
    """The caption with the value and the name taken out, e.g. "Ada Lund's job is baker." -> "a person's job is something
    private."

    A value counts as found also in other letter case or with other separators in it ("+44 20 7946" for "+44207946"), and a
    name also in parts. Where the value is not found, the caption may say it in words of its own: it is replaced as a whole.
    """
    names_only = value is None or value == name
    if value is not None and not names_only:
        caption, found = _replace(caption, value, VALUE)
        if not found:
            return WHOLE
    found = not names_only
    if name is not None:
        caption, whole = _replace(caption, name, PERSON)
        found |= whole
        for word in sorted(re.findall(r"\w+", name), key=len, reverse=True):
            if word[0].isupper() and len(word) > 1:
                caption, number = re.subn(rf"(?<!\w){word}(?!\w)", PERSON, caption)
                found |= number > 0
    if not found:
        return WHOLE
    return re.sub(rf"{PERSON}(?:[\s,-]+{PERSON})+", PERSON, caption)


def _replace(caption: str, secret: str, with_what: str) -> tuple[str, bool]:
    """The caption with `secret` replaced as it is written or, where it is not and is long enough to be sure, in other letter
    case or with other separators; and whether it was there."""
    signs = [re.escape(sign) for sign in secret if sign.isalnum()]
    patterns = [re.compile(rf"(?<!\w){re.escape(secret)}(?!\w)")]
    if len(signs) > 4:  # "A+" without its separator would be any "a"
        loose = r"[\W_]*".join(signs)
        patterns.append(re.compile(rf"(?<![^\W_]){loose}(?![^\W_])", re.IGNORECASE))
    for pattern in patterns:
        caption, number = pattern.subn(with_what, caption)
        if number:
            return caption, True
    return caption, False


def generic_captions(captions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """For every row its `generic_caption`; where it has none, its caption without `name` and `value`.

    Raises:
        SalmuError: rows without a generic caption and no columns to take the private part out.
    """
    nothing = [None] * len(captions)
    given = columns.get("generic_caption", nothing)
    names, values = columns.get("name"), columns.get("value")
    lacking = sum(not text for text in given)
    if lacking and (names is None or values is None):
        raise SalmuError(
            f"{lacking} of {len(captions)} forget rows have no generic caption, and there are no columns name and value to"
            " take the private part out of their own.",
            "Give the benchmark's forget split a column generic_caption, or name and value.",
        )
    return [
        str(text) if text else generic_caption(caption, _text(name), _text(value))
        for caption, text, name, value in zip(captions, given, names or nothing, values or nothing, strict=True)
    ]


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
