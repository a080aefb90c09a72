"""What README and docs say is so: snippets run, tables are current, links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest

from salmu_authors.testing import check_method
from salmu_core import __all__ as public
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.schema import Package
from toy_methods import toy_plugins

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _snippets(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "write-a-method.md"], ids=lambda path: path.stem)
def test_the_plugin_in_the_docs_registers_and_keeps_the_contract(page):
    [snippet] = [text for text in _snippets(page) if "register_methods" in text]
    module = type(sys)("salmu_from_the_docs")
    exec(compile(snippet, str(page), "exec"), module.__dict__)
    plugins = toy_plugins()
    add_plugin(plugins, module, Package(name="docs", version="1"), "docs")
    assert not plugins.problems
    assert len(snippet.splitlines()) <= 32
    check_method(plugins.methods["zero-cosine"].cls, lr=1e-3)


def test_names_imported_in_the_docs_are_public():
    for page in PAGES:
        for names in re.findall(r"from salmu_core import ([^\n(`;]+)", page.read_text(encoding="utf-8")):
            for name in names.split(","):
                assert name.strip() in public, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_public_name_resolves():
    import salmu_core

    for name in public:
        assert getattr(salmu_core, name) is not None


def test_generated_blocks_are_current():
    pytest.importorskip("salmubench")
    pytest.importorskip("salmu_relabel")
    module = type(sys)("docs_generate")
    module.__file__ = str(ROOT / "docs" / "generate.py")
    exec((ROOT / "docs" / "generate.py").read_text(encoding="utf-8"), module.__dict__)
    for page in module.PAGES:
        assert module.filled(ROOT / page) == (ROOT / page).read_text(encoding="utf-8"), (
            f"{page} is stale: run docs/generate.py"
        )


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("reference/commands.md", ["## salmu compare", "--bench-seeds", "salmu forget"]),
        ("reference/hooks.md", ["## register_methods", "register_audits"]),
        ("reference/python.md", ["### compare", "### UnlearnContext", "accumulate("]),
        ("catalogue/metrics.md", ["RetFail", "GenKnow"]),
        ("catalogue/audits.md", ["value-probe-name"]),
        ("catalogue/benchmarks.md", ["`mini`"]),
    ],
)
def test_references_are_whole_as_files_too(page, words):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert all(word in text for word in words)
    assert "The site has" not in text
