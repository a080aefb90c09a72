"""Assign the rows of a user's tables to splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from salmu_core.data.splits import Split, set_aside
from salmu_deletion.own_data.tables import Table

MOST = 5000  # set aside at most: more measure no better


@dataclass(frozen=True)
class RetainParts:
    """Row numbers of retain: what the method may see, and what is only measured, by whom it shows."""

    seen: Sequence[int]
    aside: Sequence[int]
    of_forgotten: Sequence[int]  # people who are in forget
    of_others: Sequence[int]  # people who are not
    not_of_forgotten: Sequence[int]  # the same, and rows of nobody known


def share_out(identities: Sequence[str | None], forgotten: frozenset[str], seed: int) -> RetainParts:
    """Set some retain rows aside, drawn from `seed`; from each kind its share, so that each can be measured.

    Args:
        identities: of every retain row.
        forgotten: identities in forget.
    """
    kinds: dict[str, list[int]] = {"forgotten": [], "others": [], "nobody": []}
    for row, identity in enumerate(identities):
        kinds["nobody" if identity is None else "forgotten" if identity in forgotten else "others"].append(row)
    aside = {kind: set_aside(rows, seed, "own data", "aside", kind, most=MOST) for kind, rows in kinds.items()}
    hidden = {row for rows in aside.values() for row in rows}
    return RetainParts(
        seen=[row for row in range(len(identities)) if row not in hidden],
        aside=sorted(hidden),
        of_forgotten=aside["forgotten"],
        of_others=aside["others"],
        not_of_forgotten=sorted([*aside["others"], *aside["nobody"]]),
    )


def as_split(name: str, table: Table, picture_keys: Sequence[str] | None = None) -> Split:
    """A table as a split with the columns that methods and metrics know.

    `data_field` is the table's own where it has one; else every distinct caption of a person is a fact of its own.

    Args:
        picture_keys: content key of every picture: rows without an identity get one of their picture. None: they have none.

    Raises:
        BadData: cells of the table are no text.
    """
    table.require_good()
    identities: list[str | None] = list(table.identities or [None] * len(table))
    if picture_keys is not None:
        identities = [
            identity if identity is not None else f"picture-{key[:12]}"
            for identity, key in zip(identities, picture_keys, strict=True)
        ]
    facts: dict[str | None, dict[str, int]] = {}
    fields = []
    for row, (identity, caption) in enumerate(zip(identities, table.captions, strict=True)):
        given = table.fields[row] if table.fields is not None else None
        own = facts.setdefault(identity, {})
        fields.append(given if given is not None else f"fact-{own.setdefault(caption, len(own) + 1)}")
    columns: dict[str, Sequence[object]] = {
        "identity_id": identities,
        "file_name": list(table.file_names),
        "data_field": fields,
    }
    for column, values in (("name", table.names), ("value", table.values)):
        if values is not None:
            columns[column] = [value or "" for value in values]
    return Split(name, table.images, list(table.captions), columns)
