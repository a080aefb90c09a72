"""The report in a real browser: it draws, sorts and changes its colours, asks for nothing, and takes no text for markup."""

import re

import pytest

from chromium import Chromium, find_chromium
from records import CLEAN, COMPROMISED, published, record, references, with_published
from salmu_core.comparison.compare import compare_records
from salmu_core.records.store import load_records
from salmu_core.report.report import write_reports
from showings import write_results

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="there is no Chromium here: install chromium or google-chrome, and these tests run"
)
EVIL = "</script><img src=x onerror=\"window.hit='image'\"><script>window.hit='script'</script><b>'\"&"


def _page(folder, records, caption="a caption {0}"):
    loaded = load_records(write_results(folder, records, caption))
    return write_reports(folder, compare_records(loaded.records), zip(loaded.records, loaded.files, strict=True))["html"]


@pytest.fixture(scope="module")
def browser():
    with Chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    runs = [
        record("good", {**COMPROMISED, "RetFail": 0.01, "InterIdSim": 0.25}),
        record("eraser", CLEAN),
        record("lazy", {**COMPROMISED, "RetFail": 0.2}),
        record("broken", {}, status="failed", error="boom"),
    ]
    return _page(tmp_path_factory.mktemp("page"), [*with_published(published("Theirs", {"RetFail": 0.002})), *runs])


def _names(browser):
    return browser.run(
        "[...document.querySelectorAll('#board tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[0].querySelector('a, span').textContent)"
    )


def test_everything_is_drawn_without_complaint_and_nothing_is_asked_for(browser, page):
    browser.open(page)
    browser.draw_everything()
    assert browser.run("document.querySelectorAll('.chart[data-drawn] .main-svg').length") > 10
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]


def test_the_policy_stops_other_scripts_and_addresses(browser, page):
    browser.open(page)
    browser.run("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hit = 1' }))")
    browser.run("document.body.append(Object.assign(document.createElement('img'), { src: 'http://127.0.0.1:9/x.png' }))")
    assert browser.run("window.hit") is None
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'asked', () => 'refused')") == "refused"
    assert len([text for text in browser.complaints() if "Content Security Policy" in text]) >= 3


def test_headings_sort_and_say_so(browser, page):
    browser.open(page)
    start = _names(browser)
    click = "[...document.querySelectorAll('#board thead button')].find((b) => b.textContent.trim() === '{}').click()"
    browser.run(click.format("RetFail"))
    assert _names(browser) == ["Clean", "Compromised", "eraser", "good", "lazy", "broken", "Theirs [1]"]
    assert browser.run("document.querySelector('#board th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    assert "Sorted by RetFail, ascending" in browser.run("document.getElementById('board-said').textContent")
    browser.run(click.format("RetFail"))
    # What was not measured stays last whichever way.
    assert _names(browser) == ["Clean", "Compromised", "lazy", "good", "eraser", "broken", "Theirs [1]"]
    browser.run(click.format("#"))
    assert _names(browser) == start


def test_the_table_can_be_narrowed(browser, page):
    browser.open(page)
    browser.run(
        "(() => { const box = document.getElementById('narrow'); box.value = 'ERA'; box.dispatchEvent(new Event('input')); })()"
    )
    assert _names(browser) == ["Clean", "Compromised", "eraser"]


def test_the_theme_follows_the_system_until_one_is_chosen(browser, page):
    browser.open(page)
    background = "getComputedStyle(document.body).backgroundColor"
    button = "document.getElementById('theme')"
    scheme = "Emulation.setEmulatedMedia"
    light = browser.run(background)
    browser.call(scheme, features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = browser.run(background)
    assert dark != light
    browser.run(f"{button}.click()")  # light, whatever the system says
    assert (browser.run(background), browser.run(f"{button}.textContent")) == (light, "Theme: Light")
    browser.call(scheme, features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.run(f"{button}.click()")
    assert (browser.run(background), browser.run(f"{button}.textContent")) == (dark, "Theme: Dark")
    browser.open(page)
    assert browser.run(background) == dark  # remembered
    browser.draw_everything()
    text = browser.run("getComputedStyle(document.querySelector('#trade-off .xtick text')).fill")
    assert text == browser.run("getComputedStyle(document.body).color")
    browser.run("localStorage.clear()")


def test_a_run_is_chosen_from_the_table_the_list_and_the_buttons(browser, page):
    browser.open(page)
    title = "document.getElementById('close-title').textContent"
    browser.run("document.querySelector('#board a[data-row=\"4\"]').click()")
    chosen = browser.run(title)
    assert chosen == browser.run("document.querySelectorAll('#board tbody tr')[4].cells[0].querySelector('a').textContent")
    browser.run("document.getElementById('run-after').click()")
    assert browser.run(title) != chosen
    browser.run("document.getElementById('run-before').click()")
    assert browser.run(title) == chosen
    browser.run(
        "(() => { const s = document.getElementById('run'); s.value = [...s.options].find((o) => o.text.startsWith('eraser')).value; s.dispatchEvent(new Event('change')); })()"
    )
    assert "nobody asked to remove" in browser.run("document.getElementById('close-words').textContent")
    assert browser.run("document.querySelectorAll('#close-associations .thumbs img').length") > 0
    browser.draw_everything()
    assert browser.complaints() == []


def test_every_chart_has_its_numbers_as_a_table(browser, page):
    browser.open(page)
    cards = "[...document.querySelectorAll('.card')].filter((c) => c.offsetParent && c.querySelector('.chart') && !c.querySelector('#costs') && !c.closest('.two:not(#close-curves)'))"
    browser.run(f"{cards}.forEach((card) => {{ card.querySelector('details').open = true; }})")
    browser.wait_for(f"{cards}.every((card) => card.querySelectorAll('details td').length > 0)")
    assert browser.run(f"{cards}.length") >= 10
    browser.run("document.getElementById('close-map-table').open = true")
    browser.wait_for("document.querySelectorAll('#close-map-table td').length > 0")
    assert browser.run(
        "document.querySelectorAll('.chart[role=img][aria-label]').length === document.querySelectorAll('.chart').length"
    )


def test_every_control_can_be_reached_and_has_a_name(browser, page):
    browser.open(page)
    nameless = (
        "[...document.querySelectorAll('a, button, select, input, summary')].filter((e) => e.offsetParent)"
        ".filter((e) => e.tabIndex < 0 || !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length))).map((e) => e.outerHTML)"
    )
    assert browser.run(nameless) == []
    assert browser.run("[...document.querySelectorAll('img')].every((image) => image.alt)")
    levels = browser.run("[...document.querySelectorAll('h1,h2,h3,h4,h5')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_hostile_names_stay_text(browser, tmp_path):
    runs = [
        record(EVIL, {**COMPROMISED, "RetFail": 0.01}, summary=EVIL, family=EVIL, options={EVIL: EVIL}, seed=1),
        record("failed", {}, status="failed", error=EVIL),
    ]
    page = _page(
        tmp_path, [*with_published(published(EVIL, {"RetFail": 0.1}, EVIL, note=EVIL)), *runs], EVIL.replace("{", "") + "{0}"
    )
    history = tmp_path / "runs" / "run-002" / "history.json"
    history.write_text(re.sub('"forget"', '"<img src=x onerror=hit()>"', history.read_text()))
    loaded = load_records(tmp_path)
    write_reports(tmp_path, compare_records(loaded.records), zip(loaded.records, loaded.files, strict=True))
    browser.open(page)
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    browser.draw_everything()
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.run("window.hit") is None
    assert browser.run("document.querySelectorAll('img[onerror], main script, main b img').length") == 0
    assert browser.complaints() == []
    assert browser.requests() == [page.resolve().as_uri()]
    for place in ("#board", "#close-title", "#close-associations", "#close-options", "#cost ~ .wide"):
        assert EVIL in browser.run(f"document.querySelector({place!r}).textContent"), place


def test_a_narrow_screen_scrolls_tables_and_not_the_page(page):
    with Chromium(390, 844) as phone:
        phone.open(page)
        phone.draw_everything()
        assert phone.run("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
        assert phone.complaints() == []
        # Name, verdict and score are there without scrolling.
        assert phone.run("document.querySelector('#board thead th:nth-child(4)').getBoundingClientRect().right") <= 390


def test_no_label_of_a_line_is_cut_where_clean_and_compromised_lie_at_one_end(browser, tmp_path):
    runs = [*references(), record("low", {**COMPROMISED, "VisIdInt": -0.5, "GenKnow": 0.1, "RetFail": 0.9})]
    browser.open(_page(tmp_path, runs))
    browser.draw_everything()
    cut = """[...document.querySelectorAll('.chart .annotation')].filter((label) => {
        const inner = label.getBoundingClientRect(), outer = label.closest('.chart').getBoundingClientRect();
        return inner.left < outer.left || inner.right > outer.right; }).map((label) => label.textContent)"""
    assert browser.run("document.querySelectorAll('.chart .annotation').length") == 12
    assert browser.run(cut) == []


def test_the_answer_stands_before_notes_and_the_learning_rate_has_an_axis_of_its_own(browser, page):
    browser.open(page)
    browser.draw_everything()
    assert (
        browser.run("document.querySelector('main > p.glance').compareDocumentPosition(document.querySelector('.note'))")
        == 4
    )
    cards = "[...document.querySelectorAll('#close-curves .card')]"
    found = browser.run(
        f"{cards}.map((card) => [card.querySelector('b').textContent, card.querySelector('.chart').data.map((d) => d.name)])"
    )
    assert found[1:] == [["Learning rate", ["lr"]]]
    assert found[0][0] == "Training"
    assert "lr" not in found[0][1]


def test_names_are_not_broken_up_where_several_seeds_fill_the_table(tmp_path):
    name = "selective-synaptic-dampening"
    several = [record(name, {**COMPROMISED, "RetFail": value}, seed=seed) for seed, value in enumerate((0.01, 0.02, 0.03))]
    page = _page(tmp_path, [*references(), *several])
    with Chromium(900, 900) as desktop:
        desktop.open(page)
        link = "[...document.querySelectorAll('#board a')].find((a) => a.textContent.startsWith('selective'))"
        assert desktop.run(f"{link}.getClientRects().length") <= 2


def test_an_old_folder_without_exhibits_opens(browser, tmp_path):
    page = write_reports(tmp_path, compare_records([*references(), record("old", COMPROMISED)]))["html"]
    browser.open(page)
    browser.draw_everything()
    assert "not at hand" in browser.run("document.getElementById('close-nothing').textContent")
    assert browser.run("document.getElementById('close-nothing').hidden") is False
    assert browser.complaints() == []
