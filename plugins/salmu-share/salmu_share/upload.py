"""`push`: a run's model, card and record to a repository on the hub, in one commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from salmu_core.benchmark import Terms
from salmu_core.errors import BadRecord, SalmuError
from salmu_core.files.seals import sealed_json
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.attacks import AUDITS_FILE, read_attacks
from salmu_core.records.redact import public_record
from salmu_core.records.references import find_references
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE, read_record
from salmu_core.spec.resolve import make_benchmark
from salmu_hub.fetching import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from salmu_share.card import make_card
from salmu_share.hub_commit import Publication, Pushed, check_name, upload, url_of
from salmu_share.hub_results import results_file
from salmu_share.published import attacks_json, weights_of
from salmu_share.results import is_results, prepare_results

CARD_FILE = "README.md"


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
    evaluates: str | None = None,
    gated: Literal["auto", "manual"] | None = None,
    plugins: Plugins | None = None,
) -> Pushed:
    """Publish a finished run: model (as open_clip loads it from the hub), card, record and the benchmark's result files.

    All files arrive in one commit or not at all. Repeating a push uploads nothing; weights that arrived before a push was
    killed are not sent again.

    Args:
        run: a run directory; or the results folder of a comparison, which becomes a dataset repository without any model.
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
        evaluates: OWNER/NAME or OWNER/NAME@COMMIT of the benchmark's dataset repository on the hub, whose leaderboard there is to show
            the scores.
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
        evaluates=evaluates,
        plugins=plugins,
    )
    url = url_of(publication, branch)
    if dry_run:
        return Pushed(url, None, False, publication)
    commit, uploaded = upload(publication, private, branch, message, token, overwrite, gated)
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
    evaluates: str | None = None,
    plugins: Plugins | None = None,
) -> Publication:
    """What `push` would upload. Reads the run and its neighbours; asks the hub nothing."""
    folder = Path(run)
    check_name(repository)
    if is_results(folder):
        return prepare_results(folder, repository, license=license, rows=rows)
    if folder.is_file() or not folder.is_dir():
        raise BadRecord(f"'{folder}' is not a run directory.", "Give the folder that `salmu run` wrote.")
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
    found = find_references(record, folder, references)
    if evaluates is not None:
        name, content = results_file(public, found, dataset=evaluates, repository=repository)
        files[name] = content
    card = make_card(
        public,
        found,
        repository=repository,
        attacked=attacked,
        files=[CARD_FILE, *files],
        license=license,
        base_model=base_model,
        terms=terms,
    )
    return Publication(repository, card, {CARD_FILE: card.encode(), **files}, record=public, terms=terms)


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
