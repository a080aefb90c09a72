"""ImageNet-1k for GenKnow: the validation pictures where they lie, and open_clip's class names and prompt templates.

Pictures stay on disk: a folder of files, webdataset shards (read by byte offset) or parquet shards. Labels are numbers from
0 to 999 in the order of the sorted WordNet ids, which is the order of open_clip's class names.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from salmu_core.data.images import ImageRows, join_images
from salmu_core.data.parquet_images import ParquetImages, open_parquet
from salmu_core.data.splits import Split
from salmu_core.errors import BadData
from salmu_core.files.digests import Stamp, file_stamp
from salmu_core.files.first_bytes import refuse_other_content
from salmu_core.files.writing import visible

CLASSES = 1000
IMAGES_SPLIT, PROMPTS_SPLIT = "genknow", "genknow_prompts"
_PICTURES = (".jpeg", ".jpg", ".png", ".webp")
_WORDNET_ID = re.compile(r"n\d{8}")
_MOST_PICTURES = 100_000  # the validation set has 50,000, the training set 1.28 million
_LAYOUTS = (
    "Give a folder with class folders (val/n01440764/*.JPEG, ...), with webdataset shards (*.tar holding .jpg and .cls), or"
    " with parquet shards (columns image and label)."
)


class ImageNet(NamedTuple):
    """What GenKnow needs.

    Attributes:
        images: split `genknow`: pictures with the columns `label` (0 to 999) and `file_name`.
        prompts: split `genknow_prompts`: 80 captions per class, class by class, with the column `label`.
    """

    images: Split
    prompts: Split


def load_imagenet(path: Path, *, first_per_class: int | None = None, partial: bool = False) -> ImageNet:
    """The validation set at `path` and the prompts of the zero-shot classifier.

    Which layout it is is seen from the files: in `path` itself or in its folder `val`, `validation`, `data` or `test`.

    - Class folders, as torchvision's ImageFolder: one per WordNet id. Rows in order of id, then file name.
    - webdataset shards, as clip-benchmark/wds_imagenet1k: `*.tar` with `KEY.jpg` (or .jpeg, .png, .webp) and `KEY.cls` (the
      label as text) or `KEY.json` (with `label` or `cls`). Rows in order of shard (numbers count as numbers), then entry.
      Shards called train are left out where others are there.
    - Parquet shards, as the `datasets` library writes them: columns `image` and `label`. Rows in order of shard. Shards
      called validation are preferred.

    Args:
        first_per_class: take this many pictures of each class, in row order: for a quick look. None: all.
        partial: accept a set in which classes are missing. Prompts still cover all 1,000.

    Raises:
        BadData: nothing that can be read in one of the three layouts, a class that is not of ImageNet-1k, classes missing, a
            picture without label, or a label out of range; file and row are named.
    """
    rows, labels, names = _read(_place(path))
    if len(labels) > _MOST_PICTURES and first_per_class is None:
        raise BadData(
            f"'{path}' holds {len(labels):,} pictures; ImageNet's validation set has 50,000. Is this the training set?",
            "Give the folder of the validation set.",
        )
    wrong = next((row for row, label in enumerate(labels) if not 0 <= label < CLASSES), None)
    if wrong is not None:
        raise BadData(
            f"{rows.where(wrong)}: the label is {labels[wrong]}, and ImageNet-1k has 0 to {CLASSES - 1}.",
            "The test set carries no labels (-1): give the validation set." if labels[wrong] == -1 else None,
        )
    missing = sorted(set(range(CLASSES)) - set(labels))
    if not labels or (missing and not partial):
        ids = wordnet_ids()
        shown = ", ".join(f"{label} ({ids[label]})" for label in missing[:3])
        raise BadData(
            f"'{path}' has pictures of {CLASSES - len(missing)} of ImageNet's {CLASSES} classes; missing: {shown}"
            f"{', ...' if len(missing) > 3 else ''}.",
            "Fetch the rest, or allow a part of the classes.",
        )
    images = Split(IMAGES_SPLIT, rows, None, {"label": labels, "file_name": names})
    if first_per_class is not None:
        seen: Counter[int] = Counter()
        chosen = []
        for row, label in enumerate(labels):
            seen[label] += 1
            if seen[label] <= first_per_class:
                chosen.append(row)
        images = images.take(chosen)
    return ImageNet(images, imagenet_prompts())


def imagenet_prompts() -> Split:
    """80 captions for each of 1,000 classes, class by class: open_clip's class names in OpenAI's templates."""
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    texts = [template(name) for name in IMAGENET_CLASSNAMES for template in OPENAI_IMAGENET_TEMPLATES]
    labels = [label for label in range(len(IMAGENET_CLASSNAMES)) for _ in OPENAI_IMAGENET_TEMPLATES]
    return Split(PROMPTS_SPLIT, texts=texts, columns={"label": labels})


def wordnet_ids() -> list[str]:
    """The ids of ImageNet-1k's classes in the order of their labels, from timm (which open_clip brings)."""
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())


class _Rows(NamedTuple):
    images: ImageRows
    labels: list[int]
    names: list[str]


class _Place(NamedTuple):
    """A folder, or the shards in it."""

    folder: Path
    class_folders: list[Path]
    tars: list[Path]
    parquets: list[Path]


def _place(path: Path) -> _Place:
    """Where below `path` the pictures are.

    Raises:
        BadData: nowhere.
    """
    if not path.is_dir():
        raise BadData(f"There is no ImageNet folder '{path}'.", _LAYOUTS)
    for folder in (path / "val", path / "validation", path, path / "data", path / "test"):
        entries = sorted(visible(folder), key=_natural) if folder.is_dir() else []
        place = _Place(
            folder,
            [entry for entry in entries if _WORDNET_ID.fullmatch(entry.name) and entry.is_dir()],
            _of_validation([entry for entry in entries if entry.suffix == ".tar"]),
            _of_validation([entry for entry in entries if entry.suffix == ".parquet"]),
        )
        if place.class_folders or place.tars or place.parquets:
            return place
    flat = next((entry for entry in visible(path) if entry.suffix.lower() in _PICTURES), None)
    if flat is None:
        raise BadData(f"'{path}' holds no ImageNet pictures.", _LAYOUTS)
    raise BadData(
        f"The pictures in '{path}' (such as {flat.name}) do not say which class they show.",
        "Sort them into a folder for each WordNet id first, as torchvision.datasets.ImageNet does.",
    )


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts 2.tar before 10.tar."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)]


def _of_validation(shards: list[Path]) -> list[Path]:
    """Shards of the validation set, where names tell them from those of other parts."""
    for wanted in ("val", "test"):
        chosen = [shard for shard in shards if shard.name.startswith(wanted) or f"-{wanted}" in shard.name]
        if chosen:
            return chosen
    return shards


def _read(place: _Place) -> _Rows:
    if place.class_folders:
        return _read_folders(place)
    return _read_tars(place.tars) if place.tars else _read_parquets(place.parquets)


@dataclass(frozen=True)
class _Files:
    paths: Sequence[Path]

    @cached_property
    def _stamps(self) -> list[Stamp]:
        return [file_stamp(path) for path in self.paths]

    def files(self) -> Sequence[Path]:
        _ = self._stamps  # what is kept under these files' digests holds for the files as they are now
        return self.paths

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> bytes:
        _require_unchanged(self.paths[row], self._stamps[row])
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise BadData(f"'{self.paths[row]}' cannot be read: {error.strerror or error}.", "Fetch it again.") from error

    def where(self, row: int) -> str:
        return f"'{self.paths[row]}'"


def _require_unchanged(path: Path, stamp: Stamp) -> None:
    if file_stamp(path) != stamp:
        raise BadData(f"'{path}' has changed since it was opened.", "Start again.")


def _read_folders(place: _Place) -> _Rows:
    label_of = {name: label for label, name in enumerate(wordnet_ids())}
    foreign = [folder.name for folder in place.class_folders if folder.name not in label_of]
    if foreign:
        raise BadData(
            f"'{place.folder}' has {len(foreign)} class folders that are not of ImageNet-1k: {', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}.",
            "Give the validation set of ImageNet-1k (ILSVRC 2012).",
        )
    paths: list[Path] = []
    labels: list[int] = []
    for folder in place.class_folders:
        files = [entry for entry in visible(folder) if entry.suffix.lower() in _PICTURES]
        paths += files
        labels += [label_of[folder.name]] * len(files)
    return _Rows(_Files(paths), labels, [path.name for path in paths])


class _Entry(NamedTuple):
    """A picture inside a shard: `size` bytes from `start` on."""

    shard: Path
    start: int
    size: int
    name: str


@dataclass(frozen=True)
class _TarEntries:
    entries: Sequence[_Entry]

    @cached_property
    def _stamps(self) -> dict[Path, Stamp]:
        return {shard: file_stamp(shard) for shard in dict.fromkeys(entry.shard for entry in self.entries)}

    def files(self) -> Sequence[Path]:
        return list(self._stamps)

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, row: int) -> bytes:
        shard, start, size, _ = self.entries[row]
        _require_unchanged(shard, self._stamps[shard])
        try:
            with shard.open("rb") as file:  # opened again: readers in several threads and processes share nothing
                file.seek(start)
                data = file.read(size)
        except OSError as error:
            raise BadData(
                f"{self.where(row)} cannot be read: {error.strerror or error}.", "Fetch the shard again."
            ) from error
        if len(data) != size:
            raise BadData(f"{self.where(row)}: the shard ends inside the picture.", "Fetch the shard again.")
        return data

    def where(self, row: int) -> str:
        return f"'{self.entries[row].shard}', entry {self.entries[row].name}"


@dataclass
class _Sample:
    """The entries of one key."""

    picture: _Entry | None = None
    label: int | None = None


def _read_tars(shards: Sequence[Path]) -> _Rows:
    entries: list[_Entry] = []
    labels: list[int] = []
    for shard in shards:
        for key, sample in _samples(shard):
            if sample.picture is None:
                continue
            if sample.label is None:
                raise BadData(
                    f"'{shard}', entry {sample.picture.name}: there is neither {key}.cls nor a label in {key}.json."
                )
            entries.append(sample.picture)
            labels.append(sample.label)
    return _Rows(_TarEntries(entries), labels, [entry.name for entry in entries])


def _samples(shard: Path) -> Iterator[tuple[str, _Sample]]:
    """The samples of a shard by key, in order of first entry. Headers and labels are read, pictures are skipped."""
    samples: dict[str, _Sample] = {}
    refuse_other_content(shard)
    try:
        size = shard.stat().st_size
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"it ends inside {member.name}")
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
                suffix = suffix.lower()
                if f".{suffix}" in _PICTURES:
                    if sample.picture is not None:
                        raise tarfile.ReadError(
                            f"the sample '{stem}' has two pictures, {sample.picture.name} and {member.name}"
                        )
                    sample.picture = _Entry(shard, member.offset_data, member.size, member.name)
                elif suffix in ("cls", "json"):
                    content = archive.extractfile(member)
                    assert content is not None
                    found = _label(content.read(), suffix, f"'{shard}', entry {member.name}")
                    sample.label = sample.label if found is None else found
    except (tarfile.TarError, OSError) as error:
        raise BadData(f"'{shard}' is not a readable tar file: {error}.", "Fetch the shard again.") from error
    yield from samples.items()


def _label(content: bytes, suffix: str, where: str) -> int | None:
    try:
        if suffix == "cls":
            return int(content)
        fields = json.loads(content)
    except (ValueError, UnicodeDecodeError):
        raise BadData(f"{where} holds no label: {content[:40]!r}.") from None
    value = next((fields[name] for name in ("label", "cls") if name in fields), None) if isinstance(fields, dict) else None
    if value is not None and not isinstance(value, int):
        raise BadData(f"{where}: the label {value!r} is no whole number.")
    return value


def _read_parquets(shards: Sequence[Path]) -> _Rows:
    labels: list[int] = []
    for shard in shards:
        try:
            file = open_parquet(shard)
            names = file.schema_arrow.names
            missing = [name for name in ("image", "label") if name not in names]
            if missing:
                raise BadData(f"'{shard}' lacks the column {' and '.join(missing)}.", f"It has: {', '.join(names)}.")
            values = file.read(columns=["label"]).column("label").to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise BadData(f"'{shard}' is not a readable parquet file: {error}.", "Fetch it again.") from error
        empty = next((row for row, value in enumerate(values) if not isinstance(value, int)), None)
        if empty is not None:
            raise BadData(f"'{shard}', row {empty}: the label {values[empty]!r} is no whole number.")
        labels += values
    images = join_images([ParquetImages(shard) for shard in shards])
    return _Rows(images, labels, [f"row {row}" for row in range(len(labels))])
