"""Reading pairs from CSV, TSV, parquet and webdataset tar files, into one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from salmu_core.data.images import ImageRows, join_images
from salmu_core.errors import BadData
from salmu_core.files.first_bytes import refuse_other_content
from salmu_core.layout import Finding
from salmu_deletion.own_data.cells import plain_numbers, read_texts, without_zero
from salmu_deletion.own_data.columns import PARTS
from salmu_deletion.own_data.csv_file import read_csv
from salmu_deletion.own_data.images import PathImages, picture_path
from salmu_deletion.own_data.parquet_file import read_parquet
from salmu_deletion.own_data.raw import RawTable
from salmu_deletion.own_data.shards import shard_findings
from salmu_deletion.own_data.shards import table_files as table_files
from salmu_deletion.own_data.tar_file import read_tar

_OPTIONAL = {"identity": "identities", "field": "fields", "name": "names", "value": "values"}


@dataclass(frozen=True)
class Table:
    """Rows of a user's table.

    Attributes:
        images: one per row.
        captions: one per row, as they stand; empty where the cell is empty.
        file_names: how a person finds the row again.
        identities, fields, names, values: None where the table has no such column, else one entry per row, None where empty.
        findings: what was noticed on reading. With errors among them the rows are not what the table says.
        used, unused: columns by the part that they play, and those that play no part.
    """

    source: Path
    images: ImageRows
    captions: Sequence[str]
    file_names: Sequence[str]
    identities: Sequence[str | None] | None = None
    fields: Sequence[str | None] | None = None
    names: Sequence[str | None] | None = None
    values: Sequence[str | None] | None = None
    findings: Sequence[Finding] = ()
    used: Mapping[str, str] | None = None
    unused: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.captions)

    def require_good(self) -> Table:
        """The table itself, where it could be read as it stands.

        Raises:
            BadData: cells that are not text.
        """
        bad = next((finding for finding in self.findings if finding.severity == "error"), None)
        if bad is not None:
            raise BadData(f"'{self.source}': {bad.message}", bad.hint)
        return self


def read_table(
    path: Path, columns: Mapping[str, str], images: Path | None = None, optional: frozenset[str] = frozenset()
) -> Table:
    """Read a table; pictures are read when they are needed.

    Args:
        columns: part -> column, see `columns.parse_columns`.
        images: folder that relative paths of pictures begin in; default: the folder of the table.
        optional: see `columns.match_columns`.

    Raises:
        BadData: nothing there, no such columns, or a file that is not what its name says; file and row are named. Cells that are no
            text are among the table's findings: `Table.require_good` raises for them.
    """
    files = table_files(path)
    if images is not None and not images.is_dir():
        raise BadData(
            f"There is no folder of pictures '{images}'.", "--images takes the folder that paths of pictures begin in."
        )
    parts = [_as_table(_read_one(file, columns, images, optional), images) for file in files]
    if len(parts) == 1:
        return replace(parts[0], findings=[*shard_findings(path, files), *parts[0].findings])
    joined: dict[str, Any] = {}
    for attribute in _OPTIONAL.values():
        found = [getattr(part, attribute) for part in parts]
        known = any(values is not None for values in found)
        joined[attribute] = (
            [v for p, vs in zip(parts, found, strict=True) for v in (vs or [None] * len(p))] if known else None
        )
    return Table(
        path,
        join_images([part.images for part in parts]),
        [caption for part in parts for caption in part.captions],
        [name for part in parts for name in part.file_names],
        **joined,
        findings=[*shard_findings(path, files), *_several(parts), *(f for part in parts for f in part.findings)],
        used=parts[0].used,
        unused=list(dict.fromkeys(name for part in parts for name in part.unused)),
    )


def align(tables: Sequence[Table]) -> list[Table]:
    """The same tables with whole numbers among identities written in one way.

    Where one table has person `1` and another, or another row, has `1.0`, pandas has made floating point numbers of whole ones since
    some cell was empty: the same person. Identities are left alone where all of them end in `.0`, and where some are fractions.
    """
    if not plain_numbers(identity for table in tables for identity in table.identities or ()):
        return list(tables)
    aligned = []
    for table in tables:
        changed = [row for row, who in enumerate(table.identities or ()) if who is not None and without_zero(who) != who]
        if changed:
            found = Finding(
                "warning",
                f"{len(changed)} identities are whole numbers written with .0, as in row {changed[0] + 1}: they are taken without it,"
                " as the others are written.",
                "Save identities as text.",
                "float identities",
            )
            plain = [None if who is None else without_zero(who) for who in table.identities or ()]
            table = replace(table, identities=plain, findings=[*table.findings, found])
        aligned.append(table)
    return aligned


def _several(parts: Sequence[Table]) -> list[Finding]:
    """Shards of one table that do not have the same columns in the same parts."""
    odd = [part for part in parts if part.used != parts[0].used]
    if not odd:
        return []
    first, other = (
        ", ".join(f"{part} '{name}'" for part, name in (table.used or {}).items()) for table in (parts[0], odd[0])
    )
    return [
        Finding(
            "warning",
            f"Shards have other columns: '{parts[0].source.name}' has {first}; '{odd[0].source.name}' has {other}.",
            "Say which with --columns, or give the shards as tables of their own.",
            "columns differ",
        )
    ]


def _read_one(path: Path, columns: Mapping[str, str], images: Path | None, optional: frozenset[str]) -> RawTable:
    refuse_other_content(path)
    match path.suffix.lower():
        case ".parquet":
            return read_parquet(path, columns, images or path.parent, optional)
        case ".tar":
            return read_tar(path, columns, optional)
        case _:
            return read_csv(path, columns, optional)


def _as_table(raw: RawTable, folder: Path | None) -> Table:
    findings = list(raw.findings)

    def column(part: str) -> list[str | None] | None:
        name = raw.columns.get(part)
        if name is None:
            return None
        texts, found = read_texts(raw.values[name], part, f"'{raw.path.name}', column '{name}',", raw.exact_of(name))
        findings.extend(found)
        return texts

    captions = column("caption") or []
    images, file_names = raw.images, raw.file_names
    if images is None or file_names is None:
        file_names = [name or "" for name in column("image") or []]
        images = PathImages([picture_path(folder or raw.path.parent, name) for name in file_names])
    optional = {attribute: column(part) for part, attribute in _OPTIONAL.items()}
    return Table(
        raw.path,
        images,
        [caption or "" for caption in captions],
        file_names,
        **optional,
        findings=findings,
        used={part: name for part, name in raw.columns.of.items() if part in PARTS},
        unused=raw.unused,
    )


__all__ = ["PARTS", "Table", "align", "read_table", "table_files"]
