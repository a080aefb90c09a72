"""Tables of pairs in CSV and TSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from salmu_core.errors import BadData
from salmu_deletion.own_data.columns import match_columns
from salmu_deletion.own_data.raw import RawTable, rivals


def read_csv(path: Path, columns: Mapping[str, str], optional: frozenset[str]) -> RawTable:
    """A table with headings, in UTF-8.

    Raises:
        BadData: another encoding, uneven rows, a heading that comes twice, or no such columns; file and line are named.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            headings = [heading.strip() for heading in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise BadData(f"'{path}' is not UTF-8: {error.reason} at byte {error.start}.", "Save it as UTF-8.") from None
    except csv.Error as error:
        raise BadData(f"'{path}' is no readable CSV: {error}, line {reader.line_num}.") from None
    _check_headings(path, headings, delimiter)
    uneven = next((line for line, row in rows if len(row) != len(headings)), None)
    if uneven is not None:
        raise BadData(
            f"'{path}' has more or fewer cells than headings near line {uneven}.", "Put captions that hold commas in quotes."
        )
    found = match_columns(headings, columns, str(path), optional)
    cells = {name: [row[place] for _, row in rows] for place, name in enumerate(headings)}
    _refuse_twice(path, headings, found.of.values())
    return RawTable(
        path,
        found,
        {name: cells[name] for name in found.of.values()},
        unused=[name for name in headings if name not in found.of.values()],
        findings=rivals(cells, found, columns, f"'{path.name}'"),
    )


def _check_headings(path: Path, headings: list[str], delimiter: str) -> None:
    other = next(
        (sign for sign in (";", "\t", "|", ",") if sign != delimiter and len(headings) == 1 and sign in headings[0]), None
    )
    if other is not None:
        name = "tabs" if other == "\t" else f"'{other}'"
        raise BadData(
            f"'{path}' is separated by {name}.", "Save it with commas." + (" Or name it .tsv." if other == "\t" else "")
        )


def _refuse_twice(path: Path, headings: list[str], used: object) -> None:
    twice = [name for name, count in Counter(headings).items() if count > 1 and name in used]  # type: ignore[operator]
    if twice:
        raise BadData(
            f"'{path}' has the column '{twice[0]}' {headings.count(twice[0])} times.",
            "Give each a name of its own, or take one out.",
        )
