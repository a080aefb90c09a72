"""Synthetic records for tests of comparisons and reports."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from salmu_core.files.seals import BLANK, SEAL, seal_tensors
from salmu_core.records.schema import Cost, Package, Provenance, PublishedResult, RunRecord, RunSpec, ScoreRecord

#: metric -> target, aspect, primary, chance: the ten of SALMUBench in short.
KINDS: dict[str, tuple[Any, Any, bool, float]] = {
    "RetFail": ("clean", "forgetting", True, 0.0),
    "AssocStr": ("clean", "forgetting", False, 0.0),
    "GenKnow": ("compromised", "general", True, 0.001),
    "InterIdSim": ("compromised", "holdout", True, 0.0),
    "IntraIdSim": ("compromised", "holdout", False, 0.0),
    "VisIdInt": ("compromised", "retained", True, 0.0),
}
#: The reference values of SALMUBench's paper (5x table) and of the official evaluator.
CLEAN = {
    "RetFail": 0.001,
    "AssocStr": 0.1417,
    "GenKnow": 0.633,
    "InterIdSim": 0.143,
    "IntraIdSim": 0.143,
    "VisIdInt": 0.3308,
}
COMPROMISED = {
    "RetFail": 0.236, "AssocStr": 0.3215, "GenKnow": 0.638, "InterIdSim": 0.321, "IntraIdSim": 0.321, "VisIdInt": 0.3052
}  # fmt: skip


def scores(values: dict[str, float]) -> dict[str, ScoreRecord]:
    """Score records of the given values."""
    result = {}
    for name, value in values.items():
        target, aspect, primary, chance = KINDS[name]
        result[name] = ScoreRecord(
            value=value, target=target, aspect=aspect, primary=primary, chance=chance, n=100, clusters=10,
            low=value - 0.01, high=value + 0.01, summary=f"What {name} says.",
        )  # fmt: skip
    return result


def record(method: str, values: dict[str, float], **more: Any) -> RunRecord:
    """A record with sensible defaults; `more` overrides fields of the record, `seed`, `options`, `budget` those of the spec."""
    seed, options, budget = more.pop("seed", 0), more.pop("options", {"lr": 1e-4}), more.pop("budget", 1.0)
    start, version = more.pop("start", "compromised"), more.pop("benchmark_version", "1")
    spec = RunSpec(method=method, benchmark="mini", seed=seed, method_options=options, budget=budget, start=start)
    content: dict[str, Any] = {
        "id": f"{method}-{seed}-{budget}" + ("-clean" if start == "clean" else ""), "kind": "run", "status": "ok", "spec": spec, "options": options, "family": "baseline",
        "scores": scores(values), "weight_change": 0.1, "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        "cost": Cost(seconds={"unlearn": 3.0}, samples={"forget": 10}, trainable_parameters=5),
        "provenance": Provenance(
            benchmark_version=version, data_fingerprint="d", method_package=Package(name="p", version="1"), command=f"salmu run {method}"
        ),
    }  # fmt: skip
    return RunRecord(**{**content, **more})


def published(title: str, values: dict[str, float], source: str = "A report", **more: Any) -> PublishedResult:
    """A row that somebody else measured."""
    return PublishedResult(title=title, source=source, scores=scores(values), **more)


def with_published(*results: PublishedResult) -> list[RunRecord]:
    """The Clean and Compromised rows, as records of a benchmark on which others published."""
    return [item.model_copy(update={"published": results}) for item in references()]


def references() -> list[RunRecord]:
    """The Clean and Compromised rows."""
    return [
        record("none", CLEAN, kind="reference", start="clean", options={}, weight_change=0.0),
        record("none", COMPROMISED, kind="reference", options={}, weight_change=0.0),
    ]


def write_rows(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """`rows.safetensors`, as a run leaves it."""
    save_file(arrays, path := folder / "rows.safetensors", metadata={SEAL: BLANK})
    seal_tensors(path)
