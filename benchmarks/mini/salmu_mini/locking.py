"""One build of an instance at a time, also where a file system knows no locks."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from salmu_core.benchmark import BuildStep, Report
from salmu_core.errors import OutputError

#: What flock says on file systems without locks, such as some network mounts.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def alone(path: Path, tell: Report) -> Iterator[None]:
    """Wait until no other process is within this block.

    The operating system frees a lock when its process ends, however it ends. Where it has no locks, a file stands for one; what a
    process that died left is then removed by its number, or by hand where that is another machine's.

    Args:
        path: of the lock, which may stay behind and means nothing on its own.
        tell: told once when another process must be waited for.

    Raises:
        OutputError: the place cannot be written.
    """
    lock = _first(FileLock(path), tell)
    if lock is None:
        lock = _first(SoftFileLock(path.with_suffix(".held")), tell)
    if lock is None:
        raise OutputError(f"'{path}' cannot be locked.", "Choose another place with SALMU_CACHE.")
    try:
        yield
    finally:
        lock.release()


def _first(lock: BaseFileLock, tell: Report) -> BaseFileLock | None:
    """The lock, held; None where the file system has none of that kind."""
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(BuildStep(f"wait for the build that holds {lock.lock_file}", 0, 0))
            lock.acquire()
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise OutputError(f"'{lock.lock_file}' cannot be locked: {error.strerror or error}.") from error
    return lock
