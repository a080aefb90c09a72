"""Tables of pairs in CSV and TSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from salmu_core.errors import BadData
from salmu_deletion.own_data.columns import match_columns
from salmu_deletion.own_data.raw import RawTable, rivals, usual_names


def read_csv(path: Path, columns: Mapping[str, str], optional: frozenset[str]) -> RawTable:
    """A table with headings, in UTF-8. Empty lines are left out.

    Raises:
        BadData: another encoding or separator, uneven rows, a heading that comes twice, or no such columns; file and line are named.
    """
    _refuse_binary(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_without_nul(file, path), delimiter=delimiter, strict=True)
            headings = [heading.strip() for heading in next((row for row in reader if row), [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise BadData(f"'{path}' is not UTF-8: {_encoding(path, error)}.", "Save it as UTF-8.") from None
    except csv.Error as error:
        if "field limit" in str(error):
            raise BadData(
                f"'{path}' has a cell of more than {csv.field_size_limit():,} characters, near line {reader.line_num}.",
                "Either a quote before it never closes, or pictures stand there as text: give their paths.",
            ) from None
        raise BadData(
            f"'{path}' is not a readable CSV: {error}, line {reader.line_num}.",
            "Cells that begin with a quote end with one, and a quote inside of them is written twice.",
        ) from None
    _check_separator(path, headings, delimiter, columns)
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


def _refuse_binary(path: Path) -> None:
    """Tables of other kinds under the name of this one."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        raise BadData(f"'{path}' is a parquet file.", "Give it the ending .parquet.")
    if start == b"PK\x03\x04":
        raise BadData(
            f"'{path}' is a zip archive, as Excel's workbooks are.", "Unpack it, or save the sheet as CSV in UTF-8."
        )


def _without_nul(lines: Iterable[str], path: Path) -> Iterator[str]:
    """The lines of a text. A text with NUL is refused: it was padded, or written in UTF-16."""
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise BadData(
                f"'{path}' has NUL characters, first in line {number}: it is not UTF-8, or was padded.",
                "Save it as UTF-8, without them.",
            )
        yield line


def _encoding(path: Path, error: UnicodeDecodeError) -> str:
    """What it is instead, by the mark at its beginning, or where it stops being UTF-8."""
    with path.open("rb") as file:
        start = file.read(64)
    other = start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start
    return "it is UTF-16 or UTF-32" if other else f"{error.reason} at byte {error.start}"


def _check_separator(path: Path, headings: list[str], delimiter: str, columns: Mapping[str, str]) -> None:
    """Are the headings separated by another sign? One heading is suspicious, and so are usual ones that it would give."""
    whole = delimiter.join(headings)
    if whole.startswith("sep="):
        raise BadData(
            f"'{path}' begins with a line for Excel, '{whole[:8]}'.", "Take that line out, and save it with commas."
        )
    usual = usual_names() | set(columns.values())
    for sign in (";", "\t", "|", ","):
        parts = [part.strip() for part in whole.split(sign)]
        if sign == delimiter or len(parts) < 2:
            continue
        if len(headings) == 1 or (not usual & set(headings) and len(usual & set(parts)) > 1):
            name = "tabs" if sign == "\t" else f"'{sign}'"
            raise BadData(
                f"'{path}' is separated by {name}.", "Save it with commas." + (" Or name it .tsv." if sign == "\t" else "")
            )


def _refuse_twice(path: Path, headings: list[str], used: object) -> None:
    twice = [name for name, count in Counter(headings).items() if count > 1 and name in used]  # type: ignore[operator]
    if twice:
        raise BadData(
            f"'{path}' has the column '{twice[0]}' {headings.count(twice[0])} times.",
            "Give each a name of its own, or take one out.",
        )
