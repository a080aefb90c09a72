"""Writing files so that a reader never sees half of one, and finding out early that a place cannot be written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from salmu_core.errors import DamagedFile, OutputError

if TYPE_CHECKING:
    from torch import Tensor

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def default_cache() -> Path:
    """Where benchmarks and embeddings are kept: the variable SALMU_CACHE, else the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("SALMU_CACHE")
    # A shell leaves `~` alone in quotes, in .env files and in unit files.
    return Path(os.path.expanduser(chosen)) if chosen else Path(platformdirs.user_cache_dir("salmu"))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """An empty file beside `path` that replaces it when the block ends well and vanishes when it does not.

    Raises:
        OutputError: the place cannot be written or is full.
    """
    with scratch_beside(path) as scratch:
        temporary = scratch / "content.part"
        try:
            temporary.touch()
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o666 & ~umask())
            temporary.replace(path)
        except OSError as error:
            raise OutputError(
                f"'{path}' cannot be written: {error.strerror or error}.", elsewhere(path, "Free some space there")
            ) from error


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is not finished, gone when the block ends.

    Libraries write under temporary names of their own as well. Here all of it lies in one folder whose name says which process made
    it, so what a killed process left behind is known: the next one that writes `path` removes it, whoever named it.

    Raises:
        OutputError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.{_host()}-{os.getpid()}-", suffix=".part", dir=path.parent))
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error.strerror or error}.", elsewhere(path)) from error
    _in_use.add(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _in_use.discard(scratch)


_in_use: set[Path] = set()  # scratch folders of this process
_SCRATCH = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-\w+\.part")
_UNSIGNED = re.compile(r"\..+\.part|\.tmp\w{6}")  # of salmu before 0.3, and safetensors' own


def is_leftover(name: str) -> bool:
    """Is that the name of something unfinished?"""
    return bool(_SCRATCH.fullmatch(name) or _UNSIGNED.fullmatch(name))


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what processes that are gone left unfinished in a folder. What a running process writes stays, and so does what other
    computers write.

    Args:
        name: of the file that was being written; None: of any, also where the name does not say who wrote it. Only for folders
            that one process at a time writes into.
    """
    start = "." if name is None else f".{name}."
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not entry.name.startswith(start) or not is_leftover(entry.name):
                continue
            signed = _SCRATCH.fullmatch(entry.name)
            if signed is None and name is not None:
                continue
            if signed is not None and (signed["host"] != _host() or _is_busy(Path(entry.path), int(signed["process"]))):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _is_busy(scratch: Path, process: int) -> bool:
    """Does a process that is alive write there? A number that is this process's own may be that of one before it."""
    if process == os.getpid():
        return scratch in _in_use
    import psutil

    return bool(psutil.pid_exists(process))


@cache
def _host() -> str:
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Raises:
        OutputError: the place cannot be written, or the text holds a file name that is not UTF-8.
    """
    with atomic_path(path) as temporary:
        try:
            temporary.write_text(text, encoding="utf-8")
        except UnicodeEncodeError as error:
            near = error.object[max(0, error.start - 60) : error.end].rsplit('"', 1)[-1]
            shown = os.fsencode(near).decode("utf-8", "backslashreplace")
            raise OutputError(
                f"'{path}' cannot be written: '{shown}' is not UTF-8.", "Rename the file or folder that is called so."
            ) from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=list) + "\n")


def write_sealed_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object atomically with a checksum, which `salmu_core.files.seals.read_json` compares."""
    from salmu_core.files.seals import sealed_json

    write_json(path, sealed_json(content))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with a checksum in its metadata. Tensors that share memory are written once each."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from salmu_core.files.seals import BLANK, SEAL, seal_tensors

    whole: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        held = tensor.detach().cpu().contiguous()
        storage = held.untyped_storage()
        # Copied only where memory is shared: a checkpoint of gigabytes should not stand in memory twice.
        shared = storage.data_ptr() in memory or storage.nbytes() > held.nbytes
        memory.add(storage.data_ptr())
        whole[name] = held.clone() if shared else held
    with atomic_path(path) as temporary:
        try:
            save_file(whole, temporary, metadata={**(metadata or {}), SEAL: BLANK})
        except SafetensorError as error:
            raise OutputError(f"'{path}' cannot be written: {error}.", elsewhere(path, "Free some space there")) from error
        seal_tensors(temporary)


def read_tensors(path: Path, *, sealed: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, compared with its checksum where it has one.

    Args:
        sealed: refuse a file without a checksum, as salmu 0.1 wrote them.

    Raises:
        DamagedFile: it is not there, cannot be read, or is not what was written.
    """
    from safetensors import SafetensorError, safe_open

    from salmu_core.files.seals import SEAL, check_tensors

    check_tensors(path, required=sealed)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {name: value for name, value in (file.metadata() or {}).items() if name != SEAL}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedFile(f"'{path}' is not a safetensors file that can be read: {error}.") from error


def check_writable(folder: Path, needed_bytes: int = 0, option: str | None = "--out") -> None:
    """Find out before hours of work that results cannot be stored.

    Args:
        option: of the command line that names the folder, for the hint.

    Raises:
        OutputError: the folder cannot be made or written, is a file, or has less than `needed_bytes` free.
    """
    what = "cache" if in_cache(folder) else "output"
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"The {what} place '{folder}' is a file.", elsewhere(folder, option=option))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"salmu")
            probe.flush()
    except OSError as error:
        raise OutputError(
            f"The {what} directory '{folder}' cannot be written: {error.strerror or error}.",
            elsewhere(folder, option=option),
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"The {what} directory '{folder}' has {free / 1e6:.0f} MB free; this needs {needed_bytes / 1e6:.0f} MB.",
            elsewhere(folder, "Free some space", option=option),
        )


def in_cache(path: Path) -> bool:
    """Does this lie in the user's cache?"""
    return path.absolute().is_relative_to(default_cache().absolute())


def elsewhere(path: Path, first: str = "", option: str | None = None) -> str:
    """What to do about a place that cannot be written: who chose it decides, the variable SALMU_CACHE or an option.

    Args:
        first: what else helps, as the beginning of a sentence.
        option: of the command line, for places outside the cache.
    """
    if in_cache(path):
        other = "choose another place for the cache with SALMU_CACHE"
    elif option is not None:
        other = f"choose another with {option}"
    else:
        other = "choose another place"
    return f"{first}, or {other}." if first else f"{other[0].upper()}{other[1:]}."


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """What lies in a folder, sorted by name. Hidden files are left out: macOS leaves `._x` beside `x` on disks of others, and
    copies that are under way start with a dot too."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def is_lfs_pointer(path: Path) -> bool:
    """Is this the short text that Git LFS leaves in place of a large file which was not fetched?"""
    try:
        with path.open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False


def folder_bytes(folder: Path) -> int:
    """Bytes that all files under a folder take on the disk, holes of sparse files left out; 0 when it does not exist."""
    if not folder.is_dir():
        return 0
    found = [entry.stat() for entry in folder.rglob("*") if entry.is_file()]
    # Without a count of blocks (Windows) there is only the length.
    return sum(stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size for stat in found)


def umask() -> int:
    """The mode bits that new files do not get."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
