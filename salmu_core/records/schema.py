"""What a run was asked to do (`RunSpec`) and what came of it (`RunRecord`): one JSON file per run.

Readers accept every older `schema_version`; `salmu_core.records.store` holds the upgrades.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, field_validator, model_validator

SCHEMA_VERSION = 2

Target = Literal["clean", "compromised"]
#: What a metric looks at; the verdict and the report's sections are built on it, so neither needs to know a metric's name.
#: forgetting: are the requested associations gone; holdout: associations nobody asked to remove;
#: general: ordinary knowledge; retained: ordinary data close to the forgotten identities or to the sensitive domain.
Aspect = Literal["forgetting", "holdout", "general", "retained"]
Status = Literal["ok", "diverged", "failed"]


#: seeded: every draw of the evaluation from a generator of its own, so that equal models get equal numbers; official: the draws
#: and conventions of the benchmark's official evaluator, as far as they are known.
Protocol = Literal["seeded", "official"]
#: How far beyond its bounds a value may be by rounding.
ROUNDING = 1e-6


class _Frozen(BaseModel):
    # A NaN compares with nothing: it would be ranked wherever sorting happens to leave it.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class RunSpec(_Frozen):
    """Everything that decides a run's outcome. Its hash is the run's identity."""

    method: str = Field(description="by name; `none` leaves the model as it is: the reference rows")
    benchmark: str = Field("", description="by name; empty: the standard one that is installed, until the run is resolved")
    method_options: dict[str, Any] = Field(default_factory=dict, description="those that were given; others have defaults")
    benchmark_options: dict[str, Any] = Field(default_factory=dict, description="what tells an instance, e.g. its seed")
    start: Target = Field("compromised", description="the model that the method is given")
    seed: int = Field(0, ge=0, description="seed of everything the method draws")
    budget: float = Field(1.0, gt=0, description="multiple of the benchmark's sample budget")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="autocast; weights stay fp32")
    protocol: Protocol = Field(
        "seeded", description="conventions of the evaluation: salmu's own, or the official evaluator's"
    )

    def identity(self, **versions: str) -> str:
        """A 16-hex-digit hash of the spec (options resolved) and of the versions that the outcome depends on."""
        content = {**self.model_dump(mode="json"), "versions": versions}
        if self.protocol == "seeded":  # as before there was a choice, so that finished runs are found again
            del content["protocol"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class ScoreRecord(_Frozen):
    """One metric's result on one model, with what a reader needs to judge it. Numbers are finite, and the value is within the
    metric's bounds."""

    value: float
    target: Target
    aspect: Aspect
    primary: bool = False
    chance: float = Field(0.0, description="value of a model that knows nothing: scale of the gap for utility metrics")
    bounds: tuple[float, float] = (-1.0, 1.0)
    summary: str = Field("", description="one sentence for a reader")
    weight: float | None = Field(
        None,
        description="1: it counts in the overall score; 0: it is only shown; none: its benchmark names no metrics",
    )
    tolerance: float | None = Field(
        None, description="a general metric's fall beyond which a run is catastrophic; none: 3 % of its level"
    )
    scored: bool = Field(True, description="counts in the overall score; others are shown beside it")
    n: int = Field(0, description="rows behind the value")
    clusters: int = Field(0, description="identities (or other clusters) that the interval resamples")
    low: float | None = Field(None, description="lower end of the 95 % bootstrap interval")
    high: float | None = None
    extras: dict[str, float] = Field(default_factory=dict, description="companions, e.g. R@1 beside MRR")

    @model_validator(mode="after")
    def _within_bounds(self) -> ScoreRecord:
        lowest, highest = self.bounds
        if lowest > highest:
            raise ValueError(f"the bounds {lowest:g} and {highest:g} are the wrong way round")
        for what, number in (("value", self.value), ("low", self.low), ("high", self.high)):
            if number is not None and not lowest - ROUNDING <= number <= highest + ROUNDING:
                raise ValueError(f"the {what} {number:g} is outside the metric's bounds, {lowest:g} to {highest:g}")
        return self


class PublishedResult(_Frozen):
    """Scores of one model that others measured on the same benchmark and published."""

    title: str
    source: str = Field("", description="who measured, and where it stands; gaps are taken within one source")
    note: str = ""
    reference: Target | None = Field(None, description="the source's Clean or Compromised")
    scores: dict[str, ScoreRecord] = Field(default_factory=dict)


class Cost(_Frozen):
    """What the run took. Samples are counted whenever a method is handed a batch, training or not."""

    seconds: dict[str, NonNegativeFloat] = Field(default_factory=dict, description="per stage: load, unlearn, evaluate, ...")
    samples: dict[str, NonNegativeInt] = Field(default_factory=dict, description="per role: forget, retain")
    captions: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="per role: rows whose captions were read on their own, outside of batches"
    )
    encoded: dict[str, NonNegativeInt] = Field(
        default_factory=dict,
        description="image, text: rows that went through an encoder while the method ran, its teachers' as well; of the main process,"
        " since the run was last resumed",
    )
    allowed: dict[str, NonNegativeInt] = Field(default_factory=dict, description="the budget per role")
    steps: NonNegativeInt = 0
    global_batch: NonNegativeInt = 0
    trainable_parameters: NonNegativeInt = 0
    total_parameters: NonNegativeInt = 0
    peak_memory_bytes: NonNegativeInt = 0


class Package(_Frozen):
    """A distribution that took part."""

    name: str
    version: str


class Provenance(_Frozen):
    """Where the numbers come from."""

    packages: dict[str, str] = Field(default_factory=dict, description="salmu, torch, open_clip_torch, ... -> version")
    method_package: Package | None = None
    benchmark_package: Package | None = None
    benchmark_version: str = ""
    benchmark_identity: dict[str, Any] = Field(
        default_factory=dict, description="what tells the instance from others; empty where its options do (before 0.2)"
    )
    metric_packages: dict[str, Package] = Field(default_factory=dict)
    metric_options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    device: str = ""
    processes: int = 1
    git_commit: str | None = None
    data_fingerprint: str = ""
    start_fingerprint: dict[str, str] = Field(default_factory=dict, description="per tower, before the method")
    model_fingerprint: dict[str, str] = Field(default_factory=dict, description="per tower, after the method")
    command: str | None = Field(None, description="the command that remakes this run")
    execution: dict[str, Any] = Field(
        default_factory=dict,
        description="how it was carried out: settings that change nothing but rounding, time and memory",
    )


class RunRecord(_Frozen):
    """The one file a run leaves for others to read."""

    schema_version: int = Field(SCHEMA_VERSION, description="of the file; older ones are read")
    id: str = Field(description="a hash of the spec and of the versions that its outcome depends on")
    kind: Literal["run", "reference", "evaluation"] = Field(
        "run", description="of a method, of Clean or Compromised as they are, or of a model from elsewhere"
    )
    status: Status = Field(description="how it ended")
    spec: RunSpec = Field(description="what was asked for")
    options: dict[str, Any] = Field(default_factory=dict, description="method options with defaults filled in")
    family: str = Field("", description="of the method")
    summary: str = Field("", description="the method in a sentence")
    paper: str | None = Field(None, description="address of the method's paper")
    oracle: bool = Field(False, description="the method sees the Clean model: ranked apart")
    sees: tuple[str, ...] = Field((), description="roles of the splits that the method read")
    columns: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="per role: metadata columns that the method read, directly or as codes of a batch"
    )
    undeclared: tuple[str, ...] = Field((), description="of those, what the method does not declare")
    scores: dict[str, ScoreRecord] = Field(default_factory=dict, description="by metric")
    skipped: dict[str, str] = Field(default_factory=dict, description="metric -> why it was not measured")
    broken: dict[str, str] = Field(default_factory=dict, description="metric -> what went wrong in it")
    warnings: tuple[str, ...] = Field(
        (), description="what plugins did that they should not have: changed in the process, left on the model, opened, ..."
    )
    weight_change: float | None = Field(None, ge=0, description="L2 norm of the change / L2 norm of the start weights")
    cost: Cost = Field(default_factory=Cost, description="seconds, samples, steps, memory")
    provenance: Provenance = Field(
        default_factory=Provenance, description="packages, versions, device, fingerprints, command"
    )
    error: str | None = Field(None, description="what went wrong, where it did not end well")
    rows_file: str | None = Field(None, description="sidecar with per-row values, beside the record")
    model_file: str | None = Field(None, description="weights beside the record; none where no model was made")
    files: tuple[str, ...] = Field((), description="the evaluation in other formats, beside the record")
    published: tuple[PublishedResult, ...] = Field(
        (), description="on reference rows: what others published on the benchmark"
    )
    created_at: datetime = Field(description="when the record was written")

    @field_validator("rows_file", "model_file")
    @classmethod
    def _beside(cls, name: str | None) -> str | None:
        """A file beside the record: a path would lead a reader, or an upload, somewhere else."""
        if name is not None and (Path(name).name != name or "\\" in name or "\0" in name):
            raise ValueError(f"'{name}' is not a plain file name")
        return name

    @field_validator("files")
    @classmethod
    def _all_beside(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            cls._beside(name)
        return names
