"""Writing any benchmark that has SALMUBench's splits as a folder in SALMUBench's layout."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salmu_core.benchmark import Benchmark, BuildStep, Report
from salmu_core.data.splits import Split
from salmu_core.errors import BadData, OutputError
from salmu_core.files.writing import check_writable, elsewhere, write_json, write_tensors
from salmubench import layout
from salmubench.benchmark import GENKNOW_SPLITS, SPLITS, SnapshotBenchmark
from salmubench.full import Salmubench
from salmubench.tables import Metadata, Row
from salmubench.writer import metadata_contents, write_split

WEIGHTS_FILE = "open_clip_model.safetensors"  # open_clip's own name in repositories on the hub
_GROUP = 100  # rows of a row group, as the `datasets` library writes pictures


@dataclass(frozen=True)
class _Content:
    """What is written: tables in the layout's own splits, and the metadata files by name."""

    tables: Mapping[str, Split]
    metadata: Mapping[str, Any]


def export_benchmark(benchmark: Benchmark, folder: Path, report: Report | None = None) -> list[Path]:
    """Write data and both models into `folder`.

    Everything is written beside it first, read back and compared, and only then given its name: a folder that is there is
    whole.

    Returns:
        Every file written.

    Raises:
        OutputError: the folder holds something, or cannot be written.
        BadData: the benchmark lacks a split or column that the layout needs, or its splits cannot be told apart in it.
    """
    tell = report or (lambda step: None)
    folder = folder.absolute()
    _require_empty(folder)
    check_writable(folder.parent, option=None)
    part = folder.with_name(f".{folder.name}.part")
    try:
        if part.exists():  # an export that was killed
            shutil.rmtree(part)
        content = _content_of(benchmark)
        _write_data(content, part, tell)
        _require_equal(benchmark, part)
        for number, which in enumerate(layout.MODELS):
            tell(BuildStep("write models", number, len(layout.MODELS)))
            model = benchmark.load_model(which)
            model.config.write(part / which)
            write_tensors(part / which / WEIGHTS_FILE, model.weights())
        _require_empty(folder)  # nobody else may have written there meanwhile
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise OutputError(f"'{folder}' cannot be written: {error.strerror or error}.", elsewhere(folder)) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _require_empty(folder: Path) -> None:
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"'{folder}' is a link to a place that is not there.", "Choose another place.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"'{folder}' is not an empty directory.", "Give a directory that is empty or not there yet.")


def _content_of(benchmark: Benchmark) -> _Content:
    if isinstance(benchmark, SnapshotBenchmark):
        snapshot = benchmark.snapshot()
        known = [split for split in (*layout.SPLITS, *layout.OPTIONAL_SPLITS) if snapshot.has(split)]
        described = [name for name in layout.METADATA if (snapshot.folder / name).is_file()]
        files = [*described, *([layout.PROMPTS] if layout.GENKNOW in known else [])]
        return _Content({split: snapshot.table(split) for split in known}, {name: snapshot.metadata(name) for name in files})
    needed = [name for name in SPLITS if name not in (*GENKNOW_SPLITS, "forget_identity", "forget_association")]
    absent = [name for name in needed if name not in benchmark.splits()]
    if absent:
        raise BadData(
            f"{benchmark.name} has no split {', '.join(absent)}, which SALMUBench's layout needs.",
            f"It has: {', '.join(benchmark.splits())}.",
        )
    tables = {split: benchmark.split(split) for split in layout.SENSITIVE_SPLITS}
    tables |= _retain_tables(benchmark)
    metadata = _metadata_of(benchmark)
    if all(name in benchmark.splits() for name in GENKNOW_SPLITS):
        tables[layout.GENKNOW] = _with_names(benchmark.split(layout.GENKNOW))
        prompts = benchmark.split("genknow_prompts")
        metadata.prompts = list(zip(prompts.columns["label"], prompts.texts or [], strict=True))
    return _Content(tables, metadata_contents(metadata))


def _retain_tables(benchmark: Benchmark) -> dict[str, Split]:
    """What methods see, as portraits (with and without identity) and everything else."""
    retain = benchmark.split_for("retain")
    portraits = {
        file_name
        for split in ("retain_joint", "retain_disjoint")
        for file_name in _column(benchmark.split(split), "file_name", benchmark)
    }
    names = _column(retain, "file_name", benchmark)
    tables = {layout.RETAIN: retain.take([row for row, name in enumerate(names) if name in portraits], layout.RETAIN)}
    others = [row for row, name in enumerate(names) if name not in portraits]
    if others:
        tables[layout.GENERAL] = retain.take(others, layout.GENERAL)
    return tables


def _metadata_of(benchmark: Benchmark) -> Metadata:
    """The metadata files from the columns of the sensitive splits."""
    metadata = Metadata(fragile_ids=list(_column(benchmark.split("fragile_set"), "file_name", benchmark)))
    known: dict[str, dict[str, list[str]]] = {}
    for name in layout.SENSITIVE_SPLITS:
        split = benchmark.split(name)
        columns = [_column(split, key, benchmark) for key in ("identity_id", "file_name", "data_field", "name", "value")]
        generic = split.columns.get("generic_caption", [None] * len(split))
        for text, caption, identity, file_name, data_field, person, value in zip(
            split.texts or [], generic, *columns, strict=True
        ):
            if data_field not in layout.FIELDS:
                raise BadData(
                    f"The data_field '{data_field}' of split '{name}' of {benchmark.name} is unknown to SALMUBench's layout.",
                    f"It knows: {', '.join(layout.FIELDS)}.",
                )
            attributes = known.setdefault(str(identity), {"name": []})
            for key, item in (("name", person), (data_field, value)):
                if item not in attributes.setdefault(key, []):
                    attributes[key].append(item)
            metadata.caption_fields[file_name] = (text, data_field)
            if caption is not None:
                metadata.generic_captions[file_name] = caption
    for identity, attributes in known.items():
        metadata.identities[identity] = {
            key: values if key == "emails" or len(values) > 1 else values[0] for key, values in attributes.items()
        }
    return metadata


def _column(split: Split, name: str, benchmark: Benchmark) -> Sequence[Any]:
    if name not in split.columns:
        raise BadData(
            f"The split '{split.name}' of {benchmark.name} lacks the column {name}, which SALMUBench's layout needs.",
            f"It has: {', '.join(split.columns)}.",
        )
    return split.columns[name]


def _with_names(split: Split) -> Split:
    names = split.columns.get("file_name", [f"{split.name}_{row:06d}" for row in range(len(split))])
    return Split(split.name, split.images, split.texts, {**split.columns, "file_name": names})


def _write_data(content: _Content, folder: Path, tell: Report) -> None:
    total = sum(len(table) for table in content.tables.values())
    done = 0
    for split, table in content.tables.items():
        write_split(folder, split, _rows(table, done, total, tell), rows_per_group=_GROUP)
        done += len(table)
    for name, value in content.metadata.items():
        write_json(folder / name, value)


def _rows(split: Split, before: int, total: int, tell: Report) -> Iterator[Row]:
    images = split.images
    if images is None:
        raise BadData(f"The split '{split.name}' has no pictures, which SALMUBench's layout needs.")
    identities = split.columns.get("identity_id", [None] * len(split))
    labels = split.columns["label"] if split.name == layout.GENKNOW else [None] * len(split)
    texts = split.texts if split.texts is not None else [None] * len(split)
    columns = zip(texts, identities, split.columns["file_name"], labels, strict=True)
    for row, (text, identity, file_name, label) in enumerate(columns):
        yield Row(images.read(row), text, None if identity is None else str(identity), file_name, label)
        if row % _GROUP == _GROUP - 1 or row == len(split) - 1:
            tell(BuildStep("write rows", before + row + 1, total))


def _require_equal(benchmark: Benchmark, folder: Path) -> None:
    """Read the snapshot back as the benchmark `salmubench` and compare every split with its source."""
    copy = Salmubench(Salmubench.Options(data_dir=folder), benchmark.cache)
    for name in copy.splits():
        if name not in benchmark.splits():
            continue
        source, found = benchmark.split(name), copy.load_split(name)
        different = [] if list(source.texts or []) == list(found.texts or []) else ["captions"]
        for column in ("identity_id", "file_name", "data_field", "name", "value", "label"):
            if column in source.columns and column in found.columns:
                wanted = [None if value is None else str(value) for value in source.columns[column]]
                if wanted != [None if value is None else str(value) for value in found.columns[column]]:
                    different.append(column)
        if different:
            raise BadData(
                f"{benchmark.name} cannot be told in SALMUBench's layout: its split '{name}' reads back with other"
                f" {', '.join(different)} ({len(source)} rows against {len(found)}).",
                "The layout derives splits from identities: forget_identity are the people without rows in"
                " holdout_association, retain_joint the portraits of people in forget.",
            )
