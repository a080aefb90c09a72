"""Pages with names as nobody would write them, in a real browser: no page gets wider than the screen, and nothing is pushed out of it."""

import copy

import pytest
from certificate_content import FIXED

from chromium import Chromium, find_chromium
from own_data import make_rows, write_csv
from salmu_deletion.certificate.page import render_page
from salmu_deletion.certificate.sealed import seal
from salmu_deletion.own_data.find import find_by_words
from salmu_deletion.own_data.find_page import render_candidates
from salmu_deletion.own_data.tables import read_table

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="there is no Chromium here: install chromium or google-chrome, and these tests run"
)
LONG = "W" * 300


def _certificate(folder):
    content = copy.deepcopy(FIXED)
    content["requested"]["people"][0] |= {"identity": LONG, "name": LONG}
    content["requested"]["people"].append({**content["requested"]["people"][0], "identity": "a" + "\u0301" * 80})
    return render_page(seal(content))


def _candidates(folder):
    rows = make_rows(folder)
    rows[0] |= {"person_id": LONG, "text": LONG}
    table = read_table(write_csv(folder / "t.csv", rows), {"image": "photo", "caption": "text", "identity": "person_id"})
    return render_candidates(table, find_by_words(table, name=LONG), {"name": LONG})


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("render", [_certificate, _candidates])
def test_long_names_make_no_page_wider_and_hide_no_column(tmp_path, render, width):
    (page := tmp_path / "page.html").write_text(render(tmp_path), encoding="utf-8")
    with Chromium(width) as browser:
        browser.open(page)
        assert LONG in browser.run("document.body.textContent")
        assert browser.run("document.documentElement.scrollWidth") == width
        beyond = "[...document.querySelectorAll('.wide')].map((table) => table.scrollWidth - table.clientWidth)"
        # On a phone a table of eight columns may be scrolled, by less than the page is wide.
        assert all(more <= (0 if width > 900 else width) for more in browser.run(beyond))
