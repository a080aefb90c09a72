"""What every plugin runs in its tests: does it keep salmu's contract?

Each check raises `AssertionError` with a sentence that says what to change.
"""

from salmu_core.testing.checks import check_benchmark as check_benchmark
from salmu_core.testing.checks import check_method as check_method
from salmu_core.testing.checks import check_metric as check_metric
from salmu_core.testing.context import toy_context as toy_context
from salmu_core.testing.package import check_package as check_package

__all__ = ["check_benchmark", "check_method", "check_metric", "check_package", "toy_context"]
