"""Every package of the workspace adds what it registers, and without it that is gone and nothing else is."""

from __future__ import annotations

import ast
import tomllib
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import pytest

from salmu_authors.testing import check_command
from salmu_core.cli import core_commands
from salmu_core.plugins.commands import COMMAND_GROUP, load_commands
from salmu_core.plugins.loading import GROUP, load_plugins

ROOT = Path(__file__).parents[2]
#: Package -> the commands that it adds.
COMMANDS = {
    "salmu-audits": {"audit"},
    "salmu-authors": {"check", "new-plugin"},
    "salmu-deletion": {"certificate", "find", "forget", "inspect"},
    "salmu-share": {"board", "push", "submit"},
    "salmu-tune": {"tune"},
    "salmu-upkeep": {"data", "replay", "rescore", "serve"},
}


def members() -> dict[str, dict]:
    """Distribution -> its pyproject.toml, of every member of the workspace."""
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]["members"]
    files = [folder / "pyproject.toml" for pattern in workspace for folder in sorted(ROOT.glob(pattern))]
    content = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    return {item["project"]["name"]: item for item in content}


def modules_of(member: dict) -> set[str]:
    """The top-level modules that its entry points lead to."""
    groups = member["project"].get("entry-points", {}).values()
    return {value.split(":")[0].split(".")[0] for group in groups for value in group.values()}


def without(points: EntryPoints, package: str) -> list:
    return [point for point in points if point.dist.metadata["Name"] != package]


@pytest.fixture(scope="module")
def all_commands():
    commands = load_commands(core_commands, entry_points(group=COMMAND_GROUP))
    assert commands.problems == []
    return commands


@pytest.mark.parametrize("package", COMMANDS)
def test_a_package_adds_its_commands_and_without_it_they_alone_are_gone(package, all_commands):
    pytest.importorskip(package.replace("-", "_"))
    rest = load_commands(core_commands, without(entry_points(group=COMMAND_GROUP), package))
    assert rest.problems == []
    assert set(all_commands.entries) - set(rest.entries) == COMMANDS[package]


def test_every_package_with_commands_is_tested_here(all_commands):
    found = {entry.package.name for entry in all_commands.entries.values()} - {"salmu"}
    assert found & set(members()) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(name for names in COMMANDS.values() for name in names))
def test_commands_of_packages_keep_the_contract(name, all_commands):
    check_command(all_commands.entries[name].info)


def test_core_alone_loads_without_a_problem():
    assert load_plugins(only=[]).problems == []
    assert load_commands(core_commands, only=[]).problems == []


@pytest.mark.parametrize(("package", "benchmark"), [("salmu-deletion", "own-data"), ("salmu-tune", "validation")])
def test_packages_with_a_benchmark_of_their_own_add_nothing_else(package, benchmark):
    points = entry_points(group=GROUP)
    own = [point for point in points if point.dist.metadata["Name"] in ("salmu", package)]
    with_it, rest = load_plugins(own), load_plugins(without(own, package))
    assert set(with_it.benchmarks) - set(rest.benchmarks) == {benchmark}
    assert with_it.problems == rest.problems == []


def test_core_imports_no_package_of_the_workspace():
    packages = {module for member in members().values() for module in modules_of(member)}
    assert {"salmu_mini", "salmu_slug", "salmu_audits"} <= packages
    for file in sorted((ROOT / "salmu_core").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in named} & packages, f"{file.relative_to(ROOT)}:{node.lineno}"
