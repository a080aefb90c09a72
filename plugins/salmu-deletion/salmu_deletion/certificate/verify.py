"""Is a certificate what was sealed, by whom, and are the weights still those it speaks of? Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from salmu_core.errors import BadRecord
from salmu_deletion.certificate.sealed import CERTIFICATE_FILE, hash_problem, key_name, read_sealed, signature_problem

WEIGHTS_FILE = "model.safetensors"  # as in run directories; the module of models would import torch

Outcome = Literal["good", "bad", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    outcome: Outcome
    words: str


def verify(
    path: Path, model: Path | None = None, public_key: Path | None = None, earlier: Sequence[Path] = ()
) -> list[Check]:
    """Check hash, signature, weights, and the certificates of the requests before, back to the first.

    Args:
        earlier: certificates of earlier requests, or folders that hold them; besides those, the folders beside the certificate's own
            are looked through.
        model: the file of weights or its folder; None: beside the certificate, or in the folder above.
        public_key: the key that must have signed.

    Raises:
        BadRecord: the file is no certificate.
        SalmuError: a key that cannot be read; a signature to be checked without cryptography.
    """
    sealed = read_sealed(path)
    problem = hash_problem(sealed)
    checks = [Check("content", "bad" if problem else "good", problem or f"as it was sealed: SHA-256 {sealed['sha256']}")]
    if "signature" in sealed or public_key is not None:
        problem = signature_problem(sealed, public_key)
        whose = f"key {key_name(sealed)}" + ("" if public_key else "; whose key that is, --public-key tells")
        checks.append(Check("signature", "bad" if problem else "good", problem or f"holds, {whose}"))
    else:
        checks.append(Check("signature", "not checked", "it is not signed"))
    checks.append(_weights(sealed["content"].get("model", {}), path, model))
    return [*checks, *_chain(sealed, path, public_key, earlier)]


def _chain(sealed: Mapping[str, Any], path: Path, public_key: Path | None, given: Sequence[Path]) -> list[Check]:
    """One check for each request before this one, newest first, as far as the links lead."""
    checks: list[Check] = []
    known = _certificates(path, given)
    seen = {sealed.get("sha256")}
    while (link := sealed["content"].get("predecessor")) is not None:
        what = f"request {len(checks) + 1} before"
        stated = link.get("certificate_sha256")
        if stated is None:
            words = "it had no certificate when this one was made, so the chain ends here; certify requests in their order"
            return [*checks, Check(what, "not checked", words)]
        if stated in seen:
            return [*checks, Check(what, "bad", "the chain leads back to itself")]
        seen.add(stated)
        if stated not in known:
            words = f"its certificate (SHA-256 {stated}) is not here; say where with --earlier"
            return [*checks, Check(what, "bad" if given else "not checked", words)]
        place, found = known[stated]
        problem = _link_problem(sealed, link, found, public_key)
        checks.append(
            Check(what, "bad" if problem else "good", f"'{place}' {problem or 'is the certificate that is named'}")
        )
        if problem:
            return checks
        sealed = found
    return checks


def _link_problem(
    sealed: Mapping[str, Any], link: Mapping[str, Any], found: Mapping[str, Any], public_key: Path | None
) -> str | None:
    """Why a certificate is not that of the request before; None where it is."""
    if (problem := hash_problem(found)) is not None:
        return f"was changed: {problem}"
    if ("signature" in found or public_key is not None) and (problem := signature_problem(found, public_key)) is not None:
        return f"is not as it was signed: {problem}"
    content, model = found["content"], found["content"].get("model", {})
    if content.get("run", {}).get("record_sha256") != link.get("record_sha256"):
        return "is about another run than the one that is named"
    if model.get("after") != sealed["content"].get("model", {}).get("before"):
        return "ends with another model than the next request begins with"
    if model.get("after_file_sha256") != link.get("model_file_sha256"):
        return "names another file of weights"
    return None


def _certificates(path: Path, given: Sequence[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Certificates at hand by the hash that they state."""
    folders = [path.absolute().parent.parent, *(place for place in given if place.is_dir())]
    files = [place for place in given if place.is_file()]
    for folder in folders:
        files += [*sorted(folder.glob(CERTIFICATE_FILE)), *sorted(folder.glob(f"*/{CERTIFICATE_FILE}"))]
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in files:
        try:
            sealed = read_sealed(file)
        except BadRecord:
            continue  # something else of that name
        if isinstance(sealed.get("sha256"), str):
            found.setdefault(sealed["sha256"], (file, sealed))
    return found


def _weights(stated: dict[str, object], path: Path, model: Path | None) -> Check:
    places = [model] if model is not None else [path.parent, path.parent.parent]
    files = [place / WEIGHTS_FILE if place.is_dir() else place for place in places]
    weights = next((file for file in files if file.is_file()), None)
    if weights is None:
        return Check(
            "weights", "bad", f"there is no {WEIGHTS_FILE} at {' or '.join(map(str, places))}; say where with --model"
        )
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != stated.get("after_file_sha256"):
        return Check("weights", "bad", f"'{weights}' is another file than the one that was measured")
    return Check("weights", "good", f"'{weights}' is the file that was measured")
