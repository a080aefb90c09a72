"""For all tests: core, plugins and benchmarks."""

import gc
import os
import sys

# Containers often have Python keep no bytecode. The tests start dozens of processes, each of which would compile torch and open_clip
# anew, which takes longer than most of what they do.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what is imported: Accelerate collects after every fit, which would otherwise look at a
    million objects that never go away, and take longer than the fit itself."""
    gc.collect()
    gc.freeze()
