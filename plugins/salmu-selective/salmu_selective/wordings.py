"""Captions as token sequences with gaps for a name and a value: what can be said of other people and other values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Wording:
    """A caption without its name and value. `parts` alternate with `gaps`: part, gap, part, gap, part."""

    parts: tuple[Tokens, ...]
    gaps: tuple[str, ...]  # "name" or "value", in order of appearance

    def say(self, name: Tokens, value: Tokens) -> Tokens:
        """The caption about that name and value."""
        said = list(self.parts[0])
        for gap, part in zip(self.gaps, self.parts[1:], strict=True):
            said += [*(name if gap == "name" else value), *part]
        return tuple(said)


@dataclass(frozen=True)
class Fact:
    """One forget row: who, what kind of fact, how it is worded, and the tokens of name and value."""

    person: str
    field: str
    name: Tokens
    value: Tokens
    wording: Wording


def split_caption(tokens: Tokens, name: Tokens, value: Tokens) -> Wording:
    """Find name and value in a caption's tokens, the longer one first; a part that is not found leaves no gap."""
    marks: list[tuple[int, int, str]] = []
    for label, wanted in sorted((("name", name), ("value", value)), key=lambda item: -len(item[1])):
        for start in range(len(tokens) - len(wanted) + 1) if wanted else ():
            stop = start + len(wanted)
            if tokens[start:stop] == wanted and all(stop <= a or start >= b for a, b, _ in marks):
                marks.append((start, stop, label))
                break
    marks.sort()
    parts, gaps, last = [], [], 0
    for start, stop, label in marks:
        parts.append(tokens[last:start])
        gaps.append(label)
        last = stop
    return Wording((*parts, tokens[last:]), tuple(gaps))


def facts_of(captions: Sequence[str], columns: Mapping[str, Sequence[Any]], tokenize: Any) -> list[Fact]:
    """Every row of the forget split. Tokens are without start, end and padding."""
    names, values = [str(v) for v in columns["name"]], [str(v) for v in columns["value"]]
    distinct = list(dict.fromkeys([*captions, *names, *values]))
    found = dict(zip(distinct, bare(tokenize(distinct)), strict=True))
    people, fields = columns["identity_id"], columns["data_field"]
    return [
        Fact(
            str(people[row]),
            str(fields[row]),
            found[names[row]],
            found[values[row]],
            split_caption(found[caption], found[names[row]], found[values[row]]),
        )
        for row, caption in enumerate(captions)
    ]


def bare(tokens: Int[Tensor, "n context"]) -> list[Tokens]:
    """Token ids between start and end of text."""
    ends = tokens.argmax(dim=1)  # end-of-text has the largest id
    return [tuple(row[1:end].tolist()) for row, end in zip(tokens, ends.tolist(), strict=True)]


def packed(sequences: Sequence[Tokens], start: int, end: int, context: int) -> Int[Tensor, "n context"]:
    """Sequences with start, end and padding; those that are too long are cut as the tokenizer cuts them."""
    result = torch.zeros(len(sequences), context, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        kept = [start, *sequence[: context - 2], end]
        result[row, : len(kept)] = torch.tensor(kept)
    return result
