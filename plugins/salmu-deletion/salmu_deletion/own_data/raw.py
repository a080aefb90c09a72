"""What the readers of CSV, parquet and tar hand over, before cells become text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salmu_core.data.images import ImageRows
from salmu_core.layout import Finding
from salmu_deletion.own_data.cells import EXACT, named_rows
from salmu_deletion.own_data.columns import PARTS, Columns


@dataclass(frozen=True)
class RawTable:
    """One file.

    Attributes:
        columns: which plays which part.
        values: cells of the columns that play a part, as the file has them. Not those of pictures that lie in the file.
        images, file_names: of every row; None where `values` holds paths.
        exact: of a column's type, see `cells.read_texts`.
        unused: columns that play no part.
        findings: on the file as a whole.
    """

    path: Path
    columns: Columns
    values: Mapping[str, Sequence[Any]]
    images: ImageRows | None = None
    file_names: Sequence[str] | None = None
    exact: Mapping[str, int] = field(default_factory=dict)
    unused: Sequence[str] = ()
    findings: Sequence[Finding] = ()

    def exact_of(self, column: str) -> int:
        """Whole numbers below this are told apart."""
        return self.exact.get(column, EXACT["double"])


def rivals(values: Mapping[str, Sequence[Any]], columns: Columns, given: Mapping[str, str], where: str) -> list[Finding]:
    """Columns that could have played a part as well, and say something else.

    Args:
        values: cells of all columns that go by a usual name.
        given: parts that were named by the user, who has chosen.
    """
    findings = []
    for part, chosen in columns.of.items():
        if part in given or part == "image":
            continue
        for other in PARTS[part]:
            if other == chosen or other not in values or other in columns.of.values():
                continue
            pairs = zip(values[chosen], values[other], strict=True)
            rows = [row for row, (one, two) in enumerate(pairs) if two not in (None, "") and one != two]
            if rows:
                findings.append(
                    Finding(
                        "warning",
                        f"{where} has '{chosen}' and '{other}', which differ in {len(rows)} rows ({named_rows(rows)}):"
                        f" '{chosen}' is taken as {part}.",
                        f"Say which with --columns {part}=COLUMN.",
                        f"two columns for {part}",
                    )
                )
    return findings


def usual_names() -> frozenset[str]:
    """Every name under which some part is found."""
    return frozenset(name for names in PARTS.values() for name in names)
