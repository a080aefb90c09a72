"""What a submission is: a folder with runs of one method, and `submission.json`, which names every file with its checksum.

```
submission.json           method, package, how to install it, the runs; sealed
README.md                 for people
RUN/record.json           as `salmu run` wrote it, without paths of the machine
RUN/rows.safetensors      per-row scores
RUN/delta.safetensors     the weights that differ from those of the starting model; or model.safetensors, or a place on the hub
RUN/audits.json           what attacks got, where the run was attacked
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from salmu_core.errors import BadRecord, DamagedFile
from salmu_core.files.seals import file_checksum, read_json
from salmu_core.files.writing import write_sealed_json
from salmu_core.records.schema import Package

SUBMISSION_FILE = "submission.json"
SUBMISSION_VERSION = 1
DELTA_FILE = "delta.safetensors"
CARD_FILE = "README.md"
HUB = "hf-hub:"
#: A name that is one folder, the same on every system.
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PINNED = re.compile(r"hf-hub:[A-Za-z0-9._-]+/[A-Za-z0-9._-]+@[0-9a-f]{40}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SubmittedRun(_Frozen):
    """One run of a submission.

    Args:
        folder: below the submission's.
        weights: `delta`: tensors that differ from the starting model; `whole`; or hf-hub:OWNER/NAME@COMMIT.
        files: name -> checksum of every file in the folder.
    """

    folder: str
    weights: str
    files: dict[str, str]

    @field_validator("folder")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not PLAIN.fullmatch(name):
            raise ValueError(f"'{name}' is not a plain folder name")
        return name

    @field_validator("files")
    @classmethod
    def _all_plain(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            cls._plain(name)
        return files

    @field_validator("weights")
    @classmethod
    def _pinned(cls, weights: str) -> str:
        if weights not in ("delta", "whole") and not _PINNED.fullmatch(weights):
            raise ValueError(
                f"'{weights}' is neither delta nor whole nor hf-hub:OWNER/NAME@COMMIT with the 40 digits of a commit"
            )
        return weights


class Submission(_Frozen):
    """The content of `submission.json`.

    Args:
        requirement: what installs the method, as pip takes it; empty where the checker has it: salmu's own packages.
    """

    schema_version: Literal[1] = 1
    method: str
    package: Package
    requirement: str = ""
    authors: str = ""
    salmu: str = Field("", description="version that made it")
    runs: tuple[SubmittedRun, ...] = Field(min_length=1)

    @field_validator("requirement")
    @classmethod
    def _installable(cls, text: str) -> str:
        """One requirement and nothing that pip would read as an option."""
        if text:
            try:
                Requirement(text)
            except InvalidRequirement as error:
                raise ValueError(f"'{text}' is not a requirement: {error}") from None
        return text

    def write(self, folder: Path) -> Path:
        """Write `submission.json` atomically, with its checksum."""
        path = folder / SUBMISSION_FILE
        write_sealed_json(path, self.model_dump(mode="json"))
        return path


def read_submission(folder: Path) -> Submission:
    """The submission in a folder.

    Raises:
        BadRecord: there is none, it was changed after it was written, it holds something else, or is of a newer version.
    """
    path = folder / SUBMISSION_FILE
    try:
        content = read_json(path, sealed_with={"runs"})
    except FileNotFoundError:
        raise BadRecord(f"There is no {SUBMISSION_FILE} in '{folder}'.", "`salmu submit` makes one.") from None
    except DamagedFile as error:
        raise BadRecord(error.message, "Make the submission again with `salmu submit`.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SUBMISSION_VERSION:
        raise BadRecord(
            f"'{path}' has schema version {version}; this salmu-share reads up to {SUBMISSION_VERSION}.", "Upgrade it."
        )
    try:
        return Submission.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRecord(f"'{path}' is not a submission: {where}: {problem['msg']}.") from None


def find_submissions(place: Path) -> list[Path]:
    """Every folder below `place` that holds a `submission.json`, in order of path; links are not followed."""
    found = [path.parent for path in place.rglob(SUBMISSION_FILE) if not path.is_symlink()]
    return sorted(folder for folder in found if not any(part.startswith(".") for part in folder.relative_to(place).parts))


def check_files(folder: Path, submission: Submission) -> None:
    """Is every file the one that `submission.json` names, and is there no other?

    Raises:
        DamagedFile: one is not there, was changed, is a link, or is not named.
    """
    named = {f"{run.folder}/{name}": checksum for run in submission.runs for name, checksum in run.files.items()}
    for path in _below(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise DamagedFile(f"'{name}' is a link, and a submission holds files alone.")
        if name not in named and name not in (SUBMISSION_FILE, CARD_FILE):
            raise DamagedFile(f"'{name}' is not named in {SUBMISSION_FILE}.")
    for name, checksum in named.items():
        if not (folder / name).is_file():
            raise DamagedFile(f"'{name}' is not there.")
        if file_checksum(folder / name) != checksum:
            raise DamagedFile(f"'{name}' was changed after the submission was made.")


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _below(path)
        else:
            yield path
