"""A whole comparison as a file: what is run, how, and where results go. `salmu compare` writes one, `salmu study` carries one out."""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from salmu_core.errors import BadOptions
from salmu_core.files.writing import write_text
from salmu_core.spec.execution import Execution, Isolation

STUDY_FILE = "study.toml"

#: Which audits attack the finished runs: those that are cheap, all that are installed, or none.
AuditChoice = Literal["fast", "all", "none"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, *values: Any, **named: Any) -> None:
        """Fields by name, or by place in the order of the class."""
        super().__init__(**dict(zip(type(self).model_fields, values, strict=False)), **named)


class StudyMethod(_Part):
    """A method and the options it is given; the same method may stand in a study several times with other options.

    Args:
        name: of the method.
        options: those that differ from its defaults.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    budgets: tuple[float, ...] = Field((), description="those it is run at; left out: all of the study")


class StudyExecution(_Part):
    """How runs are carried out. Only `precision` and `protocol` change what they are; the rest changes time and memory."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    protocol: Literal["seeded", "official"] = Field("seeded", description="conventions of the evaluation")
    cpu: bool = False
    workers: int | None = Field(None, ge=1, description="runs at a time; left out: what suits the machine")
    checkpoint_seconds: float = Field(30.0, ge=0)
    micro_batch: int | None = Field(None, ge=1)
    checkpoint_activations: bool = False
    compile: bool = False
    keep_pixels: bool = True
    log_with: str | None = None
    isolate: Isolation = Field("third-party", description="runs with a process of their own")
    time_limit: float | None = Field(None, gt=0, description="seconds that a run may take")

    @property
    def execution(self) -> Execution:
        """What the training loop is told."""
        return Execution(**{item.name: getattr(self, item.name) for item in fields(Execution)})


class StudyLauncher(_Part):
    """Runs as jobs: of a Slurm cluster, or processes of this machine.

    `options` are submitit's names, e.g. timeout_min, gpus_per_node, tasks_per_node, nodes, cpus_per_task, mem_gb, slurm_partition,
    slurm_account, slurm_array_parallelism; on this machine also `parallel`, jobs at a time.
    """

    kind: Literal["slurm", "local"]
    options: dict[str, Any] = Field(default_factory=dict, description="by submitit's names: timeout_min, gpus_per_node, ...")


class Study(_Part):
    """Everything that decides a comparison. Relative paths are taken from where the command is called.

    Args:
        description: words for whoever reads the file.
        benchmark_options: as after --bench-set.
        execution: how runs are carried out.
        launcher: makes every run a job of its own; left out: runs are carried out here.
    """

    description: str = ""
    benchmark: str | None = Field(None, description="left out: the one that an installed package declares as standard")
    benchmark_options: dict[str, Any] = Field(default_factory=dict)
    bench_seeds: tuple[int, ...] = Field(
        (), description="instances of the benchmark; left out: the one of benchmark_options"
    )
    methods: tuple[StudyMethod, ...] = Field((), description="names, or tables of name and options; left out: all installed")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="training seeds")
    budgets: tuple[float, ...] = Field((1.0,), min_length=1, description="multiples of the benchmark's budget")
    preset: str = Field("benchmark", description="benchmark, none, or a path of what `salmu tune` wrote")
    audits: AuditChoice = Field("fast", description="what every finished run is attacked with")
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict, description="options of metrics")
    out: str | None = Field(None, description="results folder; left out: below results/")
    execution: StudyExecution = Field(default_factory=StudyExecution)
    launcher: StudyLauncher | None = None

    @field_validator("methods", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """A bare name is a method without options."""
        return (
            [{"name": item} if isinstance(item, str) else item for item in value]
            if isinstance(value, list | tuple)
            else value
        )

    @field_validator("seeds", "bench_seeds", "budgets")
    @classmethod
    def _usable(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a number is given twice")
        if any(number < 0 for number in value):
            raise ValueError("numbers must not be negative")
        return value

    @model_validator(mode="after")
    def _budgets_of_methods(self) -> Study:
        for method in self.methods:
            if other := [budget for budget in method.budgets if budget not in self.budgets]:
                raise ValueError(f"{method.name} is to run at {other[0]:g}x, which is not among the budgets of the study")
        return self

    @property
    def folder(self) -> Path:
        """Where results go: `out`, or a folder below results/ for these instances."""
        seeds = {"seeds": "-".join(map(str, self.bench_seeds))} if self.bench_seeds else {}
        return (
            Path(self.out)
            if self.out is not None
            else results_folder(self.benchmark or "", {**self.benchmark_options, **seeds})
        )

    def as_toml(self) -> str:
        """The file's text: what decides results, and of the rest only what is not the default."""
        content = {
            **({} if self.benchmark is None else {"benchmark": self.benchmark}),
            "seeds": list(self.seeds),
            "budgets": list(self.budgets),
            **self.model_dump(mode="json", exclude_defaults=True, exclude_none=True),
        }
        if self.methods:
            content["methods"] = [
                _as_table(method) if method.options or method.budgets else method.name for method in self.methods
            ]
        return tomli_w.dumps(_without_none(content))


def results_folder(benchmark: str, options: Mapping[str, Any]) -> Path:
    """Where results go by default: a folder for each instance of a benchmark, since instances share no table."""
    return Path("results") / "-".join([benchmark, *(f"{name}-{_short(value)}" for name, value in sorted(options.items()))])


def _short(value: Any) -> str:
    """An option's value as part of a folder's name. A path gives its last part and a few digits that tell it from others."""
    text = str(value)
    if not {"/", "\\"} & set(text):
        return text
    digest = hashlib.sha256(str(Path(os.path.expanduser(text)).absolute()).encode()).hexdigest()[:6]
    return f"{Path(text).name or 'root'}-{digest}"


def _as_table(method: StudyMethod) -> dict[str, Any]:
    found: dict[str, Any] = {"name": method.name}
    if method.options:
        found["options"] = _without_none(method.options, "none")
    if method.budgets:
        found["budgets"] = list(method.budgets)
    return found


def _without_none(content: Any, none: str | None = None) -> Any:
    """TOML has no null: what is None is left out, or becomes a word that options read as None."""
    if isinstance(content, Mapping):
        kept = {name: none if value is None else value for name, value in content.items()}
        return {name: _without_none(value, none) for name, value in kept.items() if value is not None}
    if isinstance(content, list | tuple):
        return [_without_none(value, none) for value in content]
    return content


def read_study(path: Path) -> Study:
    """A study file.

    Raises:
        BadOptions: no such file, no TOML, an unknown key (near ones are named), or a value of the wrong kind.
    """
    try:
        return parse_study(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise BadOptions(
            f"There is no study at '{path}'.", "`salmu compare` writes a study.toml into its results folder."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadOptions(f"The study '{path}' cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise BadOptions(f"The study '{path}' is no TOML: {error}.") from None


def parse_study(content: Mapping[str, Any], source: str) -> Study:
    """A study from what stands in a file.

    Raises:
        BadOptions: an unknown key (near ones are named), or a value of the wrong kind. All problems are listed.
    """
    try:
        return Study(**content)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise BadOptions(f"The study '{source}': {'; '.join(problems)}.", "docs/compare.md lists the keys.") from None


_PARTS: dict[str, type[BaseModel]] = {"methods": StudyMethod, "execution": StudyExecution, "launcher": StudyLauncher}


def _problem(item: Any) -> str:
    where = item["loc"]
    name = ".".join(str(part) for part in where) or "methods"
    if item["type"] != "extra_forbidden":
        return f"{name}: {item['msg'].removeprefix('Value error, ')}, got {item['input']!r}"
    known = (_PARTS.get(str(where[0]), Study) if len(where) > 1 else Study).model_fields
    near = difflib.get_close_matches(str(where[-1]), known, n=2, cutoff=0.5)
    words = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"there is no key '{name}', {words}"


def write_study(folder: Path, study: Study, text: str | None = None) -> Path:
    """Leave a study beside its results, atomically.

    Args:
        text: the file as written by hand, comments included; None: made from the study.
    """
    path = folder / STUDY_FILE
    head = "# Made by `salmu compare`; `salmu study` with this file repeats it.\n"
    write_text(path, head + study.as_toml() if text is None else text)
    return path
