"""For all tests: core, plugins and benchmarks."""

import contextlib
import gc
import os
import sys

import pytest

# Containers often have Python keep no bytecode. The tests start dozens of processes, each of which would compile torch and open_clip
# anew, which takes longer than most of what they do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Every core has a test process of its own: threads on top of that wait for each other. For processes that tests start, too.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

_little_garbage = contextlib.ExitStack()
# Importing everything makes a million objects that stay: looking for garbage among them meanwhile finds nothing.
gc.disable()


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what is imported: Accelerate collects after every fit, which would otherwise look at a
    million objects that never go away, and take longer than the fit itself."""
    gc.collect()
    gc.freeze()
    gc.enable()
    fit = sys.modules.get("salmu_core.runner.fit")
    if fit is not None:  # otherwise each fit counts what is frozen, which takes as long
        _little_garbage.enter_context(fit.little_garbage())


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The same for what a file's tests leave behind: modules that they imported, and what is kept for later tests."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_sessionfinish() -> None:
    """Let everything go at the end, or libraries complain below the closing line of what they leaked."""
    _little_garbage.close()
    gc.unfreeze()
