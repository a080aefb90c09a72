"""Listings come from a kept file of plain facts; whatever changes about the packages makes it anew."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from salmu_core.cli import catalogue
from salmu_core.cli.catalogue import facts_of, installed_key, read_catalogue
from salmu_core.plugins.loading import load_plugins
from salmu_core.spec.resolve import shipped_presets


@pytest.fixture
def cache(tmp_path):
    read_catalogue(tmp_path)
    return tmp_path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a module `greeting` that plugs in, as far as files and entry points go."""
    folder = tmp_path / "site" / "greeting"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("word = 'hello'\n")
    monkeypatch.syspath_prepend(folder.parent)
    points = [importlib.metadata.EntryPoint("greeting", "greeting", "salmu")]
    monkeypatch.setattr(catalogue, "wanted_points", lambda group: points)
    return folder


def test_the_kept_facts_are_those_of_the_plugins(cache):
    kept, plugins = read_catalogue(cache), load_plugins()
    presets = shipped_presets(plugins)
    for kind in catalogue.KINDS:
        assert list(kept.of(kind)) == sorted(plugins.of(kind))
    for name in ("toy", "none"):
        entry = next(plugins.of(kind)[name] for kind in catalogue.KINDS if name in plugins.of(kind))
        assert kept.of(entry.kind)[name] == json.loads(json.dumps(facts_of(entry, presets), default=str))


def test_reading_kept_facts_imports_neither_torch_nor_a_plugin(cache):
    code = (
        "import sys; from pathlib import Path; from salmu_core.cli.catalogue import read_catalogue;"
        f"assert read_catalogue(Path({str(cache)!r})).find('none');"
        "print([name for name in ('torch', 'open_clip', 'salmu_core.plugins.loading') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_changed_an_added_and_a_removed_file_are_noticed(package):
    keys = [installed_key(), installed_key()]
    (package / "__init__.py").write_text("word = 'hello there'\n")
    keys.append(installed_key())
    (package / "more.py").write_text("")
    keys.append(installed_key())
    (package / "more.py").unlink()
    keys.append(installed_key())
    assert keys[0] == keys[1]
    assert keys[2] == keys[4]
    assert len(set(keys)) == 3


def test_a_removed_package_and_a_choice_of_packages_are_noticed(package, monkeypatch):
    with_it = installed_key()
    monkeypatch.setattr(catalogue, "wanted_points", lambda group: [])
    without = installed_key()
    monkeypatch.setenv("SALMU_PLUGINS", "salmu-slug")
    assert len({with_it, without, installed_key()}) == 3


@pytest.mark.parametrize("damage", ["", "{", '{"key": 1}', "null"], ids=["empty", "cut", "stale", "null"])
def test_a_damaged_file_is_made_anew(cache, damage, monkeypatch):
    (cache / "catalogue.json").write_text(damage)
    monkeypatch.setattr(catalogue, "_collect", lambda: {"entries": {"method": {"new": {"name": "new"}}}, "problems": []})
    assert read_catalogue(cache).names == ["new"]
    monkeypatch.setattr(catalogue, "_collect", lambda: pytest.fail("the file was kept"))
    assert read_catalogue(cache).names == ["new"]


def test_an_edited_file_is_made_anew(cache):
    place = cache / "catalogue.json"
    place.write_text(place.read_text().replace('"none"', '"nine"'))
    assert read_catalogue(cache).find("none")


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path):
    (tmp_path / "file").write_text("")
    assert read_catalogue(tmp_path / "file" / "cache").find("none")
