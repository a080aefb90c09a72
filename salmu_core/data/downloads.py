"""What a benchmark would fetch, and on which conditions it is given out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """Something that `build` would fetch.

    Args:
        what: in words, e.g. "dataset cvc-mmu/salmubench-512-redistributed at b76aa388".
        size: bytes still to be fetched; None when that cannot be known now.
        place: where it will be kept.
    """

    what: str
    size: int | None
    place: str


@dataclass(frozen=True)
class Terms:
    """Conditions under which a model or data are given out. Whatever is made from them carries the conditions on.

    Args:
        what: e.g. "model OWNER/NAME".
        page: where they stand, and are accepted.
        words: the conditions in a sentence or two, as far as they are known.
        licence: as the page states it; empty where it states none.
        gated: the page has to be visited and the terms accepted, before anything can be fetched.
    """

    what: str
    page: str
    words: str
    licence: str = ""
    gated: bool = False
