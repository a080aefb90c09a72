"""Compare names as people write them: without case, accents, kinds of apostrophes, and in scripts that put no spaces between words."""

from __future__ import annotations

import unicodedata

_AS_LATIN = str.maketrans("ıøłđ’‘ʼ‐‑–", "iold'''---")  # letters that have no decomposition; apostrophes and dashes
#: First and last sign of scripts in which words of a caption follow each other without a space, or with particles right behind them:
#: Thai and Lao, Burmese, Khmer, Japanese, Chinese, Korean.
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7AF))


def folded(text: str) -> str:
    """A text without what is written in several ways: case, width, accents, vowel points, digits of other scripts, runs of spaces.

    >>> folded("  JOSÉ  O’Brien"), folded("İrem Yılmaz"), folded("٠١٧٠")
    ("jose o'brien", 'irem yilmaz', '0170')
    """
    signs = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(
        str(unicodedata.decimal(sign)) if sign.isdecimal() else sign
        for sign in signs
        if not _is_point(sign) and unicodedata.category(sign) != "Cf"
    )
    return " ".join(unicodedata.normalize("NFC", kept).translate(_AS_LATIN).split())


def words_of(text: str) -> frozenset[str]:
    """Runs of letters, digits and the vowel signs that belong to them.

    >>> sorted(words_of("Jean-Luc O'Brien, Dr.")), len(words_of("प्रिया शर्मा"))
    (['brien', 'dr', 'jean', 'luc', 'o'], 2)
    """
    signs = (sign if sign.isalnum() or unicodedata.category(sign)[0] == "M" else " " for sign in folded(text))
    return frozenset("".join(signs).split())


def stands_in(name: str, text: str) -> bool:
    """Do all words of a name stand in a text, as words of their own where its script has spaces?"""
    wanted = words_of(name)
    whole = folded(text)
    return (
        bool(wanted)
        and all(word in whole for word in wanted if _unspaced(word))
        and ({word for word in wanted if not _unspaced(word)} <= words_of(text))
    )


def _is_point(sign: str) -> bool:
    """An accent or a vowel point of Hebrew or Arabic. Vowel signs of Indic scripts are letters, and stay."""
    order = unicodedata.combining(sign)
    return 10 <= order <= 36 or order >= 200


def _unspaced(word: str) -> bool:
    return any(first <= ord(sign) <= last for sign in word for first, last in _UNSPACED) or any(
        0x20000 <= ord(sign) <= 0x3FFFF for sign in word
    )
