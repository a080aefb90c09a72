"""Reading a snapshot in SALMUBench's layout, row group by row group: no split has to fit in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from salmu_core.data.images import join_images
from salmu_core.data.parquet_images import ParquetImages, open_parquet
from salmu_core.data.splits import Split
from salmu_core.errors import BadData
from salmu_core.files.first_bytes import refuse_other_content
from salmu_core.files.writing import visible
from salmubench import layout, rules

_REQUIRED = ("image", "text", "identity_id", "file_name")
_SHARD = re.compile(r"(?P<split>[^-]+)-(?P<number>\d+)-of-(?P<count>\d+)\.parquet")


@dataclass(frozen=True)
class Snapshot:
    """A folder in SALMUBench's layout."""

    folder: Path

    def shards(self, split: str) -> list[Path]:
        """The parquet files of a split, sorted: row order is theirs."""
        return [shard for shard in visible(self.folder / layout.DATA, f"{split}-*.parquet") if split_of(shard) == split]

    def has(self, split: str) -> bool:
        """Is that split's table here?"""
        return bool(self.shards(split))

    def rows(self, split: str) -> int:
        """Rows of a table, from the ends of its files.

        Raises:
            BadData: a shard that is not a parquet file.
        """
        return sum(len(ParquetImages(shard)) for shard in self.shards(split))

    def is_complete(self) -> bool:
        """Are all files here that a benchmark needs? By their names; nothing is read."""
        return all((self.folder / name).is_file() for name in layout.REQUIRED_METADATA) and all(
            self.has(split) and not missing_shards(self.shards(split)) for split in layout.SPLITS
        )

    def metadata(self, name: str) -> Any:
        """Content of a metadata file.

        Raises:
            BadData: it is missing, is not JSON, or has another shape.
        """
        path = self.folder / name
        refuse_other_content(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadData(f"The metadata file '{path}' is missing.", "The snapshot is incomplete: fetch it again.") from None
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BadData(f"The metadata file '{path}' is not JSON: {error}.", "Fetch it again.") from error
        fault = rules.metadata_fault(name, content)
        if fault is not None:
            raise BadData(f"The metadata file '{path}' is not what it should be: {fault}.", "Fetch it again.")
        return content

    def has_generic_captions(self) -> bool:
        """Is the file of captions without private data here? It may be missing."""
        return (self.folder / layout.GENERIC_CAPTIONS).is_file()

    def columns(self, split: str) -> dict[str, list[Any]]:
        """Every column of a table but the pictures. Identities are texts, also where the table holds numbers.

        Raises:
            BadData: no shard or some missing, a shard that is not a parquet file, or a column missing.
        """
        shards = self.shards(split)
        if not shards:
            raise BadData(
                f"The split '{split}' has no file {self.folder / layout.DATA}/{split}-*.parquet.",
                "The snapshot is incomplete.",
            )
        absent = missing_shards(shards)
        if absent:
            raise BadData(
                f"The split '{split}' lacks {len(absent)} of its shards: {', '.join(absent[:3])}.",
                "The snapshot is incomplete: fetch it again.",
            )
        columns: dict[str, list[Any]] = {}
        for shard in shards:
            before = len(columns.get("file_name", ()))
            for name, values in _read_columns(shard, split).items():
                columns.setdefault(name, [None] * before).extend(values)
            rows = len(columns["file_name"])
            for values in columns.values():  # a column that this shard lacks
                values.extend([None] * (rows - len(values)))
        columns["identity_id"] = [_identity(value) for value in columns["identity_id"]]
        return columns

    def table(self, split: str) -> Split:
        """One table as a split with its own columns.

        Raises:
            BadData: as `columns`; or a row without caption, file name or (on sensitive splits) identity, or with the file
                name of another row; split, row and file are named.
        """
        columns = self.columns(split)
        texts = columns.pop("text")
        rules.raise_first_error(rules.table_findings(split, texts, columns))
        return Split(
            name=split,
            images=join_images([ParquetImages(shard) for shard in self.shards(split)]),
            texts=None if any(text is None for text in texts) else texts,
            columns=columns,
        )

    def sensitive(self, split: str) -> Split:
        """A sensitive table with the columns `data_field`, `name`, `value` and, where there is a file of them, `generic_caption` from
        the metadata.

        Raises:
            BadData: as `table`; or a row without metadata, an unknown data field, or a person of whom the name or the
                caption's field is not known; split, row and file are named.
        """
        table = self.table(split)
        metadata = {name: self.metadata(name) for name in (layout.CAPTIONS, layout.IDENTITIES)}
        if self.has_generic_captions():
            metadata[layout.GENERIC_CAPTIONS] = self.metadata(layout.GENERIC_CAPTIONS)
        texts = table.texts or []
        metadata[layout.IDENTITIES] = with_identities(metadata[layout.IDENTITIES], table.columns["identity_id"])
        rules.raise_first_error(rules.sensitive_findings(split, texts, table.columns, metadata))
        added: dict[str, list[Any]] = {"data_field": [], "name": [], "value": []}
        for identity, file_name, text in zip(table.columns["identity_id"], table.columns["file_name"], texts, strict=True):
            person = metadata[layout.IDENTITIES][identity]
            chosen = metadata[layout.CAPTIONS][file_name]["data_field"]
            values = rules.values_of(person, chosen)
            added["data_field"].append(chosen)
            added["name"].append(rules.values_of(person, "name")[0])
            added["value"].append(next((value for value in values if value in text), values[0]))
        if (generic := metadata.get(layout.GENERIC_CAPTIONS)) is not None:
            added["generic_caption"] = [generic.get(file_name) for file_name in table.columns["file_name"]]
        return Split(table.name, table.images, table.texts, {**table.columns, **added})


def split_of(shard: Path) -> str:
    """The split that a parquet file belongs to, by its name: `forget-00000-of-00008.parquet`."""
    return shard.name.removesuffix(".parquet").split("-")[0]


def missing_shards(shards: Sequence[Path]) -> list[str]:
    """Shards that are not there although the names of the others say that they exist."""
    numbered = [match for match in (_SHARD.fullmatch(shard.name) for shard in shards) if match]
    found = {match.group(0) for match in numbered}
    expected = {
        f"{match['split']}-{number:0{len(match['number'])}d}-of-{match['count']}.parquet"
        for match in numbered
        for number in range(int(match["count"]))
    }
    return sorted(expected - found)


def with_identities(identities: Mapping[str, Any], used: Iterable[str | None]) -> Mapping[str, Any]:
    """`identities`, found also under the identities as tables write them: where those are numbers, keys may lack zeros."""
    added = {}
    for identity in used:
        short = (identity or "").lstrip("0") or "0"
        if identity is not None and identity not in identities and short in identities:
            added[identity] = identities[short]
    return {**identities, **added} if added else identities


def _read_columns(shard: Path, split: str) -> dict[str, list[Any]]:
    try:
        file = open_parquet(shard)
        names = file.schema_arrow.names
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise BadData(
                f"'{shard}' of split '{split}' lacks the column {', '.join(missing)}.", f"It has: {', '.join(names)}."
            )
        columns: dict[str, list[Any]] = file.read(columns=[name for name in names if name != "image"]).to_pydict()
        return columns
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise BadData(f"'{shard}' of split '{split}' is not a readable parquet file: {error}.", "Fetch it again.") from error


def _identity(value: Any) -> Any:
    """An identity as text. Numbers get the eight digits that they have in the official file names."""
    if isinstance(value, float):  # a column with gaps may have become one of floats, with NaN in the gaps
        value = int(value) if value.is_integer() else None if value != value else value
    return f"{value:08d}" if isinstance(value, int) and not isinstance(value, bool) else value
