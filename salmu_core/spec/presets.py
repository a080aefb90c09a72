"""Options that suit a benchmark: shipped with it, or found by `salmu tune`."""

from __future__ import annotations

import json
import math
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
        BadOptions: it cannot be read, or is not a preset.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOptions(f"The preset '{path}' cannot be read: {error}.") from None
    if not isinstance(content, dict) or not isinstance(content.get("options"), dict) or "method" not in content:
        raise BadOptions(f"'{path}' is not a preset: it has no method and options.", "salmu tune writes presets.")
    return content


def read_presets(folder: Path, budget: float = 1.0) -> dict[str, dict[str, Any]]:
    """Method name -> options, of every preset in a folder.

    Args:
        budget: of the run. Where a method has several files, the one that was tuned for this budget counts, else the nearest one on a
            logarithmic scale (of two as near, the smaller). A file that names no budget was tuned for 1x.
    """
    nearest: dict[str, tuple[tuple[float, float], dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        preset = read_preset(path)
        own = _budget_of(preset, path)
        distance = (round(abs(math.log(own / budget)), 9), own)
        known = nearest.get(preset["method"])
        if known is None or distance < known[0]:
            nearest[preset["method"]] = distance, dict(preset["options"])
    return {method: options for method, (_, options) in nearest.items()}


def _budget_of(preset: Mapping[str, Any], path: Path) -> float:
    budget = preset.get("budget", 1.0)
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < math.inf:
        raise BadOptions(f"'{path}' names the budget {budget!r}.", "It is a number above 0, as after --budget.")
    return float(budget)


def preset_file(method: str, budget: float) -> str:
    """Name of the file that keeps a method's preset for a budget, e.g. delete-5x.json."""
    return f"{method}-{budget:g}x.json"


def with_preset(
    method: str, given: Mapping[str, Any], benchmark: Benchmark, preset: str | Path, budget: float = 1.0
) -> dict[str, Any]:
    """The options that a run is given: those asked for, then those of a preset; all others keep their defaults.

    Args:
        preset: "benchmark" for what the benchmark ships, "none", a folder of presets, or one preset file.
        budget: of the run; see `read_presets`. One preset file is used at any budget.

    Raises:
        BadOptions: a preset that cannot be read, or one file that is another method's.
    """
    if str(preset) == NONE:
        return dict(given)
    if str(preset) == FROM_BENCHMARK:
        return {**benchmark.presets_for(budget).get(method, {}), **given}
    path = Path(preset)
    if path.is_dir():
        return {**read_presets(path, budget).get(method, {}), **given}
    content = read_preset(path)
    if content["method"] != method:
        raise BadOptions(f"The preset '{path}' is for {content['method']}, not for {method}.", "Give a folder of presets.")
    return {**content["options"], **given}


__all__ = ["FROM_BENCHMARK", "NONE", "preset_file", "read_preset", "read_presets", "with_preset"]
