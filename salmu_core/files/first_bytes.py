"""What a file really is, told from its first bytes: the usual reasons why something is not a checkpoint, table or archive."""

from __future__ import annotations

from pathlib import Path

from salmu_core.errors import BadData
from salmu_core.files.writing import is_lfs_pointer

_SIGNS: tuple[tuple[bytes, str, str], ...] = (
    (b"/annex/objects/", "a git-annex pointer, and what it points to was not fetched", "Run `git annex get` there."),
    (b"<!doctype html", "a web page", "Fetch the file itself; many pages want a login first."),
    (b"<html", "a web page", "Fetch the file itself; many pages want a login first."),
    (b"\x1f\x8b", "compressed with gzip", "Unpack it first."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it first."),
    (b"\x89HDF", "an HDF5 file, as TensorFlow writes them", "Only PyTorch's files and safetensors are read."),
    (b"GGUF", "a GGUF file", "Only PyTorch's files and safetensors are read."),
)


def other_content(path: Path) -> tuple[str, str] | None:
    """What a file holds instead of what its name promises, and what to do; None where its first bytes say nothing of that kind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pointer = Path(folder) / "model.safetensors"
        ...     _ = pointer.write_text("version https://git-lfs.github.com/spec/v1\\n")
        ...     other_content(pointer)[0]
        'a Git LFS pointer, and what it points to was not fetched'
    """
    if is_lfs_pointer(path):
        return "a Git LFS pointer, and what it points to was not fetched", "Run `git lfs pull` there."
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return None
    if not start:
        return "an empty file", "Fetch or make it again."
    lowered = start.lstrip().lower()
    for sign, what, remedy in _SIGNS:
        if start.startswith(sign) or (sign.startswith(b"<") and lowered.startswith(sign)):
            return what, remedy
    return None


def refuse_other_content(path: Path) -> None:
    """Say what a file of data really is, instead of what a reader of its kind makes of it.

    Raises:
        BadData: it is one of the usual other things.
    """
    found = other_content(path)
    if found is not None:
        raise BadData(f"'{path}' is {found[0]}.", found[1])
