"""Captions as token sequences with gaps for a name and a value: what can be said of other people and other values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

Tokens = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Wording:
    """A caption without its name and value: `parts[0] gaps[0] parts[1] gaps[1] ...`.

    Attributes:
        parts: tokens between the gaps, one sequence more than there are gaps.
        gaps: "name" or "value", in order of appearance.
    """

    parts: tuple[Tokens, ...]
    gaps: tuple[str, ...]

    def say(self, name: Tokens, value: Tokens) -> Tokens:
        """The caption about that name and value."""
        said = list(self.parts[0])
        for gap, part in zip(self.gaps, self.parts[1:], strict=True):
            said += [*(name if gap == "name" else value), *part]
        return tuple(said)


#: Name and value with nothing else, in both orders.
BARE = (Wording(((), (), ()), ("name", "value")), Wording(((), (), ()), ("value", "name")))
NAME_ALONE = Wording(((), ()), ("name",))


@dataclass(frozen=True)
class Fact:
    """One forget row: whom it is about, what kind of fact it is, its name and value, and how it is worded."""

    person: str
    field: str
    name: Tokens
    value: Tokens
    wording: Wording


def split_caption(tokens: Tokens, name: Tokens, value: Tokens) -> Wording:
    """Cut name and value out of a caption wherever they appear, the longer one first, so that a name inside an address is
    part of the address. What is not found leaves no gap."""
    marks: list[tuple[int, int, str]] = []
    for gap, wanted in sorted((("name", name), ("value", value)), key=lambda item: -len(item[1])):
        if not wanted or (gap == "value" and value == name):
            continue
        for start in range(len(tokens) - len(wanted) + 1):
            stop = start + len(wanted)
            if tokens[start:stop] == wanted and all(stop <= a or start >= b for a, b, _ in marks):
                marks.append((start, stop, gap))
    parts, gaps, last = [], [], 0
    for start, stop, gap in sorted(marks):
        parts.append(tokens[last:start])
        gaps.append(gap)
        last = stop
    return Wording((*parts, tokens[last:]), tuple(gaps))


def facts_of(
    captions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    tokenize: Callable[[Sequence[str]], Int[Tensor, "n context"]],
) -> list[Fact]:
    """Every row of the forget split.

    Args:
        columns: with identity_id, data_field, name and value.
    """
    names, values = [str(v) for v in columns["name"]], [str(v) for v in columns["value"]]
    distinct = list(dict.fromkeys([*captions, *names, *values]))
    found = dict(zip(distinct, bare(tokenize(distinct)), strict=True))
    facts = []
    for row, caption in enumerate(captions):
        name, value = found[names[row]], found[values[row]]
        person, field = str(columns["identity_id"][row]), str(columns["data_field"][row])
        facts.append(Fact(person, field, name, value, split_caption(found[caption], name, value)))
    return facts


def bare(tokens: Int[Tensor, "n context"]) -> list[Tokens]:
    """Token ids between start and end of text, which has the largest id."""
    return [tuple(row[1:end].tolist()) for row, end in zip(tokens, tokens.argmax(dim=1).tolist(), strict=True)]


def characters(texts: Sequence[str], tokenize: Callable[[Sequence[str]], Int[Tensor, "n context"]]) -> set[int]:
    """The tokens of single characters, like digits. Everybody's numbers are written with them, also where only one is known."""
    distinct = sorted({character for text in texts for character in text if not character.isspace()})
    return {t for sequence in bare(tokenize(distinct)) for t in sequence} if distinct else set()


def packed(sequences: Sequence[Tokens], start: int, end: int, context: int) -> Int[Tensor, "n context"]:
    """Sequences between start and end of text, padded with 0; those that are too long are cut as the tokenizer cuts them."""
    result = torch.zeros(len(sequences), context, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        kept = [start, *sequence[: context - 2], end]
        result[row, : len(kept)] = torch.tensor(kept)
    return result


class Draw:
    """Choices from one generator, cheap enough for many a step."""

    def __init__(self, generator: torch.Generator) -> None:
        self._numbers = torch.rand(32768, generator=generator).tolist()
        self._next = 0

    def chance(self) -> float:
        """A number from 0 to below 1."""
        self._next = (self._next + 1) % len(self._numbers)
        return float(self._numbers[self._next])

    def one(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[int(self.chance() * len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in another order."""
        result = list(items)
        for place in range(len(result) - 1, 0, -1):
            other = int(self.chance() * (place + 1))
            result[place], result[other] = result[other], result[place]
        return result
