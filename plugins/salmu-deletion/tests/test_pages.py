"""Pages with names as nobody would write them, in a real browser: no page gets wider than the screen, and nothing is pushed out of it."""

import copy

import pytest
from certificate_content import FIXED

from chromium import Chromium, find_chromium
from own_data import make_rows, write_csv
from records import record, references
from salmu_deletion.certificate.page import render_page
from salmu_deletion.certificate.sealed import seal
from salmu_deletion.inspection.inspect import Inspection, Neighbour, PairView
from salmu_deletion.inspection.page import render_page as render_inspection
from salmu_deletion.inspection.rows import Row
from salmu_deletion.own_data.find import find_by_words
from salmu_deletion.own_data.find_page import render_candidates
from salmu_deletion.own_data.page import render_request
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


def _inspection(folder):
    models = ("compromised", "unlearned", "clean")
    values = dict.fromkeys(models, 0.5)
    ranks = dict.fromkeys(models, 1234)
    row = Row("forget", 0, "forget", LONG, "city", LONG, f"{LONG}.png", LONG)
    pair = PairView(row, values, ranks, ranks, dict.fromkeys(models, True))
    near = Neighbour(f"{LONG}/city", LONG, "holdout_association", "holdout", 12, 0.98765, values, -0.00001, ranks)
    found = Inspection(
        record("ascent", {}), LONG, "forget", [pair, pair], 2345, 2345, models, False, {"holdout": [near, near]}, {}
    )
    return render_inspection(found, None, pictures=0)


def _request(folder):
    of = {row.spec.start: row for row in references()}
    sides = {"mean": 0.98765, "lowest hundredth": 0.9, "smallest": 0.8}
    index = {
        "answers": [], "neighbours": 10, "thresholds": {"may stay": 0.95, "re-embed soon": 0.8},
        "image": {"cosine": sides, "kept": {"image": 0.999, "text": 0.999}},
        "text": {"cosine": sides, "kept": {"image": 0.999, "text": 0.999}},
    }  # fmt: skip
    measured = {"first": 0.5, "before": 0.4, "now": 0.3, "never": 0.2}
    chain = {"answers": [], "earlier_rows": 12, "earlier": measured, "drift": measured, "drift_budget": 0.05}
    run = record("ascent", {name: score.value for name, score in of["clean"].scores.items()})
    run.spec.benchmark_options["forget"] = f"{LONG}.csv"
    return render_request(run, of, {"rows": 2, "index": index, "chain": chain, "after": None})


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("render", [_certificate, _candidates, _inspection, _request])
def test_long_names_make_no_page_wider_and_hide_no_column(tmp_path, render, width):
    (page := tmp_path / "page.html").write_text(render(tmp_path), encoding="utf-8")
    with Chromium(width) as browser:
        browser.open(page)
        assert LONG in browser.run("document.body.textContent")
        assert browser.run("document.documentElement.scrollWidth") == width
        beyond = "[...document.querySelectorAll('.wide')].map((table) => table.scrollWidth - table.clientWidth)"
        assert all(more <= 0 for more in browser.run(beyond))


def test_a_long_name_leaves_the_conclusion_on_the_first_screen_of_a_phone_and_no_head_is_lost(tmp_path):
    (page := tmp_path / "page.html").write_text(_inspection(tmp_path), encoding="utf-8")
    with Chromium(390, 844) as browser:
        browser.open(page)
        assert browser.run("document.querySelector('.lead').getBoundingClientRect().bottom") < 844
        # What the heads of a wide table say stands beside each value there.
        shown = "getComputedStyle(document.querySelector('.stack td[data-head]'), '::before').content"
        assert browser.run(shown) == '"Rows"'
    heads = ("Rows", "Closeness", "Change", "Similarity: before", "Best place: never learned")
    assert all(f'data-head="{head}"' in page.read_text(encoding="utf-8") for head in heads)
    assert "-0.000" not in page.read_text(encoding="utf-8")
