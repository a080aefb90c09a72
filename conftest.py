"""For all tests: core, plugins and benchmarks."""

import gc


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what is imported: Accelerate collects after every fit, which would otherwise look at a
    million objects that never go away, and take longer than the fit itself."""
    gc.collect()
    gc.freeze()
