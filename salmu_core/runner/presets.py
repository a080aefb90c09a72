"""Options that suit a benchmark: shipped with it, or found by `salmu tune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salmu_core.benchmark import Benchmark
from salmu_core.errors import BadOptions

FROM_BENCHMARK = "benchmark"
NONE = "none"


def read_preset(path: Path) -> dict[str, Any]:
    """The content of a preset file.

    Raises:
        BadOptions: it cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOptions(f"The preset '{path}' cannot be read: {error}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("options"), dict) or "method" not in content:
        raise BadOptions(f"'{path}' is no preset: it has no method and options.", "salmu tune writes presets.")
    return content


def read_presets(folder: Path) -> dict[str, dict[str, Any]]:
    """Method name -> options, of every preset in a folder."""
    found = [read_preset(path) for path in sorted(folder.glob("*.json"))]
    return {preset["method"]: dict(preset["options"]) for preset in found}


def with_preset(method: str, given: Mapping[str, Any], benchmark: Benchmark, preset: str | Path) -> dict[str, Any]:
    """The options that a run is given: those asked for, then those of a preset; all others keep their defaults.

    Args:
        preset: "benchmark" for what the benchmark ships, "none", a folder of presets, or one preset file.

    Raises:
        BadOptions: a preset that cannot be read, or one file that is another method's.
    """
    if str(preset) == NONE:
        return dict(given)
    if str(preset) == FROM_BENCHMARK:
        return {**benchmark.presets().get(method, {}), **given}
    path = Path(preset)
    if path.is_dir():
        return {**read_presets(path).get(method, {}), **given}
    content = read_preset(path)
    if content["method"] != method:
        raise BadOptions(f"The preset '{path}' is for {content['method']}, not for {method}.", "Give a folder of presets.")
    return {**content["options"], **given}


__all__ = ["FROM_BENCHMARK", "NONE", "read_preset", "read_presets", "with_preset"]
