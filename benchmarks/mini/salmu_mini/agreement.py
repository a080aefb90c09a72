"""Does an instance that was made again agree with the one that comes with the package? Its data and what both pairs score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from salmu_core.benchmark import Agreement, BuildStep, Report
from salmu_core.data.splits import Split
from salmu_mini.requirements import MODELS, measure
from salmu_mini.shipped import contents
from salmubench import Snapshot

if TYPE_CHECKING:
    from salmu_mini.benchmark import Mini

#: How far scores may be apart where weights differ in rounding. On one kind of processor with the same libraries they do not differ at
#: all. On another machine 2,400 steps were repeated once: CoreAssoc of Clean, which few people decide, moved by .044, nothing else by
#: more than .02. RetFail's is a guess.
TOLERANCES = {"RetFail": 0.05, "CoreAssoc": 0.05}
TOLERANCE = 0.02


def compare_instances(given: Mini, made: Mini, tell: Report) -> list[Agreement]:
    """Data, weights and scores of two instances.

    Args:
        given: what comes with the package.
        made: what was made again.
    """
    found = [*compare_data(given.folder, made.folder)]
    fingerprints = {which: [_short(one, which) for one in (given, made)] for which in MODELS}
    found += [
        Agreement(f"weights of {which}", first, second, agrees=True, allowed="other rounding: scores decide")
        for which, (first, second) in fingerprints.items()
    ]
    if all(first == second for first, second in fingerprints.values()) and all(one.agrees for one in found):
        return [*found, Agreement("scores", "those of these weights", "those of the same weights", agrees=True)]
    tell(BuildStep("measure both pairs", 0, 2))
    scores = [measure(given).values]
    tell(BuildStep("measure both pairs", 1, 2))
    scores.append(measure(made).values)
    tell(BuildStep("measure both pairs", 2, 2))
    return found + compare_scores(*scores)


def compare_scores(given: Mapping[str, Mapping[str, float]], made: Mapping[str, Mapping[str, float]]) -> list[Agreement]:
    """Every metric of both models, within the tolerances."""
    found = []
    for which in MODELS:
        for name in (name for name in given[which] if name in made[which] and "standard error" not in name):
            first, second, allowed = given[which][name], made[which][name], TOLERANCES.get(name, TOLERANCE)
            agrees = abs(first - second) <= allowed
            found.append(Agreement(f"{name} of {which}", f"{first:.3f}", f"{second:.3f}", agrees, f"{allowed:g} apart"))
    return found


def compare_data(given: Path, made: Path) -> list[Agreement]:
    """The files of two instances byte for byte; where files differ, what is in them: another version of pyarrow writes the same rows in
    other bytes, and another version of Pillow may draw or write a picture otherwise."""
    first, second = (
        {name: digest for name, digest in contents(folder).items() if name.startswith("snapshot/")}
        for folder in (given, made)
    )
    equal = [name for name in first if second.get(name) == first[name]]
    if first == second:
        return [Agreement("data files", f"{len(first)} files", "the same bytes", agrees=True)]
    found = [
        Agreement(
            "data files", f"{len(first)} files", f"{len(equal)} with the same bytes", agrees=True, allowed="equal content"
        )
    ]
    one, other = (Snapshot(folder / "snapshot") for folder in (given, made))
    for name in sorted({Path(path).name.split("-")[0] for path in first if path.endswith(".parquet")}):
        found.append(_compare_tables(name, one.table(name), other.table(name)))
    for path in (path for path in first if path.endswith(".json") and path not in equal):
        same = (given / path).read_text(encoding="utf-8") == (
            (made / path).read_text(encoding="utf-8") if (made / path).is_file() else ""
        )
        found.append(Agreement(Path(path).name, "its text", "the same" if same else "another", agrees=same))
    return found


def _compare_tables(name: str, given: Split, made: Split) -> Agreement:
    """Rows of a split whose caption, columns or decoded picture differ."""
    if len(given) != len(made):
        return Agreement(f"rows of {name}", str(len(given)), str(len(made)), agrees=False)
    assert given.images is not None
    assert made.images is not None
    texts, others = (split.texts or [""] * len(split) for split in (given, made))
    different = 0
    for row in range(len(given)):
        same = texts[row] == others[row] and all(
            column[row] == made.columns[key][row] for key, column in given.columns.items() if key in made.columns
        )
        first, second = given.images.read(row), made.images.read(row)
        if not same or (first != second and not np.array_equal(_pixels(first), _pixels(second))):
            different += 1
    words = "the same content" if not different else f"{different} with other content"
    return Agreement(f"rows of {name}", f"{len(given)} rows", words, agrees=not different)


def _pixels(content: bytes) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _short(one: Mini, which: str) -> str:
    model = one.load_model(which)  # type: ignore[arg-type]
    return " ".join(digest[:8] for digest in model.fingerprint().values())
