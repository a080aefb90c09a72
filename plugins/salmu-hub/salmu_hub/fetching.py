"""Reading repositories of the Hugging Face hub: what a commit holds, fetching it, and proof that it arrived unharmed.

huggingface_hub does the work (its cache, parallel downloads, retries); here every file is checked against the checksum that
the hub states for the commit, and its many errors become one `HubError` that says what to do. Nothing here needs torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from salmu_core.errors import BadData, HubError, OutputError
from salmu_core.files.writing import default_cache, write_json
from salmu_hub.checksums import is_whole
from salmu_hub.hub_errors import explain as explain
from salmu_hub.hub_errors import explained, offline_error
from salmu_hub.progress import byte_counter
from salmu_hub.repository import HubFile, Listing, Repository

#: Told of every stretch of a download: stage, bytes done, bytes in all.
Tell = Callable[[str, int, int], None]
OPEN_CLIP_CONFIG = "open_clip_config.json"
#: A tokenizer that is not CLIP's own lies beside the weights.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
#: Names under which open_clip keeps weights on the hub, the one it prefers first; then the one of run directories.
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")


def is_offline() -> bool:
    """Did the user forbid the network with HF_HUB_OFFLINE?"""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cache_place() -> Path:
    """huggingface_hub's cache folder, which HF_HOME and HF_HUB_CACHE move."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def list_files(repository: Repository) -> Listing:
    """What the hub says of the wanted files. A commit that was listed before is not asked for again.

    Raises:
        HubError: the repository, revision or a wanted file is not there or not for this user, or the hub cannot be reached.
    """
    known = read_manifest(repository)
    if known is not None:
        return known
    from huggingface_hub import HfApi

    with explained(repository):
        ask = HfApi().dataset_info if repository.kind == "dataset" else HfApi().model_info
        info = ask(repository.name, revision=repository.revision, files_metadata=True)
    files = tuple(
        HubFile(item.rfilename, item.size or 0, item.blob_id or "", item.lfs.sha256 if item.lfs else None)
        for item in info.siblings or ()
    )
    listing = Listing(repository, info.sha or "", files)
    _write_manifest(listing, verified=())
    if repository.revision != listing.commit:  # remembered for times without a network
        write_json(_manifest_path(repository, repository.revision), {"commit": listing.commit})
    return _only_wanted(listing)


def read_manifest(repository: Repository) -> Listing | None:
    """The listing of a commit kept from an earlier look; None for a branch, or for a commit never listed here."""
    content = _manifest(repository)
    if content is None:
        return None
    files = tuple(HubFile(**file) for file in content["files"])
    return _only_wanted(Listing(repository, content["commit"], files))


def cached_path(repository: Repository, path: str) -> Path | None:
    """Where a file of that revision lies in huggingface_hub's cache; None when it is not there. Needs no network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository.name, path, revision=repository.revision, repo_type=repository.kind)
    return Path(found) if isinstance(found, str) else None


def cached_folder(repository: Repository) -> Path | None:
    """The snapshot in huggingface_hub's cache when everything wanted is in it, whole and checked. Needs no network.

    Without a listing (it was fetched by another tool, or copied here) every wanted name without `*` must be there; whether
    the patterns are complete is then for the caller to judge.
    """
    repository = _last_known(repository)
    listing = read_manifest(repository)
    if listing is not None:
        return None if missing_files(listing) or _unverified(listing) else _folder(listing)
    named = [path for path in repository.wanted if "*" not in path]
    found = [cached_path(repository, path) for path in named]
    return None if None in found or not found or found[0] is None else _root(found[0], named[0])


def missing_files(listing: Listing) -> list[HubFile]:
    """Files that are not in the cache with their full size."""
    at_commit = Repository(listing.repository.kind, listing.repository.name, listing.commit, ())
    missing = []
    for file in listing.files:
        path = cached_path(at_commit, file.path)
        if path is None or path.stat().st_size != file.size:
            missing.append(file)
    return missing


def fetch(repository: Repository, tell: Tell | None = None, *, again: bool = False) -> Path:
    """Bring the wanted files into huggingface_hub's cache and check them; files that are there already are kept.

    What arrived before a connection broke or the process was killed is not fetched again. Each file is compared once with
    its checksum; one that differs is fetched a second time.

    Args:
        tell: told of every stretch of the way.
        again: compare files that were compared before, too.

    Returns:
        The snapshot's folder.

    Raises:
        HubError: see `list_files`; also HF_HUB_OFFLINE with something missing.
        BadData: a file differs from its checksum twice.
        OutputError: too little space.
    """
    tell = tell or (lambda stage, done, total: None)
    if is_offline():
        repository = _last_known(repository)
        folder = cached_folder(repository)
        known = read_manifest(repository) is not None
        if folder is not None and not (again and known):
            return folder
        if not known:
            raise offline_error(repository)
    listing = list_files(repository)
    missing = missing_files(listing)
    if missing:
        _check_space(repository, sum(file.size for file in missing))
        _download(listing, missing, tell)
    folder = _folder(listing)
    unverified = listing.files if again else _unverified(listing)
    damaged = _damaged(folder, unverified, tell, f"check {repository}")
    if damaged:
        _download_again(listing, damaged, tell)
        damaged = _damaged(folder, damaged, tell, f"check {repository} again")
        if damaged:
            raise BadData(
                f"{_names(damaged)} of {repository} differ{'s' if len(damaged) == 1 else ''} from the checksum that the hub"
                " states, after fetching twice.",
                f"Something between the hub and this machine alters files, or the disk is failing. They lie in '{folder}'.",
            )
    if unverified:
        _write_manifest(listing, verified=[file.path for file in listing.files])
    return folder


def damaged_files(folder: Path, listing: Listing, tell: Tell | None = None) -> list[str]:
    """Files of a folder that are missing or differ from their checksum, by reading every byte. Needs no network."""
    tell = tell or (lambda stage, done, total: None)
    return [file.path for file in _damaged(folder, listing.files, tell, "check")]


def fetch_model(
    name: str, revision: str | None = None, tell: Tell | None = None, *, again: bool = False
) -> tuple[Path, Path]:
    """An open_clip model's configuration and weights, fetched and checked as by `fetch`.

    Returns:
        Paths of the configuration and of the weights, under the first of `OPEN_CLIP_WEIGHTS` that the repository has.

    Raises:
        HubError: no such model, no weights under a name that open_clip uses, or the hub cannot be reached and no copy is here.
    """
    names = (OPEN_CLIP_CONFIG, *OPEN_CLIP_WEIGHTS)
    # Of the names that open_clip uses a repository has one or two: the patterns ask for whichever there are.
    asked = Repository("model", name, revision or "main", tuple(f"{file}*" for file in (*names, *TOKENIZER_FILES)))
    known = _last_known(asked)
    copies = [path for path in (cached_path(known, file) for file in names) if path is not None]
    try:
        if is_offline() and read_manifest(known) is None:
            raise offline_error(asked)
        listing = list_files(known if is_offline() else asked)
    except HubError as error:
        if error.unreachable and len(copies) >= 2 and copies[0].name == OPEN_CLIP_CONFIG:
            return copies[0], copies[1]
        raise
    there = {item.path for item in listing.files}
    weights = next((file for file in OPEN_CLIP_WEIGHTS if file in there), None)
    if weights is None:
        raise HubError(
            f"The model {name} holds no weights under a name that open_clip uses.",
            f"Expected {' or '.join(OPEN_CLIP_WEIGHTS)}.",
        )
    wanted = (OPEN_CLIP_CONFIG, weights, *(file for file in TOKENIZER_FILES if file in there))
    folder = fetch(Repository("model", name, listing.commit, wanted), tell, again=again)
    return folder / OPEN_CLIP_CONFIG, folder / weights


def _manifest_path(repository: Repository, commit: str) -> Path:
    folder = f"{repository.kind}s--{repository.name.replace('/', '--')}"
    return default_cache() / "hub" / folder / f"{commit.replace('/', '--')}.json"


def _last_known(repository: Repository) -> Repository:
    """The repository at the commit that a branch meant when it was last looked at; as it is where that is not known."""
    try:
        commit = json.loads(_manifest_path(repository, repository.revision).read_text())["commit"]
    except (OSError, ValueError, KeyError, TypeError):
        return repository
    return Repository(repository.kind, repository.name, commit, repository.wanted)


def _manifest(repository: Repository) -> dict[str, Any] | None:
    try:
        content = json.loads(_manifest_path(repository, repository.revision).read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) and "files" in content else None


def _write_manifest(listing: Listing, verified: Sequence[str]) -> None:
    """Keep what the hub said of a whole commit, and which files were compared with it."""
    at_commit = Repository(listing.repository.kind, listing.repository.name, listing.commit, ("*",))
    known = _manifest(at_commit) or {"files": [asdict(file) for file in listing.files], "verified": []}
    content = {
        "repository": listing.repository.name,
        "commit": listing.commit,
        "files": known["files"],
        "verified": sorted({*known["verified"], *verified}),
    }
    write_json(_manifest_path(listing.repository, listing.commit), content)


def _unverified(listing: Listing) -> Sequence[HubFile]:
    at_commit = Repository(listing.repository.kind, listing.repository.name, listing.commit, ())
    verified = set((_manifest(at_commit) or {"verified": []})["verified"])
    return [file for file in listing.files if file.path not in verified]


def _only_wanted(listing: Listing) -> Listing:
    repository = listing.repository
    files = tuple(file for file in listing.files if repository.wants(file.path))
    names = {file.path for file in files}
    lacking = [path for path in repository.wanted if "*" not in path and path not in names]
    if lacking:
        raise HubError(f"The {repository} holds no {', '.join(lacking)}.", "Check the name and the revision.")
    return Listing(repository, listing.commit, files)


def _root(path: Path, name: str) -> Path:
    return path.parents[len(Path(name).parts) - 1]


def _folder(listing: Listing) -> Path:
    at_commit = Repository(listing.repository.kind, listing.repository.name, listing.commit, ())
    for file in listing.files:
        path = cached_path(at_commit, file.path)
        if path is not None:
            return _root(path, file.path)
    raise HubError(f"The {listing.repository} holds none of {', '.join(listing.repository.wanted)}.")


def _check_space(repository: Repository, needed: int) -> None:
    place = cache_place()
    existing = next(folder for folder in (place, *place.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OutputError(
            f"'{place}' has {free / 1e6:,.1f} MB free; the {repository} needs {needed / 1e6:,.1f} MB.",
            "Free some space, or put the hub's cache elsewhere with HF_HUB_CACHE.",
        )


def _download(listing: Listing, missing: Sequence[HubFile], tell: Tell) -> None:
    repository = listing.repository
    if is_offline():
        raise offline_error(repository)
    for file in missing:  # a file cut short by something else than huggingface_hub would be taken for a whole one
        path = cached_path(Repository(repository.kind, repository.name, listing.commit, ()), file.path)
        if path is not None:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
    _snapshot(listing, missing, tell, f"fetch {repository}")


def _download_again(listing: Listing, damaged: Sequence[HubFile], tell: Tell) -> None:
    if is_offline():
        raise HubError(
            f"{_names(damaged)} of {listing.repository} differ{'s' if len(damaged) == 1 else ''} from the checksum, and"
            " HF_HUB_OFFLINE forbids fetching again.",
            "Unset HF_HUB_OFFLINE and run the same command.",
        )
    _snapshot(listing, damaged, tell, f"fetch {listing.repository} again", force_download=True)


def _snapshot(listing: Listing, files: Sequence[HubFile], tell: Tell, stage: str, *, force_download: bool = False) -> None:
    from huggingface_hub import snapshot_download

    repository = listing.repository
    total = sum(file.size for file in files)
    tell(stage, 0, total)
    with explained(repository):
        snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=listing.commit,
            allow_patterns=[_literal(file.path) for file in files],
            tqdm_class=byte_counter(lambda done: tell(stage, min(done, total), total)),
            force_download=force_download,
        )
    tell(stage, total, total)


def _literal(path: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _damaged(folder: Path, files: Sequence[HubFile], tell: Tell, stage: str) -> list[HubFile]:
    total = sum(file.size for file in files)
    done = 0
    damaged = []
    for file in files:
        tell(stage, done, total)
        if not is_whole(folder / file.path, file):
            damaged.append(file)
        done += file.size
    tell(stage, total, total)
    return damaged


def _names(files: Sequence[HubFile]) -> str:
    names = ", ".join(f"'{file.path}'" for file in files[:3])
    return names if len(files) <= 3 else f"{names} and {len(files) - 3} more files"
