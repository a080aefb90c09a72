"""Reports: complete, self-contained, safe, and made without torch."""

import base64
import gzip
import hashlib
import html
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from markdown_it import MarkdownIt
from plotly.offline import get_plotlyjs
from rich.console import Console

from records import CLEAN, COMPROMISED, published, record, references, with_published
from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.selection import first_rows
from salmu_core.records.store import load_records
from salmu_core.report.charts import front, trade_off, trade_off_table
from salmu_core.report.markdown import render_markdown
from salmu_core.report.report import Live, _json, lying_beside, render_html, write_reports
from salmu_core.report.table import leaderboard_renderables
from showings import write_results

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def comparison():
    good = record("good", {**COMPROMISED, "RetFail": 0.01, "AssocStr": 0.15, "InterIdSim": 0.25}, seed=0)
    return compare_records([*references(), good, record("broken", {}, status="failed", error="boom")])


def test_files_are_written(tmp_path, comparison):
    files = write_reports(tmp_path, comparison)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leaderboard.json", "leaderboard.md", "report.html"]
    content = json.loads(files["json"].read_text())
    assert [row["title"] for row in content["rows"]] == ["Clean", "Compromised", "good", "broken"]


def test_the_page_needs_nothing_from_elsewhere(comparison):
    page = render_html(comparison)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    packed = re.search(r'<script type="application/octet-stream" id="plotly">(.*?)</script>', page).group(1)
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()


def test_the_page_may_run_its_own_scripts_only(comparison):
    page = render_html(comparison)
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page).group(1))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    for script in (re.findall(r"<script>(.*?)</script>", page, re.S)[0], get_plotlyjs()):
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in rules["script-src"]
    assert "connect-src" not in rules
    assert "connect-src 'self'" in html.unescape(render_html(comparison, live=Live("v")))


def test_pages_differ_in_nothing_but_the_minute(comparison):
    pages = [re.sub(r"made [-0-9: ]+UTC", "", render_html(comparison)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_the_front_holds_ranked_rows_that_no_other_beats():
    values = {"a": (0.01, 0.25), "b": (0.1, 0.30), "worse": (0.1, 0.2), "broken": (0.001, 0.32)}
    runs = [
        record(
            name,
            {**COMPROMISED, "RetFail": r, "AssocStr": 0.22 if name == "b" else 0.1417, "InterIdSim": i, "IntraIdSim": i},
        )
        for name, (r, i) in values.items()
    ]
    runs[3] = record("broken", {**COMPROMISED, "RetFail": 0.001, "GenKnow": 0.1})  # catastrophic: never on the front
    table = trade_off_table(compare_records([*references(), *runs]))
    assert [row[0] for row in table["rows"] if row[-1] == "yes"] == ["a", "b"]
    assert next(row for row in table["rows"] if row[0] == "b")[1:3] == [
        f"{1 - (0.22 - 0.1417) / 0.1798:.3f}",  # AssocStr, farther away than RetFail
        f"{1 - (0.321 - 0.30) / 0.178:.3f}",
    ]


def test_ties_and_commands_of_whole_rows_are_shown():
    runs = [record(name, {**COMPROMISED, "RetFail": value}) for name, value in (("a", 0.05), ("b", 0.06), ("c", 0.2))]
    comparison = compare_records([*references(), *runs])
    places = [(None, None, 1), (None, None, 1), (1, 1, 2), (1, 1, 2), (3, 2, 1)]
    rows = tuple(
        row.model_copy(
            update={
                "rank": rank, "tie_group": group, "tied": tied, "command": "salmu compare all", "wins": 2, "ties": 0, "losses": 0
            }
        )
        for row, (rank, group, tied) in zip(comparison.rows, places, strict=True)
    )  # fmt: skip
    page = render_html(comparison.model_copy(update={"rows": rows}))
    assert re.findall(r'<td data-value="\d+">([^<]*)</td>', page) == ["", "", "=1", "=1", "3"]
    assert len(re.findall(r'<tr class="run first-of-tie">', page)) == 2
    again = page[page.index('id="again"') :]
    assert again.count("salmu compare all") >= 3
    assert "better than 2 other rows, not to be told from 0, worse than 0" in page


def test_many_rows_are_not_all_labelled():
    runs = [
        record(f"m{n:02d}", {**COMPROMISED, "RetFail": 0.2 - 0.005 * n, "InterIdSim": 0.2 + 0.002 * n}) for n in range(30)
    ]
    chart = trade_off(compare_records([*references(), *runs]))
    points = [trace for trace in chart["data"] if "markers" in trace["mode"]]
    assert {text for trace in points for text in trace["text"]} == {"", "Clean", "Compromised", "m29"}
    assert {names[2] for trace in points for names in trace["customdata"]} >= {f"m{n:02d}" for n in range(30)}


def test_the_page_shows_every_row_value_and_reason(comparison):
    page = render_html(comparison)
    for row in comparison.rows:
        assert f">{row.title}" in page
    assert "moved 40% of the way" in page
    assert "forgetting mean 0.333, " in page
    assert "boom" in page


def test_names_from_plugins_cannot_inject_markup():
    evil = record(EVIL, {**COMPROMISED, "RetFail": 0.01}, summary=EVIL, family=EVIL, options={"x": EVIL})
    page = render_html(compare_records([*references(), evil]))
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1)
    assert "<img" not in data
    assert json.loads(data)["charts"]["costs"]["data"][0]["y"] == [EVIL.replace("<", "&lt;").replace(">", "&gt;")]


def test_the_markdown_table_has_one_width(comparison):
    table = [line for line in render_markdown(comparison).splitlines() if line.startswith("|")][:6]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


@pytest.mark.parametrize("width", [80, 120, 160])
def test_the_terminal_table_fits_and_names_every_row(comparison, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for renderable in leaderboard_renderables(comparison, width):
        console.print(renderable)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert all(row.title in text for row in comparison.rows)


def test_at_80_columns_names_are_broken_after_hyphens_alone(comparison):
    names = ("selective-synaptic-dampening", "direct-similarity-minimisation", "caption-null-space-retain-and-more")
    runs = [record(name, {**COMPROMISED, "RetFail": 0.1}) for name in names]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for renderable in leaderboard_renderables(compare_records([*references(), *runs]), 80):
        console.print(renderable)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    whole = re.compile("(?:" + "|".join({piece for name in names for piece in re.findall(r"[a-z]+-?", name)}) + ")+")
    shown = [word for word in re.findall(r"[a-z]+(?:-[a-z]*)+", text) if any(word[:6] in name for name in names)]
    assert len(shown) > 10
    assert all(whole.fullmatch(word) for word in shown)
    assert "gotten" in text
    assert "params" not in text  # the files and wide terminals have what runs cost
    assert "stand in the files" in text


@pytest.fixture
def with_others():
    return compare_records(
        [
            *with_published(
                published("Clean", CLEAN, "The <paper>", reference="clean"),
                published("Compromised", COMPROMISED, "The <paper>", reference="compromised"),
                published("CLIPErase 5x", {"RetFail": 0.001, "InterIdSim": 0.024, "IntraIdSim": 0.024}, "The <paper>"),
            ),
            record("good", {**COMPROMISED, "RetFail": 0.01, "InterIdSim": 0.25}),
        ]
    )


def test_published_rows_are_marked_in_every_format_and_their_source_is_named(with_others):
    page, text = render_html(with_others), render_markdown(with_others)
    assert len(re.findall(r'<tr class="published[^"]*">', page)) == 3
    assert ">CLIPErase 5x [1]" in page
    assert page.count("[1] The &lt;paper&gt;") == 1
    assert "| CLIPErase 5x [1] |" in text
    assert text.count("*published* |") == 3
    assert "- [1] The &lt;paper&gt;" in text  # as in HTML
    for width in (80, 140):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(*leaderboard_renderables(with_others, width))
        shown = console.export_text()
        assert max(map(len, shown.splitlines())) <= width
        assert "CLIPErase 5x [1]" in shown
        assert "[1] The <paper>" in shown


def test_published_references_are_no_points_and_published_methods_are_a_group_of_their_own(with_others):
    page = render_html(with_others)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))
    charts = data["charts"]
    groups = {trace["name"]: trace["text"] for trace in charts["trade-off"]["data"]}
    assert groups["published"] == ["CLIPErase 5x [1]"]
    assert groups["reference"] == ["Clean", "Compromised"]
    assert charts["strip-0"]["data"][0]["y"] == ["CLIPErase 5x [1]", "good"]
    assert charts["costs"]["data"][0]["y"] == ["good"]


def test_reports_are_made_without_torch_or_plugins(tmp_path, comparison):
    others = with_published(published("CLIPErase 5x", {"RetFail": 0.001}))
    for number, item in enumerate([*others, record("m", COMPROMISED)]):
        from salmu_core.records.store import write_record

        write_record(tmp_path / str(number), item)
    code = (
        "import sys; from salmu_core.cli.main import cli; cli.main(['report', sys.argv[1]], standalone_mode=False);"
        "heavy = {'torch', 'open_clip', 'accelerate', 'salmu_core.plugins.loading'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "leaderboard" in done.stdout
    assert "CLIPErase 5x [1]" in done.stdout  # records alone carry what others published
    assert (tmp_path / "report.html").is_file()


def test_markdown_escapes_what_names_may_hold(tmp_path):
    name = "<img src=x onerror=alert(1)> a|b `c` *d* [e](http://f) &lt; g_h _i_"
    text = render_markdown(compare_records([*references(), record(name, COMPROMISED)]))
    title = r"&lt;img src=x onerror=alert(1)&gt; a\|b \`c\` \*d\* [e\](http://f) &amp;lt; g_h \_i\_"
    assert f"| {title} |" in text
    assert "<img" not in text.split("Each row again:")[0]


HOSTILE = ("~~x~~", "**a** __a__ _a_ *", "`a` `` ` ``", "![a](http://e.x) [a][b] [x]: http://e.x", "<http://e.x> <b>x</b> <!-- x", "a|b \\",
           "# h", "- l", "1. l", "> q", "&lt; \\*a*", "*** ---", "a  \nb")  # fmt: skip


def test_a_reader_of_markdown_sees_names_as_they_are():
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])

    def read(name):
        page = reader.render(render_markdown(compare_records([*references(), record(name, COMPROMISED)])))
        return Counter(re.findall(r"<[^>]+>", page)), html.unescape(re.sub(r"<[^>]+>", "", page))

    plain, _ = read("plain")
    for name in HOSTILE:
        tags, text = read(name)
        assert tags == plain, name
        assert " ".join(name.split()) in text, name


def test_a_command_cannot_close_the_block_of_commands():
    run = record("m", COMPROMISED)
    command = "salmu run m ```\n<script>"
    run = run.model_copy(update={"provenance": run.provenance.model_copy(update={"command": command})})
    text = render_markdown(compare_records([*references(), run]))
    assert text.endswith("salmu run m ``` <script>\n````\n")
    assert "\n````bash\n" in text


@pytest.mark.parametrize("seed", range(3))
def test_the_front_is_what_no_other_row_beats_in_both_directions(seed):
    places = np.random.default_rng(seed).integers(0, 6, (40, 2)).tolist()
    row = compare_records([*references(), record("m", {**COMPROMISED, "RetFail": 0.1})]).rows[2]
    row = row.model_copy(update={"verdict": "selective"})
    found = front([(row, x, y) for x, y in places])
    beaten = [any(ox >= x and oy >= y and (ox, oy) != (x, y) for ox, oy in places) for x, y in places]
    left = sorted((x, y) for (x, y), lost in zip(places, beaten, strict=True) if not lost)
    assert [(x, y) for _, x, y in found] == left


def test_a_terminal_shows_the_first_rows_and_says_how_many_are_left():
    comparison = compare_records([*references(), *(record(f"m{n}", COMPROMISED) for n in range(4))])
    fewer, left = first_rows(comparison, 3)
    assert left == 1
    assert [row.title for row in fewer.rows] == [row.title for row in comparison.rows][:5]
    assert first_rows(comparison, 4) == (comparison, 0)


def test_a_page_holds_what_lies_beside_the_best_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("salmu_core.report.report.MOST_UP_CLOSE", 1)
    write_results(tmp_path, [*references(), record("good", {**COMPROMISED, "RetFail": 0.1}), record("poor", COMPROMISED)])
    loaded = load_records(tmp_path)
    found = lying_beside(compare_records(loaded.records), zip(loaded.records, loaded.files, strict=True))
    assert set(found.exhibits) == {"none-0-1.0-clean", "none-0-1.0", "good-0-1.0"}
    assert "The best 1 of 2 runs" in found.problems[-1]


def test_no_name_in_the_data_of_a_page_turns_what_stands_beside_it_or_ends_the_script():
    kept = _json({"\u202e</script>\u2028": ["\x1b", "张"]})
    assert not {"\u202e", "\u2028", "\x1b", "<"} & set(kept)
    assert json.loads(kept) == {"\ufffd</script>\ufffd": ["\x1b", "张"]}
