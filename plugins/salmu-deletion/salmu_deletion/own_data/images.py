"""Images where people keep them: files of their own, members of tar files. Cells of parquet files: `salmu_core.parquet_images`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from salmu_core.errors import BadData
from salmu_core.files.digests import Stamp, file_stamp

_AGAIN = "Start again: the files must stay as they are while a run goes on."


@dataclass(eq=False)
class PathImages:
    """One image file per row. A file that is not there is no error until it is read: the validation report tells all at once."""

    paths: Sequence[Path]

    def __post_init__(self) -> None:
        self._stamps: dict[Path, Stamp] = {path: file_stamp(path) for path in set(self.paths) if _is_file(path)}

    def __len__(self) -> int:
        return len(self.paths)

    def files(self) -> Sequence[Path]:
        return list(self.paths)

    def exists(self, row: int) -> bool:
        """Was the file there when the table was read?"""
        return self.paths[row] in self._stamps

    def read(self, row: int) -> bytes:
        path = self.paths[row]
        if path not in self._stamps:
            raise BadData(f"There is no image '{path}'.", "Give the folder that paths begin in with --images.")
        if file_stamp(path) != self._stamps[path]:
            raise BadData(f"'{path}' has changed since it was opened.", _AGAIN)
        return path.read_bytes()

    def where(self, row: int) -> str:
        return str(self.paths[row])


@dataclass(eq=False)
class TarImages:
    """Members of one tar file, found again by where they begin.

    Args:
        tar: an uncompressed tar file.
        places: where each image begins, and its bytes.
        names: of the members.
    """

    tar: Path
    places: Sequence[tuple[int, int]]
    names: Sequence[str]

    def __post_init__(self) -> None:
        self._stamp = file_stamp(self.tar)

    def __len__(self) -> int:
        return len(self.places)

    def files(self) -> Sequence[Path]:
        return [self.tar]

    def read(self, row: int) -> bytes:
        if file_stamp(self.tar) != self._stamp:
            raise BadData(f"'{self.tar}' has changed since it was opened.", _AGAIN)
        start, size = self.places[row]
        with self.tar.open("rb") as file:
            file.seek(start)
            return file.read(size)

    def where(self, row: int) -> str:
        return f"{self.tar}, {self.names[row]}"


def picture_path(folder: Path, name: str) -> Path:
    """Where a picture lies. A table made on Windows may name it with backslashes, other programs write file: addresses."""
    if name.startswith("file://"):
        name = unquote(urlsplit(name).path)
    path = folder / name
    if "\\" in name and not _is_file(path):
        other = folder / name.replace("\\", "/")
        return other if _is_file(other) else path
    return path


def _is_file(path: Path) -> bool:
    """Also for what cannot be a name, such as a caption in the wrong column."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
