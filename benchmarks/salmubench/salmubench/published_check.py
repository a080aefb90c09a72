"""Is a snapshot the published one, where it says so: row counts, and files against the checksums that are known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from salmu_core.benchmark import BuildStep, Report
from salmu_core.errors import SalmuError
from salmu_core.layout import Finding
from salmu_core.models.loading import load_model
from salmubench import hub, layout
from salmubench.snapshot import Snapshot


@dataclass(frozen=True)
class ReadTable:
    """A table as far as it could be read."""

    texts: Sequence[Any]
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def identities(self) -> set[str]:
        return {identity for identity in self.columns["identity_id"] if identity is not None}


def count_findings(snapshot: Snapshot, tables: Mapping[str, ReadTable]) -> Iterator[Finding]:
    for split, table in tables.items():
        people = len(table.identities)
        size = sum(shard.stat().st_size for shard in snapshot.shards(split))
        words = f"{split}: {len(table):,} rows{_of_published(layout.PUBLISHED_ROWS.get(split), len(table))}"
        if people:
            words += f", {people:,} identities{_of_published(layout.PUBLISHED_IDENTITIES.get(split), people)}"
        yield Finding("fact", f"{words}, {size / 1e6:,.1f} MB in {len(snapshot.shards(split))} files.", rule="counts")
    derived = _derived_rows(tables)
    claimed = claims_to_be_published(snapshot.folder, {split: len(table) for split, table in tables.items()})
    for split, rows in derived.items():
        published = layout.PUBLISHED_DERIVED.get(split)
        if claimed and published is not None and rows != published:
            yield Finding(
                "error",
                f"{split}: {rows:,} rows, and {published:,} are published. The other counts are those of SALMUBench's own data.",
                "Identities differ from the published ones: fetch the tables again.",
                "published counts",
            )
        else:
            yield Finding("fact", f"{split}: {rows:,} rows{_of_published(published, rows)}.", rule="counts")
    if "forget" in tables and layout.RETAIN in tables:
        forgotten = tables["forget"].identities
        unasked = [who for who in tables[layout.RETAIN].columns["identity_id"] if who is not None and who not in forgotten]
        if unasked:
            yield Finding(
                "fact",
                f"{layout.RETAIN}: {len(unasked):,} rows show {len(set(unasked)):,} people who are not in forget. Methods see them;"
                " they are neither in retain_joint nor in retain_disjoint.",
                rule="counts",
            )


def claims_to_be_published(folder: Path, rows: Mapping[str, int]) -> bool:
    """Does a snapshot present itself as SALMUBench's own data? By the names of its shards, where the hub's listing is known
    here, or by the row counts of all its tables."""
    return hub.is_copy(folder) or all(rows.get(split) == count for split, count in layout.PUBLISHED_ROWS.items())


def _derived_rows(tables: Mapping[str, ReadTable]) -> dict[str, int]:
    """Rows of the splits that are derived from identities."""
    found: dict[str, int] = {}
    if "forget" in tables and "holdout_association" in tables:
        partly = tables["holdout_association"].identities
        rows = sum(identity in partly for identity in tables["forget"].columns["identity_id"])
        found |= {"forget_identity": len(tables["forget"]) - rows, "forget_association": rows}
    if layout.RETAIN in tables:
        people = tables[layout.RETAIN].columns["identity_id"]
        if "forget" in tables:
            forgotten = tables["forget"].identities
            found["retain_joint"] = sum(who in forgotten for who in people)
        found["retain_disjoint"] = sum(who is None for who in people)
    return found


def _of_published(published: int | None, found: int) -> str:
    if published is None:
        return ""
    return " (as published)" if published == found else f" (published: {published:,})"


def model_findings(folder: Path, tell: Report, *, claimed: bool) -> Iterator[Finding]:
    """The models beside the data: can they be loaded, and are they the published pair where that can be told?

    Args:
        claimed: the data presents itself as the published one, so its models have to be, too.
    """
    present: list[Literal["clean", "compromised"]] = [which for which in layout.MODELS if (folder / which).is_dir()]
    for number, which in enumerate(present):
        tell(BuildStep("load models", number, len(present)))
        try:
            parameters = sum(parameter.numel() for parameter in load_model(folder / which).parameters())
            yield Finding("fact", f"{which}: a model of {parameters / 1e6:.1f} M parameters.", rule="models")
        except SalmuError as error:
            yield Finding("error", error.message, error.hint, "models")
        yield from _weights_findings(folder / which, which, claimed=claimed)
    if not present:
        yield Finding("fact", "No models lie beside the data; the published pair is used.", rule="models")


def _weights_findings(folder: Path, which: Literal["clean", "compromised"], *, claimed: bool) -> Iterator[Finding]:
    """The file of weights under its published name, against what is known of its SHA-256."""
    known = hub.known_weights(which)
    path = folder / known.name
    if not path.is_file() or known.begins is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    stated = f"{known.begins}…{known.ends}" if known.ends else known.begins
    if found.startswith(known.begins) and found.endswith(known.ends):
        part = "" if not known.ends else " (only its first and last digits are known here)"
        yield Finding("fact", f"{which}: {known.name} has the published SHA-256 {stated}{part}.", rule="models")
    else:
        yield Finding(
            "error" if claimed else "fact",
            f"{which}: {known.name} has the SHA-256 {found}, and {stated} is published.",
            "Fetch it again: its numbers are not those of the published model." if claimed else None,
            "models",
        )


def checksum_findings(folder: Path, tell: Report) -> Iterator[Finding]:
    """A copy of the pinned dataset against the checksums kept from the hub: every byte, without a network."""
    if not hub.is_copy(folder):
        return
    damaged = hub.damaged_files(folder, tell)
    for name in damaged or ():
        yield Finding(
            "warning",
            f"'{folder / name}' differs from the checksum that the hub states for {hub.pinned()['dataset']}.",
            "Unless you changed it on purpose, fetch it again: numbers on other data cannot be compared.",
            "checksums",
        )
    if damaged == []:
        yield Finding("fact", f"Every file is that of {hub.pinned()['dataset']}, byte for byte.", rule="checksums")
