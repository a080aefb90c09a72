"""Is a certificate what was sealed, by whom, and are the weights still those it speaks of? Needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salmu_core.certificate.sealed import hash_problem, key_name, read_sealed, signature_problem

WEIGHTS_FILE = "model.safetensors"  # as in run directories; the module of models would import torch

Outcome = Literal["good", "bad", "not checked"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    outcome: Outcome
    words: str


def verify(path: Path, model: Path | None = None, public_key: Path | None = None) -> list[Check]:
    """Check hash, signature and weights.

    Args:
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
    return checks


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
