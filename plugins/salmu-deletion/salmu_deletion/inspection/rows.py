"""The rows that can be looked at: pairs of all measured splits, each pair once, with where it stood."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from salmu_core.benchmark import Benchmark
from salmu_core.errors import BadData, UnknownName

#: Where a pair stood: asked to be forgotten; like those and nobody asked; ordinary.
Group = Literal["forget", "holdout", "retain"]


@dataclass(frozen=True)
class Row:
    """One pair.

    Attributes:
        split, position: where it is read from.
        identity, field: None where nobody is named, or nothing is told apart.
    """

    split: str
    position: int
    group: Group
    identity: str | None
    field: str | None
    name: str | None
    file_name: str
    caption: str

    @property
    def association(self) -> str:
        """IDENTITY/FIELD; the file where there is no identity."""
        return f"{self.identity}/{self.field}" if self.identity is not None else self.file_name


def group_of(benchmark: Benchmark, split: str) -> Group:
    """forget: the split that methods forget, and parts of it. holdout: by its name. retain: all others."""
    if benchmark.splits()[split].role == "forget" or split.startswith("forget"):
        return "forget"
    return "holdout" if split.startswith("holdout") else "retain"


def gather_rows(benchmark: Benchmark, splits: Sequence[str]) -> list[Row]:
    """All rows of the given splits. A pair that stands in several (a part of a split is a split too) is taken once, from the
    first of: forget, holdout, retain."""
    order: Mapping[Group, int] = {"forget": 0, "holdout": 1, "retain": 2}
    rows: list[Row] = []
    seen: set[tuple[str, str, str]] = set()
    for name in sorted(splits, key=lambda split: order[group_of(benchmark, split)]):  # stable: the benchmark's order within
        split = benchmark.split(name)
        captions = split.texts or ()
        columns = split.columns
        files = columns.get("file_name", [str(row) for row in range(len(split))])
        group = group_of(benchmark, name)
        new: Counter[tuple[str, str, str]] = Counter()
        for position, caption in enumerate(captions):
            identity, field, person = (_text(columns, key, position) for key in ("identity_id", "data_field", "name"))
            # A pair that one split holds twice is two rows; one that a split shares with an earlier one is not taken again.
            # Forget and retain may be tables of two folders, whose files are called alike.
            key = (f"{group == 'forget'} {files[position]}", caption, identity or "")
            if key in seen:
                continue
            new[key] += 1
            rows.append(Row(name, position, group, identity, field, person, str(files[position]), caption))
        seen |= set(new)
    return rows


def find_identity(rows: Sequence[Row], asked: str) -> list[Row]:
    """The rows to look at for an identity or a name: those to be forgotten, or all of theirs where none is.

    Raises:
        UnknownName: nobody of that identity or name; near matches are listed.
        BadData: several people have that name.
    """
    asked = unicodedata.normalize("NFC", asked)  # as identities of tables are
    own = [row for row in rows if row.identity == asked]
    if not own and (wanted := asked.strip().casefold()):  # empty names are nobody's
        found = {row.identity for row in rows if row.identity and wanted in _called(row)}
        people = sorted(identity for identity in found if identity)
        if len(people) > 1:
            raise BadData(f"{len(people)} people are called '{asked}': {', '.join(people)}.", "Give the identity instead.")
        own = [row for row in rows if people and row.identity == people[0]]
    if not own:
        known = {row.identity for row in rows if row.identity} | {row.name for row in rows if row.name and row.identity}
        raise _unknown("identity", asked, known)
    return [row for row in own if row.group == "forget"] or own


def find_association(rows: Sequence[Row], asked: str) -> list[Row]:
    """The rows of one association, given as IDENTITY/FIELD, or as a file name for rows of nobody.

    Raises:
        UnknownName: no row has that name; near matches are listed.
        BadData: two associations are called so, as `b/c` of `a` and `c` of `a/b` are.
    """
    own = [row for row in rows if row.association == asked]
    if not own:
        raise _unknown("association", asked, {row.association for row in rows})
    ways = sorted({(row.identity or "", row.field or "") for row in own if row.identity is not None})
    if len(ways) > 1:
        told = " and ".join(f"'{field}' of '{identity}'" for identity, field in ways[:3])
        raise BadData(f"'{asked}' is {told}: a slash in identities or fields.", "Ask with --identity.")
    return own


def _called(row: Row) -> set[str]:
    """What a person may be asked for by, without case."""
    return {word.casefold() for word in (row.name, row.identity) if word}


def _unknown(kind: str, asked: str, known: set[str]) -> UnknownName:
    error = UnknownName(kind, asked, known)
    if len(known) > 20 and error.hint and error.hint.startswith("Known:"):
        some = ", ".join(sorted(known)[:3])
        error = UnknownName(kind, asked, known, f"There are many, e.g. {some}. --list shows who and what there is.")
    return error


def list_people(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Who is there: identity, name, and facts with their number of rows by group."""
    people: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.identity is None:
            continue
        person = people.setdefault(row.identity, {"identity": row.identity, "name": row.name, "facts": {}})
        person["name"] = person["name"] or row.name
        facts = person["facts"].setdefault(row.group, {})
        label = row.field or "ordinary"
        facts[label] = facts.get(label, 0) + 1
    return [people[identity] for identity in sorted(people)]


def _text(columns: Mapping[str, Sequence[Any]], key: str, position: int) -> str | None:
    value = columns[key][position] if key in columns else None
    return None if value in (None, "") else str(value)
