"""What a certificate says, from a record, its references and the rows that were to be forgotten."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salmu_core.comparison.explain import VERDICTS
from salmu_core.comparison.verdict import recovered_words
from salmu_core.data.splits import Split
from salmu_core.errors import BadCheckpoint, BadRecord
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.attacks import Attacked, read_attacks
from salmu_core.records.redact import public_record
from salmu_core.records.references import find_references, reference
from salmu_core.records.schema import RunRecord, ScoreRecord
from salmu_core.records.store import read_record
from salmu_core.spec.resolve import benchmark_of_run
from salmu_deletion.certificate.sealed import CERTIFICATE_FILE, read_sealed
from salmu_deletion.own_data.chain import read_request
from salmu_deletion.statements import statements, verdict_of
from salmu_deletion.wording import without_clean

LIMITS = (
    "The numbers describe how this model embeds the measured pictures and captions. They do not prove that no trace of the data is"
    " left in its weights.",
    "Only the listed rows were measured. Other pictures of the same people, other wordings and other languages may behave otherwise.",
    "Copies of the model from before, backups, caches, logs and the training data itself are not covered.",
    "The hash of a row is made of picture and caption together. It is no personal data by itself, but whoever holds both can show that"
    " the row was in the request.",
    "A signature shows that the holder of a key vouches for this content. It does not show when, and not whose key it is.",
    "This is a technical report. It makes no claim about any law, and does not say that a legal duty to erase is met.",
)


def certificate_content(
    run: str | Path, *, names: bool = False, references: str | Path | None = None, plugins: Plugins | None = None
) -> dict[str, Any]:
    """The content to be sealed; the same for the same run, on whatever day it is made.

    Args:
        run: a run directory.
        references: where the Clean and Compromised records are; default: in the run's own `references/`, else beside it.
        names: write identities, names and fields in clear. Otherwise there are counts and hashes only.

    Raises:
        BadRecord: no run of a method that ended well.
        BadCheckpoint: the weights are not those that the record was made of.
        NotBuilt, BadData: the data of the run is not here, or not as it was.
    """
    folder = Path(run)
    record = read_record(folder)
    folder = folder.parent if folder.is_file() else folder
    if record.kind != "run" or record.status != "ok" or record.model_file is None:
        raise BadRecord(
            f"'{folder}' holds a {record.kind} ({record.status}): there is no deletion to certify.",
            "Give the directory of a method's run that ended well.",
        )
    weights = folder / record.model_file
    if not weights.is_file() or load_model(folder).fingerprint() != record.provenance.model_fingerprint:
        raise BadCheckpoint(
            f"The weights in '{folder}' are not those that its record was made of.",
            "The file was changed or is gone. Run it again: --overwrite.",
        )
    benchmark = benchmark_of_run(record, folder, plugins or load_plugins(), why=", so the request cannot be stated")
    found = find_references(record, folder, references)
    clean, compromised = (row.scores if (row := reference(found, which)) else {} for which in ("clean", "compromised"))
    attacked = read_attacks(record, folder)
    verdict = verdict_of(record, clean, compromised, attacked)
    stand_in = benchmark.reference("clean")[0] is not benchmark
    public = public_record(record)
    told = without_clean if stand_in else str
    return {
        "requested": _requested(benchmark.split_for("forget"), names),
        "measured": {
            "verdict": verdict.name,
            "verdict_means": told(VERDICTS.get(verdict.name, "").replace(" Holds no rank.", "")),
            "reason": told(verdict.reason),
            "answers": [
                {"question": item.question, "answer": told(item.answer), "measured": item.measured}
                for item in statements(record, clean, compromised)
            ],
            "metrics": [_metric(name, score, clean, compromised) for name, score in record.scores.items()],
            "not_measured": dict(sorted(record.skipped.items())),
            "reference": _REFERENCE[stand_in] if clean else "No model that never learned the data was measured.",
            "audits": _audits(attacked),
        },
        "method": {
            "name": record.spec.method,
            "options": _plain(public.options),
            "summary": record.summary,
            "package": None
            if (package := record.provenance.method_package) is None
            else f"{package.name} {package.version}",
            "weight_change": record.weight_change,
            "samples": dict(record.cost.samples),
        },
        "model": {
            "before": dict(record.provenance.start_fingerprint),
            "after": dict(record.provenance.model_fingerprint),
            "after_file_sha256": file_sha256(weights),
            "after_file_bytes": weights.stat().st_size,
            "digest": "BLAKE2b-128 of each tower's weights and architecture; SHA-256 of the file of weights",
        },
        "data": {
            "benchmark": record.spec.benchmark,
            "version": record.provenance.benchmark_version,
            "identity": _plain(public.provenance.benchmark_identity),
            "fingerprint": record.provenance.data_fingerprint,
        },
        "run": {
            "record": record.id,
            "record_sha256": _record_sha256(record),
            "finished": record.created_at.isoformat(),
            "seed": record.spec.seed,
            "budget": record.spec.budget,
            "precision": record.spec.precision,
            "packages": dict(record.provenance.packages),
            "device": record.provenance.device,
            "commit": record.provenance.git_commit,
        },
        "terms": [
            {"what": item.what, "page": item.page, "licence": item.licence, "words": item.words, "gated": item.gated}
            for item in benchmark.terms()
        ],
        "request": _request(folder, record),
        "predecessor": _predecessor(record),
        "limits": list(LIMITS),
    }


def _request(folder: Path, record: RunRecord) -> dict[str, Any] | None:
    """What `salmu forget` found out about stored vectors and earlier requests; None for other runs."""
    content = read_request(folder)
    if content.get("record") != record.id:
        return None
    return {part: _plain(content.get(part)) for part in ("index", "chain")}


def _predecessor(record: RunRecord) -> dict[str, Any] | None:
    """The request before this one: by its record, its weights, and the hash of its certificate where it has one."""
    after = record.spec.benchmark_options.get("after") if record.spec.benchmark == "own-data" else None
    if after is None:
        return None
    folder = Path(after)
    earlier = read_record(folder)
    if earlier.provenance.model_fingerprint != record.provenance.start_fingerprint:
        raise BadRecord(
            f"'{folder}' is not the run that this one began with: its model is another one.", "Bring that run's folder back."
        )
    certificate = folder / CERTIFICATE_FILE
    return {
        "record": earlier.id,
        "record_sha256": _record_sha256(earlier),
        "model_file_sha256": file_sha256(folder / (earlier.model_file or "")),
        "certificate_sha256": read_sealed(certificate)["sha256"] if certificate.is_file() else None,
    }


def _record_sha256(record: RunRecord) -> str:
    return hashlib.sha256(json.dumps(record.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


_REFERENCE = {
    False: "The model called Clean was trained without the data.",
    True: "No model was trained without the data. In its place stands the model before, on the same captions beside pictures of"
    " others.",
}


def _requested(split: Split, names: bool) -> dict[str, Any]:
    """Counts, and a hash of every row; who and what in clear only when asked."""
    columns, rows = split.columns, len(split)
    identities = [None if value is None else str(value) for value in columns.get("identity_id", [None] * rows)]
    fields = [None if value is None else str(value) for value in columns.get("data_field", [None] * rows)]
    hashes = [row_hash(split, row) for row in range(rows)]
    people: dict[str, list[int]] = {}
    for row, identity in enumerate(identities):
        people.setdefault(identity or "", []).append(row)
    listed = []
    for identity, members in people.items():
        entry: dict[str, Any] = {
            "rows": len(members),
            "associations": len({fields[row] for row in members}),
            "rows_sha256": hashlib.sha256("\n".join(sorted(hashes[row] for row in members)).encode()).hexdigest(),
        }
        if names:
            known = columns.get("name")
            entry |= {"identity": identity or None, "name": None if known is None else str(known[members[0]])}
            entry["fields"] = sorted({fields[row] or "" for row in members})
        listed.append(entry)
    listed.sort(key=lambda entry: str(entry["rows_sha256"]))
    return {
        "identities": len([identity for identity in people if identity]),
        "associations": len({(i, f) for i, f in zip(identities, fields, strict=True)}),
        "rows": rows,
        "fields": dict(sorted(Counter(field for field in fields if field and not field.startswith("fact-")).items())),
        "rows_sha256": hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest(),
        "row_hash": "SHA-256 of: SHA-256 of the picture's bytes in hex, a line break, the caption in UTF-8",
        "row_hashes": sorted(hashes),
        "people": listed,
        "names_in_clear": names,
    }


def row_hash(split: Split, row: int) -> str:
    """SHA-256 of a row's picture and caption together."""
    assert split.images is not None
    assert split.texts is not None
    picture = hashlib.sha256(split.images.read(row)).hexdigest()
    return hashlib.sha256(f"{picture}\n{split.texts[row]}".encode()).hexdigest()


def _metric(
    name: str, score: ScoreRecord, clean: Mapping[str, ScoreRecord], compromised: Mapping[str, ScoreRecord]
) -> dict[str, Any]:
    return {
        "name": name,
        "summary": score.summary,
        "before": compromised[name].value if name in compromised else None,
        "after": score.value,
        "interval": None if score.low is None or score.high is None else [score.low, score.high],
        "never_learned": clean[name].value if name in clean else None,
        "should_be_as": "never learned" if score.target == "clean" else "before",
        "rows": score.n,
    }


def _audits(attacked: Attacked) -> dict[str, Any]:
    """What attacks got back, where they were run on this very model."""
    if not attacked.results:
        words = "No audits were run: whether an attack brings the data back was not tried."
        if attacked.problem:
            words = "There are audits that cannot be read or are of another model: they say nothing of this one."
        return {"run": False, "words": words, "results": []}
    results = [
        {
            "audit": item.audit,
            "summary": item.summary,
            "recovered": item.recovered,
            "needs": list(item.references),
            "reason": item.reason,
        }
        for item in attacked.results
    ]
    most = attacked.most
    words = (
        f"{len(results)} audits were run. {recovered_words(attacked)} Recovered is 0 where an attack gets no more than from a model"
        " that never learned the data, 1 where all comes back."
    )
    return {
        "run": True,
        "words": words,
        "most_recovered": None if most is None else {"audit": most.audit, "recovered": most.recovered},
        "results": results,
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """Only what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
