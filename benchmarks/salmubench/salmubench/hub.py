"""SALMUBench on the Hugging Face hub: the pinned dataset and pair of models, what is still to fetch, and fetching it."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from salmu_core.benchmark import BuildStep, Download, Report, Terms
from salmu_core.errors import HubError
from salmu_core.files.writing import visible
from salmu_hub import fetching as hub
from salmu_hub.hub_errors import offline_error
from salmu_hub.repository import Repository
from salmubench import layout

Which = Literal["clean", "compromised"]
Part = Literal["dataset", "clean", "compromised"]

_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<all>\d+)\.parquet")
_METADATA = (
    layout.IDENTITIES,
    layout.CAPTIONS,
    layout.GENERIC_CAPTIONS,
    layout.FRAGILE_IDS,
    layout.FRAGILE_SIMILARITIES,
)
_SPLITS = (*layout.SENSITIVE_SPLITS, "retain_synth")


@cache
def _pinned_content() -> Mapping[str, Any]:
    return tomllib.loads((files("salmubench") / "pinned.toml").read_text(encoding="utf-8"))


@cache
def pinned() -> Mapping[Part, Repository]:
    """The dataset and both models at the revisions that this version of the benchmark is defined by."""
    content = _pinned_content()
    dataset = content["dataset"]
    parts: dict[Part, Repository] = {
        "dataset": Repository("dataset", dataset["name"], dataset["revision"], (*_METADATA, f"{layout.DATA}/*.parquet"))
    }
    for which in ("clean", "compromised"):
        model = content[which]
        parts[which] = Repository("model", model["name"], model["revision"], (hub.OPEN_CLIP_CONFIG, model["weights"]))
    return parts


def terms(part: Part) -> tuple[Terms, ...]:
    """Under which terms its authors give it out."""
    stated = _pinned_content()[part]
    page = f"https://huggingface.co/{'datasets/' if part == 'dataset' else ''}{stated['name']}"
    what = f"{'dataset' if part == 'dataset' else 'model'} {stated['name']}"
    return (Terms(what, page, stated["terms"], stated.get("licence", ""), gated=stated.get("gated", False)),)


@dataclass(frozen=True)
class KnownWeights:
    """What is known of a published file of weights.

    Attributes:
        name: of the file.
        begins, ends: of its SHA-256 in hex. Whole (and `ends` empty) where the hub's listing was read here before; else as far
            as it is known from a public report; None where nothing is known.
    """

    name: str
    begins: str | None
    ends: str = ""


def known_weights(which: Which) -> KnownWeights:
    """The published file of weights of a model. Needs no network."""
    repository = pinned()[which]
    name = repository.wanted[-1]
    listing = hub.read_manifest(repository)
    for file in listing.files if listing is not None else ():
        if file.path == name and file.sha256 is not None:
            return KnownWeights(name, file.sha256)
    known = _pinned_content()[which].get("sha256")
    return KnownWeights(name, None) if known is None else KnownWeights(name, *known)


def fetch_snapshot(report: Report | None = None, revision: str | None = None, *, again: bool = False) -> Path:
    """The dataset's folder, fetched where something is missing and checked against the hub's checksums.

    Args:
        report: told how many megabytes are there.
        revision: another commit, branch or tag than the pinned one.
        again: compare files with their checksums that were compared before, too.

    Raises:
        HubError: not there, not for this user, no network; the message says what to do.
        BadData: a file arrived damaged twice, or the revision is no whole dataset.
        OutputError: too little space.
    """
    repository = _at(pinned()["dataset"], revision)
    try:
        if hub.is_offline() and hub.read_manifest(repository) is None and local_snapshot(revision) is None:
            raise offline_error(repository)  # some of it may be here: not enough
        return hub.fetch(repository, _telling(report), again=again)
    except HubError as error:
        if not error.unreachable:
            raise
        hint = f"{error.hint} A snapshot that lies elsewhere on this machine is given with --data-dir."
        raise HubError(error.message, hint, unreachable=True) from error


def local_snapshot(revision: str | None = None) -> Path | None:
    """The dataset's folder in the hub's cache when it is complete; None otherwise. Needs no network."""
    repository = _at(pinned()["dataset"], revision)
    folder = hub.cached_folder(repository)
    if folder is None or (hub.read_manifest(repository) is None and not _has_every_shard(folder)):
        return None
    return folder


def fetch_model(which: Which, report: Report | None = None, *, again: bool = False) -> Path:
    """The folder of a model: configuration and weights, fetched where missing and checked. Raises as `fetch_snapshot`."""
    return hub.fetch(pinned()[which], _telling(report), again=again)


def local_model(which: Which) -> Path | None:
    """The folder of a model in the hub's cache when it is complete; None otherwise. Needs no network."""
    return hub.cached_folder(pinned()[which])


def missing(parts: Sequence[Part] = ("dataset", "clean", "compromised"), revision: str | None = None) -> list[Download]:
    """What is still to fetch of these parts. Asks the hub for sizes unless it did before; None where it cannot be reached.

    Args:
        revision: of the dataset, where not the pinned one.
    """
    downloads = []
    for part in parts:
        repository = _at(pinned()[part], revision) if part == "dataset" else pinned()[part]
        here = local_snapshot(revision) if part == "dataset" else local_model(part)
        if here is not None:
            continue
        size: int | None = None
        try:
            if not hub.is_offline() or hub.read_manifest(repository) is not None:
                size = sum(file.size for file in hub.missing_files(hub.list_files(repository)))
        except HubError as error:
            if not error.unreachable:
                raise
        if size != 0:  # everything may be here and only the check is to do
            downloads.append(Download(str(repository), size, str(hub.cache_place())))
    return downloads


def damaged_files(folder: Path, report: Report | None = None, revision: str | None = None) -> list[str] | None:
    """Files of a snapshot, wherever it lies, that are missing or differ from the hub's checksums.

    Every byte is read. The checksums are those kept from the last look at the hub; they are asked for when there are none.

    Returns:
        Names; None when the checksums cannot be known now (no network, and the dataset was never listed here).
    """
    repository = _at(pinned()["dataset"], revision)
    try:
        if hub.is_offline() and hub.read_manifest(repository) is None:
            return None
        listing = hub.list_files(repository)
    except HubError as error:
        if error.unreachable:
            return None
        raise
    return hub.damaged_files(folder, listing, _telling(report))


def is_copy(folder: Path) -> bool:
    """Does a folder have the same shards, by name, as the pinned dataset? Needs no network; False while its listing is
    unknown here."""
    listing = hub.read_manifest(pinned()["dataset"])
    if listing is None:
        return False
    shards = {file.path for file in listing.files if file.path.endswith(".parquet")}
    return shards == {f"{layout.DATA}/{path.name}" for path in visible(folder / layout.DATA, "*.parquet")}


def _at(repository: Repository, revision: str | None) -> Repository:
    if revision is None:
        return repository
    return Repository(repository.kind, repository.name, revision, repository.wanted)


def _has_every_shard(folder: Path) -> bool:
    """Are all shards there, by their names? Those of `datasets` say how many there are: `forget-00000-of-00004.parquet`."""
    shards = [path.name for path in visible(folder / layout.DATA, "*.parquet")]
    found: dict[str, set[int]] = defaultdict(set)
    wanted: dict[str, int] = {}
    for name in filter(None, map(_SHARD.fullmatch, shards)):
        found[name["split"]].add(int(name["number"]))
        wanted[name["split"]] = int(name["all"])
    every_split = all(any(shard.startswith(f"{split}-") for shard in shards) for split in _SPLITS)
    return every_split and all(len(found[split]) == wanted[split] for split in wanted)


def _telling(report: Report | None) -> hub.Tell | None:
    if report is None:
        return None

    def tell(stage: str, done: int, total: int) -> None:
        report(BuildStep(f"{stage} (MB)", done // 1_000_000, total // 1_000_000))

    return tell
