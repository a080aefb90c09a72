"""A fixture for tests that plant what plugins do wrong: each starts from the process as it was, and leaves it so."""

from collections.abc import Iterator

import pytest

from salmu_core.cli import command_group
from salmu_core.plugins.process_state import ProcessState


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    before = ProcessState()
    command_group._installed.cache_clear()
    yield
    before.put_back()
    command_group._installed.cache_clear()
