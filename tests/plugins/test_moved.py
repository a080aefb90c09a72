"""Code that was written for earlier versions finds what it imports, as the same object."""

import importlib

import pytest

from salmu_core.errors import PluginFailure
from salmu_core.plugins import moved
from salmu_core.plugins.moved import MODULES, MOVED


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_under_its_earlier_name_is_the_module_where_it_is_now(name):
    place = MODULES[name] if MODULES[name].startswith("salmu_") else f"salmu_core.{MODULES[name]}"
    earlier, now = importlib.import_module(f"salmu_core.{name}"), importlib.import_module(place)
    assert earlier is now
    assert now.__spec__.name == now.__name__ == place


def test_names_of_modules_that_became_folders_are_found_there():
    from salmu_core.data import Split, pairs
    from salmu_core.files import write_json
    from salmu_core.plugins import load_plugins

    assert Split is pairs.Split
    assert callable(write_json)
    assert callable(load_plugins)
    with pytest.raises(ImportError):
        from salmu_core.data import no_such_name  # noqa: F401


def test_what_left_core_is_found_or_says_what_to_install(monkeypatch):
    from salmu_core.testing import check_method

    assert check_method.__module__.startswith("salmu_authors")
    monkeypatch.setitem(MOVED, "testing", ("salmu-gone", "salmu_gone.testing"))
    with pytest.raises(
        PluginFailure, match=r"salmu_core.testing is now in the package salmu-gone.*\n.*pip install salmu-gone"
    ):
        moved.moved("testing")


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("salmu_core.no_such_module")
