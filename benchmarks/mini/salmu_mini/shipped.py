"""The instance that comes with the package: seed 0, built once, so that everybody measures on the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

from salmu_core import SalmuError
from salmu_core.files.writing import write_json

FOLDER = Path(__file__).with_name("instance")
MANIFEST = "manifest.json"
#: What of a built instance is shipped; the model of the first stage and the marks of the build are not.
_PARTS = ("snapshot", "clean", "compromised")


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an instance, by its path below `folder`."""
    paths = [path for part in _PARTS for path in sorted((folder / part).rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def copy_parts(built: Path, target: Path) -> None:
    """Copy what others need of a built instance, in the place of what is there."""
    for part in _PARTS:
        shutil.rmtree(target / part, ignore_errors=True)
        shutil.copytree(built / part, target / part)


def write_instance(built: Path, name: str, target: Path = FOLDER) -> None:
    """Copy a built instance to where it is shipped, and write down what it is.

    Args:
        built: its folder in the cache.
        name: the folder's name, which holds size, seed and a digest of the recipe.
    """
    copy_parts(built, target)
    write_json(target / MANIFEST, {"name": name, "files": contents(target)})


def shipped_name(target: Path = FOLDER) -> str | None:
    """The name of the shipped instance; None where the package has none."""
    path = target / MANIFEST
    return str(json.loads(path.read_text(encoding="utf-8"))["name"]) if path.is_file() else None


@cache
def check_instance(target: Path = FOLDER) -> None:
    """Compare the shipped files with the manifest, once in a process: 15 MB, a few hundredths of a second.

    Raises:
        SalmuError: a file is missing or has changed.
    """
    expected = json.loads((target / MANIFEST).read_text(encoding="utf-8"))["files"]
    found = contents(target)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise SalmuError(
            f"The shipped instance of mini is not what it should be: {wrong[0]}"
            + (f" and {len(wrong) - 1} more files" if len(wrong) > 1 else "") + f" in {target} changed or missing.",
            "Install salmu-mini again.",
        )  # fmt: skip
