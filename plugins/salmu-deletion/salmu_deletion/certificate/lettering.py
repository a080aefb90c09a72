"""Letters of a PDF. Every reader has fonts for Latin-1 only: for all other letters, fonts of this machine are embedded.

Letters that are written from right to left, or that change beside others, take uharfbuzz too; signs that show nothing, some of which
turn the text after them, are written by their numbers.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PLAIN = {"–": "-", "—": "-", "’": "'", "−": "-", "“": '"', "”": '"', "…": "..."}
#: Fonts of many letters come first: few of them are then enough.
_FIRST = (
    "dejavusans.",
    "notosans-regular",
    "notosanscjk",
    "notosans",
    "unifont",
    "arialuni",
    "arial unicode",
    "freesans",
    "arial.",
)
_FORMATS = (".ttf", ".otf", ".ttc")
#: Scripts, as Unicode names them, whose letters change or move beside others; those from right to left are told by their direction.
_SHAPED = frozenset(
    {
        "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "SINHALA",
        "MYANMAR", "KHMER", "TIBETAN", "MONGOLIAN", "JAVANESE", "BALINESE",
    }
)  # fmt: skip
_JOINERS = "\u200c\u200d"  # say whether the letters beside them join
_MOST = 400  # fonts that are looked into


class Lettering:
    """Sets the font of each text of a PDF.

    Args:
        pdf: an `fpdf.FPDF`.
        content: everything that is going to be written.

    Attributes:
        lacking: letters that cannot be shown for want of a font or of uharfbuzz; they are written by their numbers, as in [U+5F20].
        bracketed: whether a number has been written.
    """

    def __init__(self, pdf: Any, content: Mapping[str, Any]) -> None:
        self._pdf = pdf
        wanted = {sign for sign in json.dumps(content, ensure_ascii=False) if sign.isprintable() and not _is_latin(sign)}
        self._fonts: list[str] = []
        self.bracketed = False
        shapes = find_spec("uharfbuzz") is not None
        self.lacking = set(wanted)
        possible = wanted if shapes else {sign for sign in wanted if not _is_shaped(sign)}
        for path in _font_files() if possible else ():
            covered = _letters_of(path) & self.lacking & possible
            if covered and self._add(path):
                self.lacking -= covered
            if not self.lacking & possible:
                break
        if len(self._fonts) > 1:
            pdf.set_fallback_fonts(self._fonts[1:], exact_match=False)
        self._shapes = shapes and any(map(_is_shaped, wanted - self.lacking))

    def _add(self, path: Path) -> bool:
        name = f"letters{len(self._fonts)}"
        try:
            self._pdf.add_font(name, fname=path)
        except Exception:  # a font that fpdf2 cannot embed: it raises many kinds
            return False
        self._fonts.append(name)
        return True

    def choose(self, text: str, style: str, size: float) -> str:
        """Set the font that a text is written in.

        Returns:
            The text, with numbers in place of letters that no font has.
        """
        embedded = self._fonts and any(
            sign.isprintable() and not _is_latin(sign) and sign not in self.lacking for sign in text
        )
        if embedded:
            self._pdf.set_font(self._fonts[0], "", size)
            joins = _JOINERS if self._shapes else ""
            shown = [sign if sign in joins or (sign not in self.lacking and not _is_unseen(sign)) else None for sign in text]
        else:
            self._pdf.set_font("Helvetica", style, size)
            shown = [_PLAIN.get(sign, sign) if _is_latin(sign) and not _is_unseen(sign) else None for sign in text]
        self._pdf.set_text_shaping(bool(embedded and self._shapes), direction="ltr")
        self.bracketed |= None in shown
        return "".join(new or f"[U+{ord(sign):04X}]" for sign, new in zip(text, shown, strict=True))


def _is_latin(sign: str) -> bool:
    return sign in _PLAIN or ord(sign) < 256


def _is_shaped(sign: str) -> bool:
    """Whether a letter is another thing beside others, or stands to the left of the one before it."""
    return unicodedata.bidirectional(sign) in ("R", "AL") or unicodedata.name(sign, "").partition(" ")[0] in _SHAPED


def _is_unseen(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "C" and sign != "\n"


def _font_files() -> Iterator[Path]:
    """Font files of this machine, those of many letters first; in the same order every time."""
    home = Path.home()
    places = [
        *(Path(place) / "fonts" for place in os.environ.get("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")),
        home / ".local/share/fonts",
        home / ".fonts",
        *([Path("/Library/Fonts"), Path("/System/Library/Fonts")] if sys.platform == "darwin" else []),
        *([Path(os.environ.get("WINDIR", "C:\\Windows")) / "Fonts"] if sys.platform == "win32" else []),
    ]
    found = {
        path
        for place in places
        if place.is_dir()
        for path in place.rglob("*")
        if path.suffix.lower() in _FORMATS and "emoji" not in path.name.lower()
    }

    def rank(path: Path) -> tuple[int, str, str]:
        name = path.name.lower()
        place = next((place for place, start in enumerate(_FIRST) if name.startswith(start)), len(_FIRST))
        return place, name, str(path)

    yield from sorted(found, key=rank)[:_MOST]


def _letters_of(path: Path) -> Set[str]:
    from fontTools.ttLib import TTFont

    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            return {chr(number) for number in font.getBestCmap() or {}}
    except Exception:  # damaged or of another format: fontTools raises many kinds
        return set()
