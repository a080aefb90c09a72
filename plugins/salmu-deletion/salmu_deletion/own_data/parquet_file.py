"""Tables of pairs in parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salmu_core.data.images import ImageRows, join_images
from salmu_core.data.parquet_images import ParquetImages, open_parquet
from salmu_core.data.splits import Split
from salmu_core.errors import BadData, SalmuError
from salmu_deletion.own_data.cells import EXACT, read_texts
from salmu_deletion.own_data.columns import match_columns
from salmu_deletion.own_data.images import PathImages, picture_path
from salmu_deletion.own_data.raw import RawTable, rivals, usual_names
from salmu_deletion.own_data.tar_file import PICTURES

_NO_BYTES = "Take the row out, or give its picture."
_AGAIN = "Save or fetch it again."
_ENDINGS = tuple(f".{ending}".encode() for ending in PICTURES)


def read_parquet(path: Path, columns: Mapping[str, str], folder: Path, optional: frozenset[str]) -> RawTable:
    """A table whose pictures are bytes, the struct of Hugging Face datasets, or paths of any type of text.

    Args:
        folder: that paths begin in.

    Raises:
        BadData: a Git LFS pointer or another file, no such columns, one that comes twice, or pictures of another type.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise SalmuError(
            "Reading parquet takes pyarrow, which is not installed.", "pip install 'salmu-deletion[parquet]'"
        ) from None
    file = open_parquet(path, _AGAIN)
    schema = file.schema_arrow
    found = match_columns(schema.names, columns, str(path), optional)
    twice = [name for name, count in Counter(schema.names).items() if count > 1 and name in found.of.values()]
    if twice:
        raise BadData(
            f"'{path}' has the column '{twice[0]}' more than once.", "Give each a name of its own, or take one out."
        )
    pictures = found.of["image"]
    wanted = [name for part, name in found.of.items() if part != "image"]
    wanted += sorted((usual_names() & set(schema.names)) - {pictures, *wanted} - _not_text(schema))
    try:
        values: dict[str, Sequence[Any]] = file.read(columns=wanted).to_pydict()
        kind = _plain_type(schema.field(pictures).type)
        if _is_text(kind) or _are_paths(file, pictures, kind):
            cells = file.read(columns=[pictures]).column(pictures).to_pylist()
            values[pictures] = [cell.decode() if isinstance(cell, bytes) else cell for cell in cells]
            images, names = None, None
        else:
            images, names = _pictures(path, file, pictures, kind, folder)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadData(f"'{path}' is not a readable parquet file: {error}.", _AGAIN) from error
    exact = {name: EXACT[str(schema.field(name).type)] for name in wanted if str(schema.field(name).type) in EXACT}
    return RawTable(
        path,
        found,
        {name: values[name] for name in found.of.values() if name in values},
        images,
        names,
        exact,
        [name for name in schema.names if name not in found.of.values()],
        rivals(values, found, columns, f"'{path.name}'"),
    )


def _pictures(path: Path, file: Any, column: str, kind: Any, folder: Path) -> tuple[ImageRows, list[str]]:
    """Pictures that lie in the file, or beside it where a struct has a path and no bytes; and names of the rows."""
    import pyarrow as pa

    rows = file.metadata.num_rows
    names = [f"{path.name}#{row}" for row in range(rows)]
    cells = ParquetImages(path, column, _NO_BYTES)
    if _is_binary(kind):
        return cells, names
    fields = (
        {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
        if pa.types.is_struct(kind)
        else {}
    )
    if not (_is_binary(fields.get("bytes")) or _is_text(fields.get("path"))):
        raise BadData(
            f"'{path}': the column '{column}' of pictures is of type {kind}.",
            "Pictures are encoded bytes (PNG, JPEG), paths as text, or structs with 'bytes' or 'path', as the datasets library writes"
            " them.",
        )
    if not _is_text(fields.get("path")) or _all_have_bytes(file, column):
        return cells, names
    outside = _rows_without_bytes(file, column, "bytes" in fields)
    if not outside:
        return cells, names
    paths = file.read(columns=[f"{column}.path"]).column(column).combine_chunks().field("path").to_pylist()
    given, faults = read_texts([paths[row] for row in outside], "image", f"column '{column}' of '{path}'")
    if faults:
        raise BadData(faults[0].message, faults[0].hint)
    beside = PathImages([picture_path(folder, name or "") for name in given])
    for row, name in zip(outside, given, strict=True):
        names[row] = name or names[row]
    if len(outside) == rows:
        return beside, names
    place = {row: len(cells) + number for number, row in enumerate(outside)}
    whole = Split("images", join_images([cells, beside])).take([place.get(row, row) for row in range(rows)])
    assert whole.images is not None
    return whole.images, names


def _are_paths(file: Any, column: str, kind: Any) -> bool:
    """Does a column of bytes hold paths, as programs write them that know no text? Its first cell tells."""
    if not _is_binary(kind):
        return False
    batch = next(file.iter_batches(batch_size=1, columns=[column]), None)
    cell = batch.column(0)[0].as_py() if batch is not None and len(batch) else None
    return (
        isinstance(cell, bytes)
        and cell.lower().endswith(_ENDINGS)
        and len(cell) < 1000
        and cell.decode("utf-8", "ignore").isprintable()
    )


def _all_have_bytes(file: Any, column: str) -> bool:
    """Do the statistics of the file say so? They spare reading every picture."""
    metadata = file.metadata
    if not metadata.num_row_groups:
        return True
    first = metadata.row_group(0)
    number = next((n for n in range(first.num_columns) if first.column(n).path_in_schema == f"{column}.bytes"), None)
    if number is None:
        return False
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(number).statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            return False
    return True


def _rows_without_bytes(file: Any, column: str, has_bytes: bool) -> list[int]:
    """Row group by row group: pictures are large."""
    if not has_bytes:
        return list(range(file.metadata.num_rows))
    rows: list[int] = []
    start = 0
    for group in range(file.metadata.num_row_groups):
        cells = file.read_row_group(group, columns=[f"{column}.bytes"]).column(column).combine_chunks()
        empty = cells.field("bytes").is_null().to_pylist()
        rows += [start + row for row, null in enumerate(empty) if null]
        start += len(empty)
    return rows


def _plain_type(kind: Any) -> Any:
    """A type without dictionary and extension around it."""
    import pyarrow as pa

    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _is_text(kind: Any) -> bool:
    return kind is not None and str(kind) in ("string", "large_string", "string_view")


def _is_binary(kind: Any) -> bool:
    return kind is not None and (
        str(kind) in ("binary", "large_binary", "binary_view") or str(kind).startswith("fixed_size_binary")
    )


def _not_text(schema: Any) -> set[str]:
    """Columns that cannot rival one of text, and may be large."""
    return {field.name for field in schema if not _is_text(_plain_type(field.type))}
