"""What every plugin runs in its tests: does it keep salmu's contract?

`check_method`, `check_metric`, `check_benchmark`, `check_audit` and `check_command` raise `AssertionError` with a sentence for every
check that failed, which says what to change; `report_method`, `report_metric`, `report_benchmark`, `report_audit` and
`report_command` give what each check found. pytest has fixtures for the rest: see `salmu_authors.pytest_plugin`.
"""

from salmu_authors.testing.checks import check_audit as check_audit
from salmu_authors.testing.checks import check_benchmark as check_benchmark
from salmu_authors.testing.checks import check_command as check_command
from salmu_authors.testing.checks import check_method as check_method
from salmu_authors.testing.checks import check_metric as check_metric
from salmu_authors.testing.checks import checks_of as checks_of
from salmu_authors.testing.checks import report_audit as report_audit
from salmu_authors.testing.checks import report_benchmark as report_benchmark
from salmu_authors.testing.checks import report_command as report_command
from salmu_authors.testing.checks import report_method as report_method
from salmu_authors.testing.checks import report_metric as report_metric
from salmu_authors.testing.checks import report_named as report_named
from salmu_authors.testing.context import toy_attack as toy_attack
from salmu_authors.testing.context import toy_context as toy_context
from salmu_authors.testing.contract import CheckReport as CheckReport
from salmu_authors.testing.contract import CheckResult as CheckResult
from salmu_authors.testing.embeddings import unit_rows as unit_rows
from salmu_authors.testing.package import check_package as check_package

__all__ = [
    "CheckReport",
    "CheckResult",
    "check_audit",
    "check_benchmark",
    "check_command",
    "check_method",
    "check_metric",
    "check_package",
    "checks_of",
    "report_audit",
    "report_benchmark",
    "report_command",
    "report_method",
    "report_metric",
    "report_named",
    "toy_attack",
    "toy_context",
    "unit_rows",
]
