"""The official evaluator's result file, from a record and its per-row values.

Rules where a run has not everything:

- GenKnow that was not measured is -1.0, as the official evaluator writes it.
- Any other metric that was not measured, or not by the official evaluator's conventions, is left out, so that whoever reads it finds
  a missing key and no wrong number: ACS needs `--protocol official`, RetFail its usual seed and number of distractors.
- `2.1_GenKnow` holds the benchmark's own GenKnow: top-1 on ImageNet-1k where that is given, on mini its small set of classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from salmu_core.records.schema import RunRecord

GENKNOW_SKIPPED = -1.0
#: Metric -> option -> (what the official evaluator does, what a record that does not say it was made with).
_CONVENTIONS: Mapping[str, Mapping[str, tuple[Any, Any]]] = {
    "RetFail": {"seed": (42, 42), "distractors": (1000, 1000)},
    "ACS": {"seed": (42, 42), "shuffle": ("official", "derangement"), "parting": ("pairs", "rows"), "holdout": (0.5, 0.3)},
}


def result_name(record: RunRecord) -> str:
    """`evaluation_<slug>.json`. The slug says what was scored, e.g. `gradient-ascent-b1-s0`, and has only characters that
    every file system takes. Options that differ do not show in it; a run directory holds one run."""
    spec = record.spec
    if record.kind == "run":
        slug = f"{spec.method}-b{spec.budget:g}-s{spec.seed}"
    elif record.kind == "reference":
        slug = spec.start
    else:  # "The model PATH": two files of one name are told apart by the record's id
        slug = f"{record.summary.removeprefix('The model ').rstrip('/').rpartition('/')[2]}-{record.id[:8]}"
    return f"evaluation_{re.sub(r'[^A-Za-z0-9._-]+', '-', slug).strip('-.') or 'model'}.json"


def official_result(record: RunRecord, rows: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The content of the official result file.

    Args:
        rows: per-row values by "metric/what", in the row order of each metric's split.

    Returns:
        The sections `efficacy` and `utility`; floats in full precision, ranks as whole numbers from 1.
    """
    asked = record.provenance.metric_options
    unlike = {
        metric
        for metric, options in _CONVENTIONS.items()
        if any(asked.get(metric, {}).get(name, default) != value for name, (value, default) in options.items())
    }
    scores = {name: score for name, score in record.scores.items() if name not in unlike}

    def similarity(name: str) -> dict[str, Any] | None:
        if name not in scores:
            return None
        return {"mean": scores[name].value, "scores": rows[f"{name}/rows"].tolist()}

    def one(key: str, name: str) -> dict[str, Any] | None:
        return {key: scores[name].value} if name in scores else None

    retrieval = None
    if "RetFail" in scores:
        score = scores["RetFail"]
        retrieval = {"R@1": score.extras["R@1"], "MRR": score.value, "outcomes": rows["RetFail/rank"].tolist()}
    efficacy = {
        "1.1_RetFail": retrieval,
        "1.2_AssocStr": similarity("AssocStr"),
        "1.3_ACS": one("acs_accuracy", "ACS"),
        "1.4_IdZSC": one("identity_classification_accuracy", "IdZSC"),
        "1.5_CoreAssoc": similarity("CoreAssoc"),
    }
    utility = {
        "2.1_GenKnow": one("ImageNet1k_Accuracy", "GenKnow") or {"ImageNet1k_Accuracy": GENKNOW_SKIPPED},
        "2.2_InterIdSim": similarity("InterIdSim"),
        "2.3_IntraIdSim": similarity("IntraIdSim"),
        "2.4_VisIdInt": similarity("VisIdInt"),
        "2.5_FragSim": similarity("FragSim"),
    }
    return {
        section: {key: value for key, value in found.items() if value is not None}
        for section, found in (("efficacy", efficacy), ("utility", utility))
    }
