"""A repository of the Hugging Face hub as values: its files at a commit, as the hub states them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class HubFile:
    """One file of a commit as the hub states it: bytes, git's blob id, and SHA-256 where it is in large file storage."""

    path: str
    size: int
    blob_id: str
    sha256: str | None = None


@dataclass(frozen=True)
class Repository:
    """Files of a repository at a revision.

    Args:
        kind: "model" or "dataset".
        name: OWNER/NAME.
        revision: a commit, branch or tag.
        wanted: names of files, or patterns with `*`. A name without `*` must be there.
    """

    kind: Kind
    name: str
    revision: str
    wanted: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} at {self.revision[:8] if len(self.revision) == 40 else self.revision}"

    def wants(self, path: str) -> bool:
        """Is that file among the wanted ones?"""
        return any(fnmatchcase(path, pattern) for pattern in self.wanted)


@dataclass(frozen=True)
class Listing:
    """The wanted files of a repository at one commit."""

    repository: Repository
    commit: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)
