"""SHA-256 of files, remembered between programs for as long as a file is certainly the same."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from salmu_core.errors import BadData, OutputError, SalmuError
from salmu_core.files.seals import read_json
from salmu_core.files.writing import write_sealed_json

#: A file that changed this shortly before it was read may change again without its times telling: they tick coarsely.
SETTLED_NS = 2_000_000_000
Stamp = tuple[int, int, int, int]


class FileDigests:
    """Digests by content. A digest is remembered with the file's size, times of change and inode; when any of them differs,
    the file is read again.

    Args:
        folder: where to remember; None: only within this object.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._known: dict[Path, tuple[Stamp, str]] = {}

    def of(self, paths: Sequence[Path]) -> list[str]:
        """SHA-256 of each file, in hex.

        Raises:
            BadData: a file cannot be read.
        """
        resolved = [Path(os.path.abspath(path)) for path in paths]
        stamps = [file_stamp(path) for path in resolved]
        folders = {path.parent for path in resolved if path not in self._known}
        for parent in folders:
            self._known = {**self._remembered(parent), **self._known}
        unknown = {
            path: stamp
            for path, stamp in zip(resolved, stamps, strict=True)
            if path not in self._known or self._known[path][0] != stamp
        }
        found: dict[Path, str] = {}
        if unknown:
            now = time.time_ns()
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing frees the interpreter
                found = dict(zip(unknown, pool.map(_sha256, unknown), strict=True))
            sure = {
                path: (stamp, found[path])
                for path, stamp in unknown.items()
                if max(stamp[1], stamp[2]) < now - SETTLED_NS and file_stamp(path) == stamp
            }
            self._known |= sure
            self._remember({path.parent for path in sure})
        return [found[path] if path in found else self._known[path][1] for path in resolved]

    def _file(self, parent: Path) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / f"{hashlib.blake2b(str(parent).encode(), digest_size=16).hexdigest()}.json"

    def _remembered(self, parent: Path) -> dict[Path, tuple[Stamp, str]]:
        path = self._file(parent)
        try:
            content = read_json(path) if path is not None and path.is_file() else {}
            known: dict[Path, tuple[Stamp, str]] = {}
            for name, (size, changed, inode_changed, inode, digest) in content.get("files", {}).items():
                known[parent / name] = ((size, changed, inode_changed, inode), digest)
            return known
        except (OSError, ValueError, TypeError, AttributeError, SalmuError):
            return {}  # a damaged file counts as missing

    def _remember(self, parents: Iterable[Path]) -> None:
        for parent in parents:
            path = self._file(parent)
            if path is None:
                continue
            files = {
                entry.name: [*stamp, digest] for entry, (stamp, digest) in self._known.items() if entry.parent == parent
            }
            with contextlib.suppress(OutputError):  # not remembered is only slower
                write_sealed_json(path, {"folder": str(parent), "files": files})


def file_stamp(path: Path) -> Stamp:
    """Size, time of change, time of change of the inode (both in ns), inode: equal stamps mean an untouched file.

    Raises:
        BadData: the file cannot be read.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise BadData(f"'{path}' cannot be read: {error.strerror or error}.", "Fetch or build the data again.") from error
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadData(f"'{path}' cannot be read: {error.strerror or error}.", "Fetch or build the data again.") from error
