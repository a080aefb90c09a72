"""The command that remakes a run, or a row of the leaderboard."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from salmu_core.records.schema import RunRecord, RunSpec


def run_command(spec: RunSpec) -> str:
    """The `salmu run` command of a spec."""
    words = ["salmu", "run", spec.method, "--benchmark", spec.benchmark, "--seed", str(spec.seed)]
    if spec.budget != 1:
        words += ["--budget", f"{spec.budget:g}"]
    if spec.precision != "no":
        words += ["--precision", spec.precision]
    if spec.protocol != "seeded":
        words += ["--protocol", spec.protocol]
    if spec.start != "compromised":
        words += ["--start", spec.start]
    words += _settings("--bench-set", spec.benchmark_options)
    words += _settings("--set", spec.method_options)
    # A spec holds what a preset chose; what it leaves out are the method's defaults, and stays that.
    return shlex.join([*words, *([] if spec.method == "none" else ["--preset", "none"])])


def row_command(records: Sequence[RunRecord]) -> str:
    """The command that makes all runs of a row: of one method with its options, over seeds and instances.

    Args:
        records: of one row, at least one.
    """
    first = records[0]
    if first.kind != "run" or len(records) == 1:
        return first.provenance.command or ""
    spec = first.spec
    instances = list(dict.fromkeys(record.spec.benchmark_options.get("seed") for record in records))
    words = ["salmu", "compare", spec.method, "--benchmark", spec.benchmark]
    words += ["--seeds", ",".join(str(seed) for seed in sorted({record.spec.seed for record in records}))]
    if spec.budget != 1:
        words += ["--budget", f"{spec.budget:g}"]
    if spec.precision != "no":
        words += ["--precision", spec.precision]
    if spec.protocol != "seeded":
        words += ["--protocol", spec.protocol]
    options = dict(spec.benchmark_options)
    if len(instances) > 1:
        words += ["--bench-seeds", ",".join(map(str, instances))]
        options.pop("seed", None)
    words += _settings("--bench-set", options)
    words += _settings("--set", {f"{spec.method}.{name}": value for name, value in spec.method_options.items()})
    return shlex.join([*words, "--preset", "none"])


def _settings(flag: str, options: Mapping[str, Any]) -> list[str]:
    return [word for name, value in options.items() for word in (flag, f"{name}={_text(value)}")]


def _text(value: Any) -> str:
    """As `--set` reads it: lists and tables as JSON."""
    return json.dumps(value) if isinstance(value, list | tuple | dict | bool) or value is None else str(value)
