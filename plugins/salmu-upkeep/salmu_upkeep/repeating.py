"""Run a record again and say whether it comes out the same."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salmu_core.errors import BadRecord
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import read_record
from salmu_core.runner.run import Settings, run

Outcome = Literal["bit for bit", "within tolerance", "not reproduced"]


@dataclass(frozen=True)
class Replay:
    """A record beside its repetition.

    Attributes:
        outcome: "bit for bit" when the weights are equal, "within tolerance" when no score differs by more.
        differences: metric -> (recorded, replayed); a metric that only one of both has is None on the other side.
        versions: package -> (recorded, now), where they differ.
    """

    recorded: RunRecord
    replayed: RunRecord
    outcome: Outcome
    differences: Mapping[str, tuple[float | None, float | None]]
    versions: Mapping[str, tuple[str, str]]
    tolerance: float


def replay(
    source: str | Path,
    *,
    tolerance: float = 1e-3,
    out: str | Path | None = None,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
) -> Replay:
    """Repeat the run of a record: same method, options, seed, budget, benchmark and precision.

    Args:
        source: a run directory or its `record.json`.
        tolerance: largest difference of a score that still counts as reproduced.
        out: where the repetition is kept; default: a temporary folder.

    Raises:
        BadRecord: there is no record, or it is an evaluation of a model from elsewhere, which no run makes again.
        SalmuError: see `run`.
    """
    path = Path(source)
    recorded = read_record(path.parent if path.is_file() else path)
    if recorded.kind == "evaluation":
        raise BadRecord(
            f"The record of {recorded.summary or source} is an evaluation of a given model, not a run.",
            "Score the model again with `salmu evaluate`.",
        )
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(out) if out is not None else Path(scratch) / "replay"
        replayed = run(recorded.spec, out=target, settings=settings or Settings(), plugins=plugins or load_plugins())
    names = list(dict.fromkeys([*recorded.scores, *replayed.scores]))
    values = {
        name: tuple(r.scores[name].value if name in r.scores else None for r in (recorded, replayed)) for name in names
    }
    before, now = recorded.provenance, replayed.provenance
    known = {
        **before.packages,
        **({} if before.method_package is None else {before.method_package.name: before.method_package.version}),
    }
    current = {
        **now.packages,
        **({} if now.method_package is None else {now.method_package.name: now.method_package.version}),
    }
    versions = {
        name: (known.get(name, "none"), current.get(name, "none"))
        for name in sorted({*known, *current})
        if known.get(name) != current.get(name)
    }
    near = all(a is not None and b is not None and abs(a - b) <= tolerance for a, b in values.values())
    outcome: Outcome = "not reproduced"
    if recorded.status == replayed.status and near:
        equal = bool(before.model_fingerprint) and before.model_fingerprint == now.model_fingerprint
        outcome = "bit for bit" if equal else "within tolerance"
    return Replay(recorded, replayed, outcome, values, versions, tolerance)  # type: ignore[arg-type]
