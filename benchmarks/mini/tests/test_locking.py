"""One build at a time, whatever the file system knows of locks and whatever dead processes left."""

import errno
import fcntl
import threading

import pytest

from salmu_core.errors import OutputError
from salmu_mini.locking import alone


def _inside_at_once(place, told):
    """How many of three threads were within the block at the most."""
    inside, most, lock = 0, 0, threading.Lock()
    started = threading.Barrier(3)

    def build():
        nonlocal inside, most
        started.wait()
        with alone(place / "built.lock", told.append):
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.05)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return most


@pytest.mark.parametrize("code", [None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_one_builds_and_the_others_wait_and_say_so(code, tmp_path, monkeypatch):
    if code is not None:

        def refuse(*_):
            raise OSError(code, "no locks here")

        monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "built.lock").write_text("left by a process that died")
    told = []
    assert _inside_at_once(tmp_path, told) == 1
    assert told
    assert all("wait for the build that holds" in step.stage for step in told)


def test_a_lock_that_cannot_be_taken_is_one_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match=r"built\.lock' cannot be locked: broken"), alone(tmp_path / "built.lock", print):
        pass
