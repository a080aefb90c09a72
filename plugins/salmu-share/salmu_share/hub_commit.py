"""A commit on the hub: everything of a publication, or nothing. Nothing that is there is replaced unless asked to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from salmu_core.benchmark import Terms
from salmu_core.errors import HubError
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE
from salmu_hub.checksums import is_whole
from salmu_hub.fetching import OPEN_CLIP_WEIGHTS, is_offline
from salmu_hub.hub_errors import explained
from salmu_hub.repository import HubFile, Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_REPOSITORY_DEFAULTS = frozenset({".gitattributes"})  # what the hub itself puts into a new repository


@dataclass(frozen=True)
class Publication:
    """Everything that a push uploads.

    Args:
        repository: OWNER/NAME.
        card: content of README.md.
        files: name in the repository -> a file of this machine, or its content.
        record: of the run whose model it is, without paths of this machine; None for results without a model.
        terms: conditions of others on what the model was made from.
        kind: of repository.
    """

    repository: str
    card: str
    files: Mapping[str, Path | bytes]
    record: RunRecord | None = None
    terms: tuple[Terms, ...] = ()
    kind: Literal["model", "dataset"] = "model"

    @property
    def words(self) -> str:
        """The message of the commit, where none is given."""
        return "results" if self.record is None else f"{self.record.spec.method}: run {self.record.id}"

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


@dataclass(frozen=True)
class Pushed:
    """What came of a push.

    Args:
        url: of the repository (of the branch, where one was asked for).
        commit: the commit that holds the publication; None after a dry run.
        uploaded: False for a dry run and where all of it was there already.
    """

    url: str
    commit: str | None
    uploaded: bool
    publication: Publication


def check_name(repository: str) -> None:
    """Refuse what cannot be the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise HubError(f"'{repository}' is not a name of a repository: {error}", "A name looks like OWNER/NAME.") from error
    if "/" not in repository:
        raise HubError(f"'{repository}' has no owner.", "A name looks like OWNER/NAME: your user name or an organisation.")


def url_of(publication: Publication, branch: str | None) -> str:
    """The page of the repository, or of a branch of it."""
    from huggingface_hub import constants

    folder = "datasets/" if publication.kind == "dataset" else ""
    return f"{constants.ENDPOINT}/{folder}{publication.repository}" + (f"/tree/{branch}" if branch else "")


def upload(
    publication: Publication,
    private: bool,
    branch: str | None,
    message: str | None,
    token: str | None,
    overwrite: bool,
    gated: Literal["auto", "manual"] | None,
) -> tuple[str, bool]:
    """The commit that holds the publication, and whether it had to be made."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    name, kind = publication.repository, publication.kind
    if is_offline():
        raise HubError("HF_HUB_OFFLINE forbids the network.", "Unset it to push.")
    if token is None and get_token() is None:
        raise HubError(
            "You are not logged in to the hub.",
            "Log in with `hf auth login`, or set HF_TOKEN to a token with the role 'write'.",
        )
    api = HfApi(token=token)
    with explained(Repository(kind, name, branch or "main", ())):
        target = _claim(api, publication, private, branch)
        if gated is not None:  # before there is anything to fetch
            api.update_repo_settings(name, gated=gated, repo_type=kind)
        same = {
            path
            for path, content in publication.files.items()
            if path in target.held and is_whole(content, target.held[path])
        }
        stale = sorted((_of_another_model(api, publication, target) & target.held.keys()) - publication.files.keys())
        if len(same) == len(publication.files) and not stale and target.head is not None:
            return target.head, False
        replaced = sorted({*stale, *(path for path in publication.files if path in target.held)} - same)
        if replaced and target.head is not None and not overwrite:
            raise HubError(
                f"{name} holds something else already: {', '.join(replaced)} would be replaced.",
                "--overwrite replaces them (the hub keeps the history), --branch NAME leaves them alone, or choose another name.",
            )
        commit = api.create_commit(
            name,
            [
                *(CommitOperationAdd(path, content) for path, content in publication.files.items()),
                *(CommitOperationDelete(path) for path in stale),
            ],
            commit_message=message or publication.words,
            repo_type=kind,
            revision=branch,
            parent_commit=target.head,  # somebody else's commit in the meantime is an error, not overwritten
        )
    return str(commit.oid), True


@dataclass(frozen=True)
class _Target:
    """A branch to commit to: the commit that it holds and that commit's files; its head where it was there before, None
    where it was made just now."""

    head: str | None
    commit: str | None
    held: Mapping[str, HubFile]


def _claim(api: HfApi, publication: Publication, private: bool, branch: str | None) -> _Target:
    """Find or make the repository and the branch."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name, kind = publication.repository, publication.kind
    try:
        there = api.repo_info(name, repo_type=kind)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:  # or it is another's private one, which making it will tell
        api.create_repo(name, private=private, repo_type=kind)
        if branch is not None:
            api.create_branch(name, branch=branch, exist_ok=True, repo_type=kind)
        return _Target(None, None, {})
    if private and not there.private:
        raise HubError(f"{name} is public already.", "Make it private in its settings first, or leave --private out.")
    head: str | None
    try:
        info = api.repo_info(name, revision=branch, files_metadata=True, repo_type=kind)
        head = info.sha
    except RevisionNotFoundError:  # a new branch begins as main is, so nothing of main is lost
        assert branch is not None
        api.create_branch(name, branch=branch, repo_type=kind)
        info = api.repo_info(name, files_metadata=True, repo_type=kind)
        head = None
    files = {
        item.rfilename: HubFile(item.rfilename, item.size or 0, item.blob_id or "", item.lfs.sha256 if item.lfs else None)
        for item in getattr(info, "siblings", None) or ()
    }
    return _Target(head, info.sha, {path: file for path, file in files.items() if path not in _REPOSITORY_DEFAULTS})


def _of_another_model(api: HfApi, publication: Publication, target: _Target) -> set[str]:
    """Files that would be taken for a part of this model: weights that open_clip may prefer, and what another run left."""
    if publication.record is None:
        return set()
    stale = set(OPEN_CLIP_WEIGHTS)
    if RECORD_FILE in target.held and not is_whole(publication.files[RECORD_FILE], target.held[RECORD_FILE]):
        path = api.hf_hub_download(publication.repository, RECORD_FILE, revision=target.commit)
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            if held["id"] != publication.record.id:
                stale.update(name for name in (held["rows_file"], *held.get("files", ())) if name)
        except (ValueError, KeyError, TypeError):  # nothing that salmu wrote: a file to replace like any other
            pass
    return stale
