"""Find out which column of a user's table plays which part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from salmu_core.errors import BadData, BadOptions

#: Parts a column can play, and names under which each is found when nothing is said.
PARTS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "filepath", "file_name", "path", "jpg"),
    "caption": ("caption", "text", "title", "txt"),
    "identity": ("identity", "identity_id", "person_id", "person"),
    "field": ("field", "data_field"),
    "name": ("name",),
    "value": ("value",),
}
#: Columns of the CSV that `salmu find` writes.
FOUND_COLUMNS = ("image", "caption", "identity", "field", "name", "value", "row", "why", "similarity")
_NEEDED = ("image", "caption")


@dataclass(frozen=True)
class Columns:
    """Part -> column of one table; parts that the table does not have are left out."""

    of: Mapping[str, str]

    def get(self, part: str) -> str | None:
        """The column that plays a part."""
        return self.of.get(part)


def parse_columns(text: str) -> dict[str, str]:
    """`image=photo,caption=text` as a mapping of part to column.

    Raises:
        BadOptions: no '=', an unknown part, or a part named twice.
    """
    mapping: dict[str, str] = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        part, sign, column = (piece.strip() for piece in word.partition("="))
        if not sign or not column:
            raise BadOptions(f"--columns takes PART=COLUMN, got '{word}'.", "For example image=photo,caption=text.")
        if part not in PARTS:
            raise BadOptions(f"'{part}' is no part that a column can play.", f"Parts: {', '.join(PARTS)}.")
        if part in mapping:
            raise BadOptions(f"--columns names '{part}' twice.")
        mapping[part] = column
    return mapping


def match_columns(names: Iterable[str], given: Mapping[str, str], where: str, optional: frozenset[str]) -> Columns:
    """Find each part among a table's columns: as given, else under its usual names. A table of `salmu find` has names of its own,
    beside whatever names the other table has.

    Args:
        names: the table's columns.
        where: the table, for error messages.
        optional: parts that were given for another table too and may be missing in this one.

    Raises:
        BadData: a given column that is not there, or no column for image or caption.
    """
    there = list(names)
    if tuple(there) == FOUND_COLUMNS:
        given = {}
    found: dict[str, str] = {}
    for part, usual in PARTS.items():
        if part in given:
            if given[part] in there:
                found[part] = given[part]
            elif part not in optional:
                raise BadData(
                    f"'{where}' has no column '{given[part]}' for {part}.", f"Its columns: {', '.join(there) or 'none'}."
                )
        else:
            match = next((name for name in usual if name in there and name not in given.values()), None)
            if match is not None:
                found[part] = match
    missing = [part for part in _NEEDED if part not in found]
    if missing:
        taken = "".join(f" '{name}' is taken as {part}." for part, name in found.items() if name in PARTS[missing[0]])
        raise BadData(
            f"'{where}' has no column for {' and '.join(missing)}.",
            f"Its columns: {', '.join(there) or 'none'}.{taken} Say which with --columns {missing[0]}=COLUMN.",
        )
    return Columns(found)
