"""Everything that can be wrong with a snapshot, found at once and before hours are spent on it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import UnidentifiedImageError

from salmu_core.benchmark import BuildStep, Report
from salmu_core.data.parquet_images import open_parquet
from salmu_core.data.pixels import open_picture
from salmu_core.errors import SalmuError
from salmu_core.files.writing import visible
from salmu_core.layout import Finding
from salmubench import layout, rules
from salmubench.published_check import (
    ReadTable,
    checksum_findings,
    claims_to_be_published,
    count_findings,
    model_findings,
)
from salmubench.snapshot import Snapshot, split_of, with_identities

SHOWN = 20  # findings of one rule; the rest are counted


@dataclass
class _Pictures:
    """What decoding found out about the pictures of one row group."""

    split: str
    first_row: int
    keys: list[bytes | None] = field(default_factory=list)
    sizes: list[tuple[int, int] | None] = field(default_factory=list)
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


def check_snapshot(folder: Path, report: Report | None = None, *, decode: bool = True) -> list[Finding]:
    """Read a snapshot as a run would and list what is wrong with it. Raises nothing for bad data.

    Args:
        decode: read and decode every picture, on all cores; also what duplicates are found by.

    Returns:
        Errors, then warnings, then facts. Of findings of one kind the first 20 are listed and the others counted.
    """
    tell = report or (lambda step: None)
    snapshot = Snapshot(folder)
    findings: list[Finding] = []
    metadata = _read_metadata(snapshot, findings)
    tables = _read_tables(snapshot, findings, tell)
    for split in layout.SENSITIVE_SPLITS:
        if split in tables and all(name in metadata for name in (layout.CAPTIONS, layout.IDENTITIES)):
            table = tables[split]
            known = {
                **metadata,
                layout.IDENTITIES: with_identities(metadata[layout.IDENTITIES], table.columns["identity_id"]),
            }
            findings += rules.sensitive_findings(split, table.texts, table.columns, known)
    findings += _identity_findings(tables)
    findings += _metadata_findings(tables, metadata)
    findings += _genknow_findings(snapshot, tables, metadata)
    findings += count_findings(snapshot, tables)
    if decode:
        pictures = _read_pictures(snapshot, tables, tell)
        findings += [finding for part in pictures for finding in part.findings]
        findings += _picture_facts(pictures)
        findings += _duplicates(pictures, tables)
    findings += model_findings(
        folder, tell, claimed=claims_to_be_published(folder, {split: len(table) for split, table in tables.items()})
    )
    findings += checksum_findings(folder, tell)
    order = {"error": 0, "warning": 1, "fact": 2}
    return sorted(_shortened(findings), key=lambda finding: order[finding.severity])


def _read_metadata(snapshot: Snapshot, findings: list[Finding]) -> dict[str, Any]:
    metadata = {}
    for name in layout.METADATA:
        if name not in layout.REQUIRED_METADATA and not (snapshot.folder / name).is_file():
            message = f"The metadata file '{snapshot.folder / name}' is missing: PrivPref is not measured."
            findings.append(Finding("warning", message, "Fetch it too; everything else works without.", "metadata file"))
            continue
        try:
            metadata[name] = snapshot.metadata(name)
        except SalmuError as error:
            findings.append(Finding("error", error.message, error.hint, "metadata file"))
    return metadata


def _read_tables(snapshot: Snapshot, findings: list[Finding], tell: Report) -> dict[str, ReadTable]:
    present = sorted({split_of(shard) for shard in visible(snapshot.folder / layout.DATA, "*.parquet")})
    known = [*layout.SPLITS, *(split for split in layout.OPTIONAL_SPLITS if split in present)]
    for split in present:
        if split not in known:
            findings.append(Finding("fact", f"The split '{split}' is not part of the layout and is ignored.", rule="splits"))
    tables = {}
    for number, split in enumerate(known):
        tell(BuildStep("read tables", number, len(known)))
        try:
            columns = snapshot.columns(split)
        except SalmuError as error:
            findings.append(Finding("error", error.message, error.hint, "table"))
            continue
        texts = columns.pop("text")
        if not texts:
            findings.append(Finding("error", f"The split '{split}' has no rows.", rule="table"))
        findings += rules.table_findings(split, texts, columns)
        tables[split] = ReadTable(texts, columns)
    tell(BuildStep("read tables", len(known), len(known)))
    return tables


def _identity_findings(tables: Mapping[str, ReadTable]) -> Iterator[Finding]:
    """Who is in which split: what the derived splits and the meaning of the holdouts rest on."""
    if "forget" not in tables:
        return
    forget = tables["forget"].identities
    for split, wrong, why, severity in (
        (
            "holdout_identity",
            lambda who: who in forget,
            "is in forget too; nothing of these people may be forgotten",
            "error",
        ),
        (
            "holdout_association",
            lambda who: who not in forget,
            "is not in forget; these are other rows of its people",
            "error",
        ),
    ):
        for identity in sorted(who for who in (tables[split].identities if split in tables else ()) if wrong(who)):
            row = list(tables[split].columns["identity_id"]).index(identity)
            place = rules.where(split, row, tables[split].columns["file_name"][row])
            yield Finding(severity, f"{place}: identity {identity} {why}.", rule=f"identity in the wrong split: {split}")  # type: ignore[arg-type]
    both = _associations(tables, "forget") & _associations(tables, "holdout_association")
    if both:
        yield Finding("fact", f"{len(both)} pairs of identity and caption are in both forget and holdout_association.")


def _associations(tables: Mapping[str, ReadTable], split: str) -> set[tuple[Any, Any]]:
    table = tables.get(split)
    return set() if table is None else set(zip(table.columns["identity_id"], table.texts, strict=True))


def _metadata_findings(tables: Mapping[str, ReadTable], metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """Entries of the metadata files that fit no row."""
    if layout.RETAIN in tables and layout.FRAGILE_IDS in metadata:
        columns = tables[layout.RETAIN].columns
        rows = zip(columns["file_name"], columns["identity_id"], strict=True)
        disjoint = [file_name for file_name, identity in rows if identity is None]
        yield from rules.fragile_findings(metadata[layout.FRAGILE_IDS], disjoint)
        repeated = [name for name, count in Counter(metadata[layout.FRAGILE_IDS]).items() if count > 1]
        for name in repeated:
            yield Finding("warning", f"{layout.FRAGILE_IDS} names '{name}' more than once.", rule="fragile ids")
        unlike = [name for name in metadata[layout.FRAGILE_IDS] if name not in metadata.get(layout.FRAGILE_SIMILARITIES, {})]
        if unlike:
            yield Finding("fact", f"{layout.FRAGILE_SIMILARITIES} has no entry for {len(unlike)} of the fragile ids.")
    if all(split in tables for split in layout.SENSITIVE_SPLITS):
        used = {name for split in layout.SENSITIVE_SPLITS for name in tables[split].columns["file_name"]}
        for file in (layout.CAPTIONS, layout.GENERIC_CAPTIONS):
            spare = len(metadata.get(file, {}).keys() - used)
            if spare:
                yield Finding("fact", f"{file} has {spare} entries for files that are in no sensitive split.")


def _genknow_findings(snapshot: Snapshot, tables: Mapping[str, ReadTable], metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """Our own extra: zero-shot pictures and the captions of their classes."""
    if layout.GENKNOW not in tables:
        return
    try:
        prompts = {item["label"] for item in snapshot.metadata(layout.PROMPTS)}
    except SalmuError as error:
        yield Finding("error", error.message, error.hint, "metadata file")
        return
    columns = tables[layout.GENKNOW].columns
    if "label" not in columns:
        yield Finding("error", f"The split '{layout.GENKNOW}' lacks the column label.", rule="table")
        return
    for row, (file_name, label) in enumerate(zip(columns["file_name"], columns["label"], strict=True)):
        if label not in prompts:
            place = rules.where(layout.GENKNOW, row, file_name)
            yield Finding("error", f"{place}: {layout.PROMPTS} has no caption for label {label!r}.", rule="labels")


def _read_pictures(snapshot: Snapshot, tables: Mapping[str, ReadTable], tell: Report) -> list[_Pictures]:
    """Decode every picture of the tables that could be read, a row group per task."""
    tasks: list[tuple[str, Path, int, int, int]] = []
    for split in tables:
        row = 0
        for shard in snapshot.shards(split):
            metadata = pq.read_metadata(shard)
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                tasks.append((split, shard, group, row, rows))
                row += rows
    total = sum(task[-1] for task in tasks)
    workers = os.cpu_count() or 1
    parts: list[_Pictures] = []
    done = 0
    with ThreadPoolExecutor(workers) as pool:  # decoding and hashing free the interpreter
        waiting = [pool.submit(_decode_group, *task) for task in tasks[: 2 * workers]]
        ahead = iter(tasks[2 * workers :])  # row groups are large: only a few may wait at a time
        while waiting:
            part = waiting.pop(0).result()
            parts.append(part)
            waiting += [pool.submit(_decode_group, *task) for task in [next(ahead, None)] if task is not None]
            done += len(part.keys)
            tell(BuildStep("decode pictures", done, total))
    return parts


def _decode_group(split: str, shard: Path, group: int, first_row: int, rows: int) -> _Pictures:
    part = _Pictures(split, first_row)
    try:
        content = open_parquet(shard).read_row_group(group, columns=["image", "file_name"])
        images, names = content.column("image").combine_chunks(), content.column("file_name")
        if pa.types.is_struct(images.type):
            images = images.field("bytes") if images.type.get_field_index("bytes") >= 0 else pa.nulls(rows)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        part.keys, part.sizes = [None] * rows, [None] * rows
        message = f"rows {first_row} to {first_row + rows - 1} of split '{split}' in {shard} cannot be read: {error}."
        part.findings.append(Finding("error", message, "Fetch the file again.", "undecodable picture"))
        return part
    for inner in range(rows):
        encoded = images[inner].as_py()
        place = f"{rules.where(split, first_row + inner, names[inner].as_py())} in {shard}"
        part.keys.append(None)
        part.sizes.append(None)
        if not isinstance(encoded, bytes):
            part.findings.append(Finding("error", f"{place}: there are no image bytes.", rule="undecodable picture"))
            continue
        part.bytes += len(encoded)
        try:
            picture = open_picture(encoded)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            message = f"{place}: the image cannot be decoded: {str(error).split(' <')[0]}."
            part.findings.append(Finding("error", message, "Fetch the file again.", "undecodable picture"))
            continue
        part.keys[inner] = hashlib.blake2b(encoded, digest_size=16).digest()
        part.sizes[inner] = picture.size
    return part


def _picture_facts(parts: Sequence[_Pictures]) -> Iterator[Finding]:
    sizes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    weight: Counter[str] = Counter()
    for part in parts:
        sizes[part.split] += [size for size in part.sizes if size is not None]
        weight[part.split] += part.bytes
    for split, found in sizes.items():
        if found:
            short, long = [min(size) for size in found], [max(size) for size in found]
            yield Finding(
                "fact",
                f"{split}: pictures of {min(short)}-{max(short)} px on the short side, up to {max(long)} px on the long one,"
                f" {weight[split] / len(found) / 1000:.1f} kB on average.",
                rule="pictures",
            )


def _duplicates(parts: Sequence[_Pictures], tables: Mapping[str, ReadTable]) -> Iterator[Finding]:
    """Equal pictures in several splits or rows. `forget_target` repeats the pictures of forget by design."""
    places: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for part in parts:
        if part.split not in ("forget_target", layout.GENKNOW):
            for inner, key in enumerate(part.keys):
                if key is not None:
                    places[key].append((part.split, part.first_row + inner))
    for copies in places.values():
        if len(copies) < 2:
            continue
        (split, row), *others = copies
        first = rules.where(split, row, tables[split].columns["file_name"][row])
        for other, other_row in others:
            second = rules.where(other, other_row, tables[other].columns["file_name"][other_row])
            pair = tables[split].texts[row] == tables[other].texts[other_row]
            what = "the same picture and caption" if pair else "the same picture"
            leak = pair and split != other and "forget" in (split, other)
            across = "across splits" if split != other else "within a split"
            hint = "A pair cannot be forgotten and kept at the same time." if leak else None
            severity = "error" if leak else "warning"
            yield Finding(severity, f"{first} and {second} hold {what}.", hint, f"{what} {across}")  # type: ignore[arg-type]


def _shortened(findings: Iterable[Finding]) -> list[Finding]:
    """The first findings of each kind, and how many more there are."""
    kept: list[Finding] = []
    counts: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        kind = (finding.severity, finding.rule)
        counts[kind] += bool(finding.rule)
        if counts[kind] <= SHOWN:
            kept.append(finding)
    for (severity, rule), count in counts.items():
        if count > SHOWN:
            kept.append(Finding(severity, f"{count - SHOWN:,} more like these: {rule}.", rule=rule))  # type: ignore[arg-type]
    return kept
