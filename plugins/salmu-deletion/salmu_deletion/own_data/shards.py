"""Which files make up a table: a file, or the shards in a folder."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from salmu_core.errors import BadData
from salmu_core.files.writing import visible
from salmu_core.layout import Finding

_KINDS = "a .csv, .tsv, .parquet or .tar file, or a folder of .parquet or .tar files"
#: Words by which shards of different sets are told apart where they lie in one folder.
_SETS = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation", "holdout"}
)
_NUMBERED = re.compile(r"(?P<set>.*?)-(?P<number>\d+)-of-(?P<all>\d+)(?:\D.*)?")


def table_files(path: Path) -> list[Path]:
    """The files that make up a table: the file itself, or the shards in a folder, sorted. Hidden files are left out.

    Tables that img2dataset leaves beside its tar files, each of the same name, hold no pictures: the tar files are the table.

    Raises:
        BadData: nothing there, a kind of file that is not read, both kinds of shards in a folder, or shards of several sets, such as
            train and test.
    """
    if path.is_dir():
        return _shards(path)
    if not path.is_file():
        raise BadData(f"There is no table '{path}'.", f"A table is {_KINDS}.")
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet", ".tar"):
        raise BadData(f"'{path}' is of a kind that is not read.", f"A table is {_KINDS}.")
    return [path]


def shard_findings(path: Path, files: Sequence[Path]) -> list[Finding]:
    """What the names of a folder's shards tell: those that are missing, those of img2dataset that are not read."""
    folder = path if path.is_dir() else path.absolute().parent
    findings = []
    if "=" in folder.name and files[0].suffix.lower() == ".parquet":
        findings.append(
            Finding(
                "warning",
                f"'{folder.name}' is one part of a partitioned table: the column in its name is not read, and there may be others.",
                "Write it as one table with that column in it.",
                "partitioned table",
            )
        )
    if not path.is_dir():
        return findings
    numbered = [match for match in (_NUMBERED.fullmatch(file.stem) for file in files) if match]
    there = {(match["set"], int(match["all"]), int(match["number"])) for match in numbered}
    missing = [
        f"{number:0{len(match['number'])}d} of {match['all']}"
        for match in {(m["set"], m["all"]): m for m in numbered}.values()
        for number in range(min(int(match["all"]), 100_000))
        if (match["set"], int(match["all"]), number) not in there
    ]
    if missing:
        findings.append(
            Finding(
                "warning",
                f"{len(missing)} shards are not in '{path.name}', by the names of the others: {', '.join(missing[:3])}.",
                "Fetch them too, unless a part is meant.",
                "missing shards",
            )
        )
    if files and files[0].suffix.lower() == ".tar" and any(file.with_suffix(".parquet").is_file() for file in files):
        findings.append(
            Finding(
                "fact",
                f"The .parquet files beside the .tar files of '{path.name}' are not read.",
                None,
                "tables beside tars",
            )
        )
    return findings


def _shards(folder: Path) -> list[Path]:
    tables, tars = ([file for file in visible(folder) if file.suffix.lower() == kind] for kind in (".parquet", ".tar"))
    if tables and tars:
        stems = {file.stem for file in tars}
        alone = next((file for file in tables if file.stem not in stems), None)
        if alone is not None:
            raise BadData(
                f"The folder '{folder}' holds .parquet files (as {alone.name}) and .tar files (as {tars[0].name}).",
                "Put one kind of them into a folder of its own.",
            )
        tables = []
    found = tables or tars
    if not found:
        below = next((entry for entry in visible(folder) if entry.is_dir() and any(entry.glob("*.parquet"))), None)
        if below is not None and "=" in below.name:
            raise BadData(
                f"The folder '{folder}' is partitioned: '{below.name}' is a column by its name, which the files do not have.",
                "Write it as one table with that column in it.",
            )
        raise BadData(
            f"The folder '{folder}' holds no .parquet or .tar file.",
            f"A table is {_KINDS}." if below is None else f"Its folder '{below.name}' does: give that.",
        )
    sets = defaultdict(list)
    for file in found:
        sets[_SETS & set(re.split(r"[^a-z]+", file.stem.lower()))].append(file.name)
    if len(sets) > 1 and any(sets):
        told = ", ".join(f"{names[0]} ({len(names)} files)" for names in sets.values())
        raise BadData(
            f"The folder '{folder}' holds shards of several sets: {told}.",
            "Put those that are meant into a folder of their own (links do), or give one file.",
        )
    return found
