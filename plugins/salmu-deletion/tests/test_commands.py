"""The package adds its commands and its benchmark; without it they are gone and nothing else is."""

import pytest

from salmu_core.cli import core_commands
from salmu_core.commands import load_commands
from salmu_core.plugins import load_plugins
from salmu_core.testing import check_command
from salmu_deletion.commands import register_commands

NAMES = {"certificate", "find", "forget", "inspect"}


@pytest.mark.parametrize("info", register_commands(), ids=lambda info: info.name)
def test_commands_keep_the_contract(info):
    check_command(info)


def test_the_package_adds_its_commands_and_nothing_else_depends_on_it():
    with_it, without = (load_commands(core_commands, only=only) for only in (["salmu-deletion"], []))
    assert set(with_it.entries) - set(without.entries) == NAMES
    assert with_it.problems == without.problems == []
    with_it, without = (load_plugins(only=only) for only in (["salmu-deletion"], []))
    assert set(with_it.benchmarks) - set(without.benchmarks) == {"own-data"}
    assert with_it.problems == without.problems == []
