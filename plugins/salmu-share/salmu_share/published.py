"""What pushing and submitting share: a run's weights, checked, and its attacks as others may read them."""

from __future__ import annotations

import json
from pathlib import Path

from salmu_core.errors import BadCheckpoint, BadRecord
from salmu_core.models.loading import load_model
from salmu_core.records.attacks import Attacked
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE
from salmu_hub.fetching import OPEN_CLIP_CONFIG


def weights_of(record: RunRecord, folder: Path, *, force: bool = False) -> Path:
    """A run's file of weights, which are those that its scores belong to.

    Args:
        force: take a run that diverged.

    Raises:
        BadRecord: not a run, one that did not end well, or one without a model.
        BadCheckpoint: the weights are not those that the record's scores were measured on.
    """
    if record.kind != "run":
        raise BadRecord(
            f"'{folder}' holds {'a reference row' if record.kind == 'reference' else 'an evaluation'}, which made no model.",
            "Give the directory of a run of a method.",
        )
    if record.status != "ok" and not force:
        why = f": {record.error.splitlines()[0]}" if record.error else ""
        raise BadRecord(
            f"The run in '{folder}' {record.status}{why}.",
            "Such a model is not a result to share. `salmu push --force` publishes it with a warning on its card."
            if record.model_file
            else "It made no model. Run it again.",
        )
    weights = folder / (record.model_file or "")
    if record.model_file is None or not weights.is_file() or not (folder / OPEN_CLIP_CONFIG).is_file():
        raise BadRecord(f"'{folder}' holds no model.", "Run it again: --overwrite.")
    measured = record.provenance.model_fingerprint
    if measured and load_model(folder).fingerprint() != measured:
        raise BadCheckpoint(
            f"'{weights}' is not the model that the scores in '{folder / RECORD_FILE}' were measured on.",
            "The file was changed after the run. Run it again: --overwrite.",
        )
    return weights


def attacks_json(record: RunRecord, attacked: Attacked) -> bytes:
    """The attacks on a run, without the data's place on this machine."""
    kept = {
        "model_fingerprint": record.provenance.model_fingerprint,
        "audits": [item.as_json() for item in attacked.results],
    }
    return (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()
