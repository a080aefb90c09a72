"""`push`: a run's model, card and record to a repository on the hub, in one commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from salmu_core.benchmark import Terms
from salmu_core.errors import BadRecord, HubError, SalmuError
from salmu_core.files.seals import sealed_json
from salmu_core.models.hub import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, is_offline
from salmu_core.models.hub_checksums import is_whole
from salmu_core.models.hub_errors import explained
from salmu_core.models.hub_repository import HubFile, Repository
from salmu_core.plugins.registry import Plugins, load_plugins
from salmu_core.records.attacks import AUDITS_FILE, read_attacks
from salmu_core.records.redact import public_record
from salmu_core.records.references import find_references
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE, read_record
from salmu_core.spec.resolve import make_benchmark
from salmu_share.card import make_card
from salmu_share.published import attacks_json, weights_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
_REPOSITORY_DEFAULTS = frozenset({".gitattributes"})  # what the hub itself puts into a new repository


@dataclass(frozen=True)
class Publication:
    """Everything that a push uploads.

    Args:
        repository: OWNER/NAME.
        record: the run's, without paths of this machine.
        card: content of README.md.
        files: name in the repository -> a file of this machine, or its content.
        terms: conditions of others on what the model was made from.
    """

    repository: str
    record: RunRecord
    card: str
    files: Mapping[str, Path | bytes]
    terms: tuple[Terms, ...] = ()

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


def push(
    run: str | Path,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    branch: str | None = None,
    message: str | None = None,
    token: str | None = None,
    license: str = "unknown",
    base_model: str | None = None,
    rows: bool = False,
    references: str | Path | None = None,
    overwrite: bool = False,
    force: bool = False,
    gated: Literal["auto", "manual"] | None = None,
    plugins: Plugins | None = None,
) -> Pushed:
    """Publish a finished run: model (as open_clip loads it from the hub), card, record and the benchmark's result files.

    All files arrive in one commit or not at all. Repeating a push uploads nothing; weights that arrived before a push was
    killed are not sent again.

    Args:
        run: a run directory.
        repository: OWNER/NAME; made where it does not exist.
        private: make it private. An existing public repository is refused.
        dry_run: gather and check everything, ask the hub nothing, upload nothing.
        branch: a branch other than `main`; made where it does not exist.
        message: of the commit.
        token: instead of HF_TOKEN or the one of `hf auth login`.
        license: an identifier that the hub knows.
        base_model: OWNER/NAME that the method started from; default: what the benchmark says.
        rows: upload per-row scores too.
        references: where the Clean and Compromised records are; default: beside the run.
        overwrite: replace files that are there with another content.
        force: publish a run that diverged; its card opens with a warning.
        gated: ask whoever fetches the model to accept terms first; `auto` lets everybody in who does, `manual` those you let in. Done
            before any file is uploaded.

    Raises:
        BadRecord: no run directory, a run without a model, or one that did not end well.
        BadCheckpoint: the weights are not those that the record's scores were measured on.
        HubError: not logged in, no permission, no network, or a repository with other content.
    """
    publication = prepare(
        run,
        repository,
        license=license,
        base_model=base_model,
        rows=rows,
        references=references,
        force=force,
        plugins=plugins,
    )
    url = _url(repository, branch)
    if dry_run:
        return Pushed(url, None, False, publication)
    commit, uploaded = _upload(publication, private, branch, message, token, overwrite, gated)
    return Pushed(url, commit, uploaded, publication)


def prepare(
    run: str | Path,
    repository: str,
    *,
    license: str = "unknown",
    base_model: str | None = None,
    rows: bool = False,
    references: str | Path | None = None,
    force: bool = False,
    plugins: Plugins | None = None,
) -> Publication:
    """What `push` would upload. Reads the run and its neighbours; asks the hub nothing."""
    folder = Path(run)
    _check_name(repository)
    if folder.is_file() or not folder.is_dir():
        raise BadRecord(f"'{folder}' is no run directory.", "Give the folder that `salmu run` wrote.")
    record = read_record(folder)
    weights = weights_of(record, folder, force=force)
    plugins = plugins or load_plugins()
    if base_model is None:
        base_model = _base_model(record, plugins)
    terms = terms_of(record, plugins)
    public = public_record(record)
    if not rows:
        public = public.model_copy(update={"rows_file": None})
    public = public.model_copy(update={"model_file": OPEN_CLIP_WEIGHTS[0]})
    files: dict[str, Path | bytes] = {
        OPEN_CLIP_CONFIG: folder / OPEN_CLIP_CONFIG,
        OPEN_CLIP_WEIGHTS[0]: weights,
        RECORD_FILE: (json.dumps(sealed_json(public.model_dump(mode="json")), indent=2, ensure_ascii=False) + "\n").encode(),
    }
    files.update({name: folder / name for name in record.files if Path(name).name == name and (folder / name).is_file()})
    if rows:
        if record.rows_file is None or not (folder / record.rows_file).is_file():
            raise BadRecord(f"'{folder}' holds no per-row scores.", "Leave --rows out.")
        files[record.rows_file] = folder / record.rows_file
    attacked = read_attacks(record, folder)
    if attacked.results:  # the data's place on this machine stays here
        files[AUDITS_FILE] = attacks_json(record, attacked)
    card = make_card(
        public,
        find_references(record, folder, references),
        repository=repository,
        attacked=attacked,
        files=[CARD_FILE, *files],
        license=license,
        base_model=base_model,
        terms=terms,
    )
    return Publication(repository, public, card, {CARD_FILE: card.encode(), **files}, terms)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise HubError(f"'{repository}' is no name of a repository: {error}", "A name looks like OWNER/NAME.") from error
    if "/" not in repository:
        raise HubError(f"'{repository}' has no owner.", "A name looks like OWNER/NAME: your user name or an organisation.")


def _base_model(record: RunRecord, plugins: Plugins) -> str | None:
    """Where on the hub the starting model is, if the benchmark is installed and says so."""
    try:
        return make_benchmark(record.spec.benchmark, record.spec.benchmark_options, plugins).hub_model(record.spec.start)
    except SalmuError:
        return None


def terms_of(record: RunRecord, plugins: Plugins) -> tuple[Terms, ...]:
    """Conditions of others on what a run's model was made from, if the benchmark is installed and says so."""
    try:
        return tuple(make_benchmark(record.spec.benchmark, record.spec.benchmark_options, plugins).terms())
    except SalmuError:
        return ()


def _url(repository: str, branch: str | None) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}" + (f"/tree/{branch}" if branch else "")


def _upload(
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

    name = publication.repository
    if is_offline():
        raise HubError("HF_HUB_OFFLINE forbids the network.", "Unset it to push.")
    if token is None and get_token() is None:
        raise HubError(
            "You are not logged in to the hub.",
            "Log in with `hf auth login`, or set HF_TOKEN to a token with the role 'write'.",
        )
    api = HfApi(token=token)
    with explained(Repository("model", name, branch or "main", ())):
        target = _claim(api, name, private, branch)
        if gated is not None:  # before there is anything to fetch
            api.update_repo_settings(name, gated=gated)
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
            commit_message=message or f"{publication.record.spec.method}: run {publication.record.id}",
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


def _claim(api: HfApi, name: str, private: bool, branch: str | None) -> _Target:
    """Find or make the repository and the branch."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        there = api.model_info(name)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:  # or it is another's private one, which making it will tell
        api.create_repo(name, private=private)
        if branch is not None:
            api.create_branch(name, branch=branch, exist_ok=True)
        return _Target(None, None, {})
    if private and not there.private:
        raise HubError(f"{name} is public already.", "Make it private in its settings first, or leave --private out.")
    head: str | None
    try:
        info = api.model_info(name, revision=branch, files_metadata=True)
        head = info.sha
    except RevisionNotFoundError:  # a new branch begins as main is, so nothing of main is lost
        assert branch is not None
        api.create_branch(name, branch=branch)
        info = api.model_info(name, files_metadata=True)
        head = None
    files = {
        item.rfilename: HubFile(item.rfilename, item.size or 0, item.blob_id or "", item.lfs.sha256 if item.lfs else None)
        for item in info.siblings or ()
    }
    return _Target(head, info.sha, {path: file for path, file in files.items() if path not in _REPOSITORY_DEFAULTS})


def _of_another_model(api: HfApi, publication: Publication, target: _Target) -> set[str]:
    """Files that would be taken for a part of this model: weights that open_clip may prefer, and what another run left."""
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
