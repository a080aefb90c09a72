"""Python blocks of the docs run: page by page, in an empty folder, on the toy benchmark in place of bigger ones."""

import sys
from types import ModuleType

import pytest

from snippets import ROOT, blocks, pages

pytest.importorskip("salmu_metrics")
pytest.importorskip("salmu_mini")
pytest.importorskip("salmu_slug")

PAGES = [page for page in pages() if any(blocks(page, "python"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # One page is one session; a plugin that a page writes can be imported by its later blocks.
    session = ModuleType("salmu_zero_cosine")
    monkeypatch.setitem(sys.modules, "salmu_zero_cosine", session)
    monkeypatch.setattr("salmu_mini.benchmark.Mini.build", _too_long)
    for block in blocks(page, "python"):
        code = compile(_quick(block.text), block.place, "exec")
        if block.mark.startswith("tested in "):
            assert (ROOT / block.mark.removeprefix("tested in ")).exists(), block.place
            continue
        exec(code, session.__dict__)


def _quick(code):
    """The toy in the place of mini, and one seed in the place of three, whose runs are not attacked: those of other pages are."""
    return code.replace('"mini"', '"toy"').replace("seeds=[0, 1, 2]", 'seeds=[0], audits="none"')


def _too_long(*args, **kwargs):
    raise AssertionError(
        'This would train mini for minutes: write benchmark="mini" out, so that the toy can take its place.'
    )


def test_there_is_something_to_run():
    assert len(PAGES) >= 5
