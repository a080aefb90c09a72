"""The site of the docs builds without a warning, and what is drawn or derived for it is current."""

import importlib
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from snippets import ROOT

SITE = ROOT / "docs" / "site"


@pytest.fixture
def site_scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SITE))
    return importlib.import_module


def test_diagrams_are_current(site_scripts):
    for file, draw in site_scripts("diagrams").DIAGRAMS.items():
        assert (ROOT / "docs" / "images" / file).read_text(encoding="utf-8") == draw(), "run docs/site/diagrams.py"


def test_the_picture_of_core_is_current(monkeypatch):
    pytest.importorskip("grimp")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    picture = importlib.import_module("picture_of_core")
    assert (ROOT / "docs" / "images" / "core.svg").read_text(encoding="utf-8") == picture.core(), (
        "run docs/picture_of_core.py"
    )


def test_boxes_that_import_each_other_are_drawn_as_one_and_detours_not_at_all(monkeypatch):
    pytest.importorskip("grimp")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    picture = importlib.import_module("picture_of_core")
    together = picture.joined({"a": {"b", "c"}, "b": {"c"}, "c": {"b", "d"}, "d": set()})
    assert together == {"a": {"b, c"}, "b, c": {"d"}, "d": set()}
    assert picture.without_detours({"a": {"b", "d"}, "b": {"d"}, "d": set()}) == {"a": {"b"}, "b": {"d"}, "d": set()}
    assert picture.levels(together) == {"a": 0, "b, c": 1, "d": 2}


def test_the_notebook_is_current(site_scripts):
    pytest.importorskip("jupytext")
    made = site_scripts("notebook")
    assert made.NOTEBOOK.read_text(encoding="utf-8") == made.notebook(), "run docs/site/notebook.py"


@pytest.mark.skipif(
    "SALMU_TEST_NOTEBOOKS" not in os.environ,
    reason="takes minutes: SALMU_TEST_NOTEBOOKS=1 uv run --with nbclient --with ipykernel pytest",
)
def test_the_notebook_runs(site_scripts, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.delenv("SALMU_CACHE")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(site_scripts("notebook").NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "key-value-edit" in str(notebook.cells)


def test_every_public_name_stands_in_the_python_reference(site_scripts):
    import salmu_core

    text = site_scripts("python_reference").python_reference()
    assert "## More" not in text, "put new names into a group of docs/site/python_reference.py"
    for name in salmu_core.__all__:
        assert re.search(rf"(^::: salmu_core\.[\w.]*\.{name}$)|(^- `{name}`:)", text, re.M), name


def test_links_are_turned_into_those_of_the_site(site_scripts):
    turn = site_scripts("pages").with_links_of_the_site
    pages = {"concepts.md", "index.md", "plugins/salmu-slug/README.md"}
    assert (
        turn("[a](../plugins/salmu-slug/README.md#idea)", "concepts.md", pages) == "[a](plugins/salmu-slug/README.md#idea)"
    )
    assert turn("[a](../../docs/concepts.md)", "plugins/salmu-slug/README.md", pages) == "[a](../../concepts.md)"
    assert turn("[all](../pyproject.toml)", "concepts.md", pages) == "all (`pyproject.toml`)"
    assert turn("[a](https://x.org) [b](#c)", "concepts.md", pages) == "[a](https://x.org) [b](#c)"
    assert turn("[a](nowhere.md)", "concepts.md", pages) == "[a](nowhere.md)"  # for MkDocs to complain about
    assert turn("```\n[a](../plugins/salmu-slug/README.md)\n```", "concepts.md", pages).count("../plugins") == 1


def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path, monkeypatch):
    for needed in ("mkdocs", "material", "mkdocstrings_handlers.python", "salmubench", "salmu_slug"):
        pytest.importorskip(needed)
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    monkeypatch.chdir(ROOT)
    warnings: list[str] = []
    watch = logging.Handler(logging.WARNING)
    watch.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(watch)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    finally:
        logging.getLogger("mkdocs").removeHandler(watch)
    assert not warnings
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(?:https?:)?//""", text), page
        assert not re.search(r"""<link[^>]*rel=["']?(?:stylesheet|preconnect)["']?[^>]*href=["']?(?:https?:)?//""", text), (
            page
        )
        assert "made for the site:" not in text, f"{page}: a generated part was not filled"
    commands = (tmp_path / "site" / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    assert "--fail-if" in commands
    assert "salmu data export" in commands
    assert "register_audits" in (tmp_path / "site" / "reference" / "hooks" / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "site" / "plugins" / "salmu-slug" / "index.html").exists()
