"""Requests one after another, and what a deletion means for stored vectors."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deletion_plugins import toy_plugins
from own_data import make_model, make_rows, ordinary_rows, write_csv
from salmu_core.cli.main import cli
from salmu_core.errors import BadOptions, BadRecord
from salmu_core.files.writing import write_sealed_json
from salmu_core.records.store import read_record
from salmu_core.runner.run import Settings
from salmu_deletion.forget import check, forget, own_data, plan, settings_for
from salmu_deletion.own_data.chain import REQUEST_FILE, ChainReport, judge_drift, judge_earlier, read_request
from salmu_deletion.own_data.index_report import advise, neighbours_kept, report_on

COLUMNS = {"image": "photo", "caption": "text", "identity": "person_id"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tables, and the first request: the folder, what is given for every request, and what came of the first."""
    place = tmp_path_factory.mktemp("chain")
    kept = [*ordinary_rows(place, 60), *make_rows(place, people=4, first=10)]
    write_csv(place / "first.csv", make_rows(place))
    write_csv(place / "second.csv", make_rows(place, first=20))
    given = {"retain": str(write_csv(place / "retain.csv", kept)), "columns": COLUMNS}
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SALMU_CACHE", str(place / "cache"))
        first = _forget(given, place / "1", model=str(make_model(place / "model")), forget=str(place / "first.csv"))
    untouched = tmp_path_factory.mktemp("untouched") / "chain"
    shutil.copytree(place, untouched)
    return place, given, first, untouched


@pytest.fixture
def place(made):
    """Where everything lies. It is put back when a test is done: records hold paths, so a copy elsewhere would be another chain."""
    place, *_, untouched = made
    yield place
    shutil.rmtree(place)
    shutil.copytree(untouched, place)


@pytest.fixture
def given(place, made):
    return made[1]


@pytest.fixture
def first(place, made):
    return made[2]


def _forget(given, out, method="ascent", **more):
    plugins = toy_plugins()
    how = settings_for(out, Settings(cpu=True))
    benchmark = own_data(how, **given, **more)
    return forget(benchmark, plan(benchmark, method, plugins, settings=how), out, settings=how, plugins=plugins)


def test_a_second_request_starts_from_the_first_ones_model_and_measures_its_pairs(given, first, place):
    second = _forget(given, place / "2", after=first.folder, forget=str(place / "second.csv"))
    assert second.record.provenance.start_fingerprint == first.record.provenance.model_fingerprint
    assert second.record.scores["EarlierMRR"].n == 6  # the first request's pairs, not its own
    assert not second.record.scores["EarlierMRR"].scored
    chain = second.request["chain"]
    assert (chain["requests"], chain["earlier_rows"], chain["unmeasured"]) == (2, 6, [])
    # Before: the first run's model on its own pairs, which it measured itself as ForgetMRR. First: its Compromised row.
    assert chain["earlier"]["before"] == pytest.approx(first.record.scores["ForgetMRR"].value)
    assert chain["earlier"]["first"] == pytest.approx(first.references["compromised"].scores["ForgetMRR"].value)
    # Never learned: the same pairs with other people's pictures, in the first model, as the first request measured it.
    assert chain["earlier"]["never"] == pytest.approx(first.references["clean"].scores["ForgetMRR"].value)
    assert chain["drift"]["first"] == pytest.approx(first.references["compromised"].scores["RetainMRR"].value)
    assert chain["drift"]["before"] == pytest.approx(first.record.scores["RetainMRR"].value)
    assert chain["drift"]["now"] == second.record.scores["RetainMRR"].value
    assert "Earlier requests" in (second.folder / "request.html").read_text()
    assert read_request(second.folder) == second.request
    # A third one carries both.
    write_csv(place / "third.csv", make_rows(place, first=30))
    third = _forget(given, place / "3", after=second.folder, forget=str(place / "third.csv"))
    assert third.request["chain"]["requests"] == 3
    assert third.record.scores["EarlierMRR"].n == 12
    assert third.request["chain"]["drift"]["first"] == pytest.approx(chain["drift"]["first"])


def test_a_first_request_says_nothing_of_a_chain_and_keeps_its_identity(given, first):
    assert first.request["chain"] is None
    assert "EarlierMRR" not in first.record.scores
    assert "earlier" not in first.record.provenance.benchmark_identity
    assert "Earlier requests" not in (first.folder / "request.html").read_text()


def test_pairs_that_are_gone_are_not_called_forgotten(given, first, place):
    (place / "first.csv").unlink()
    second = _forget(given, place / "2", after=first.folder, forget=str(place / "second.csv"))
    chain = second.request["chain"]
    assert chain["earlier_verdict"] == "not measured"
    assert "first.csv" in chain["unmeasured"][0]
    assert chain["drift_verdict"] == "within the budget"  # of the retain rows, which are here
    assert second.record.skipped["EarlierMRR"]


def test_a_changed_table_is_not_taken_for_the_earlier_request_but_a_changed_retain_is_no_matter(given, first, place):
    write_csv(place / "retain.csv", [*ordinary_rows(place, 50), *make_rows(place, people=4, first=10)])
    second = _forget(given, place / "2", after=first.folder, forget=str(place / "second.csv"))
    assert second.request["chain"]["unmeasured"] == []
    write_csv(place / "first.csv", make_rows(place, people=2))
    third = _forget(given, place / "3", after=first.folder, forget=str(place / "second.csv"))
    assert "is not what it was" in third.request["chain"]["unmeasured"][0]
    assert third.record.id != second.record.id  # what must stay forgotten is part of a run's identity


def test_pairs_of_earlier_requests_among_those_to_keep_stop_the_run(given, first, place):
    rows = [*ordinary_rows(place, 60), *make_rows(place, people=1)]
    noted = PngInfo()
    noted.add_text("Comment", "the same pixels in another file")
    with Image.open(place / rows[-1]["photo"]) as image:
        image.save(place / "photos" / "copy.png", pnginfo=noted)
    rows[-1]["photo"] = "photos/copy.png"
    write_csv(place / "retain.csv", rows)
    how = settings_for(place / "2", Settings(cpu=True))
    benchmark = own_data(how, **given, after=first.folder, forget=str(place / "second.csv"))
    errors = [finding for finding in check(benchmark, toy_plugins()) if finding.severity == "error"]
    assert [finding.message.split(",")[0] for finding in errors] == ["retain: 2 rows are pairs of earlier requests"]
    assert "row 61 (photos/0-0.png), row 62 (photos/copy.png)" in errors[0].message


def test_model_and_after_exclude_each_other_and_after_takes_a_run(given, first, place):
    with pytest.raises(BadOptions, match="Leave --model out"):
        own_data(Settings(cpu=True), **given, model="x", after=first.folder, forget="second.csv")
    with pytest.raises(BadRecord):
        _forget(given, place / "2", after=place / "model", forget=str(place / "second.csv"))


def test_a_chain_that_leads_back_to_itself_is_refused(given, first, place):
    record = read_record(first.folder)
    options = {**record.spec.benchmark_options, "after": str(first.folder)}
    from salmu_core.records.store import write_record

    write_record(
        first.folder, record.model_copy(update={"spec": record.spec.model_copy(update={"benchmark_options": options})})
    )
    with pytest.raises(BadRecord, match="leads back"):
        _forget(given, place / "2", after=first.folder, forget=str(place / "second.csv"))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        # first, before, now, never: shares of the way to the first model by hand
        ((0.8, 0.2, 0.3, 0.2), "stays forgotten"),  # 0 -> 1/6
        ((0.8, 0.2, 0.5, 0.2), "came back"),  # 0 -> 1/2
        ((0.8, 0.1, 0.33, 0.2), "came back"),  # beyond never learned counts as 0 before; 0.217 of the way now
        ((0.8, 0.7, 0.74, 0.2), "was not forgotten"),  # 0.833 -> 0.9
        ((0.8, 0.5, 0.7, 0.2), "came back"),  # 0.5 -> 0.833
        ((0.21, 0.2, 0.9, 0.2), "little to forget"),
        ((0.8, None, 0.3, 0.2), "not measured"),
    ],
)
def test_earlier_requests_are_judged_by_how_far_they_came_back(values, verdict):
    assert judge_earlier(*values) == verdict


def test_the_budget_is_one_for_the_whole_chain():
    assert judge_drift(0.9, 0.8, 0.1000001) == "within the budget"
    assert judge_drift(0.9, 0.79, 0.1) == "over the budget"
    assert judge_drift(0.9, 0.95, 0.0) == "within the budget"
    values = {"first": 0.8, "before": 0.2, "now": 0.5, "never": 0.2}
    report = ChainReport(2, 6, (), values, "came back", {"first": None, "before": None, "now": 0.5}, 0.1, "not measured")
    assert not report.good
    assert report.sentences()[0][1].startswith("No, they came back")


def test_the_command_says_it_at_80_columns_and_ends_with_3_over_budget(given, first, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = ["forget", "--after", str(first.folder), "--forget", str(place / "second.csv"), "--retain", given["retain"]]
    words += ["--columns", "image=photo,caption=text,identity=person_id", "--method", "none", "--cpu"]
    from salmu_core.plugins.loading import load_plugins

    assert load_plugins().methods
    done = CliRunner().invoke(
        cli,
        [*words[:-3], "--method", "gradient-ascent", "--cpu", "--passes", "1", "--out", str(place / "2")],
        catch_exceptions=False,
        standalone_mode=False,
    )
    said = " ".join(done.stdout.split())
    assert "Do earlier requests stay forgotten?" in said
    assert "Is the drift of all requests together within the budget?" in said
    assert "May an index of picture vectors stay?" in said
    assert max(map(len, done.stdout.replace(str(place), "").splitlines())) <= 80
    record = read_record(place / "2")
    request = json.loads((place / "2" / "request.json").read_text())
    assert done.return_value == (0 if request["chain"]["good"] else 3)
    fall = request["chain"]["drift"]["first"] - record.scores["RetainMRR"].value
    assert (request["chain"]["drift_verdict"] == "over the budget") == (fall > 0.1)


# ------------------------------------------------------------------ stored vectors


def unit(rows) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(rows), dtype=torch.float32), dim=-1)


def plain_kept(asked, old, new, count, own):
    """One question and one index at a time."""
    found = 0
    for row, question in enumerate(asked.numpy().astype(float)):
        nearest = []
        for index in (old, new):
            order = sorted(
                (place for place in range(len(index)) if not (own and place == row)),
                key=lambda place, index=index, question=question: -float(index[place].numpy().astype(float) @ question),
            )
            nearest.append(set(order[:count]))
        found += len(nearest[0] & nearest[1])
    return found / (len(asked) * count)


@pytest.mark.parametrize("own", [True, False])
def test_neighbours_are_those_of_the_new_question_in_both_indices(own):
    generator = np.random.default_rng(3)
    old = unit(generator.normal(size=(40, 6)))
    new = unit(old.numpy() + 0.3 * generator.normal(size=(40, 6)))
    asked = new if own else unit(generator.normal(size=(40, 6)))
    found = neighbours_kept(asked, old, new, 5, own=own)
    assert found == pytest.approx(plain_kept(asked, old, new, 5, own), abs=1e-9)
    assert 0.3 < found < 0.95


def test_an_unchanged_model_keeps_everything_and_a_turned_one_keeps_its_own_neighbours_only():
    generator = np.random.default_rng(4)
    image, text = unit(generator.normal(size=(80, 6))), unit(generator.normal(size=(80, 6)))
    same = report_on(
        {"image": image, "text": text}, {"image": image, "text": text}, unchanged={"image": False, "text": False}
    )
    assert same.image.kept == {"image": 1.0, "text": 1.0}
    assert same.image.advice == "may stay"
    assert same.image.cosine["smallest"] == pytest.approx(1, abs=1e-6)
    # All vectors mirrored: relations between them are the same, but stored ones do not meet new questions any more.
    turned = report_on(
        {"image": image, "text": text}, {"image": -image, "text": -text}, unchanged={"image": False, "text": False}
    )
    assert turned.image.cosine["mean"] == pytest.approx(-1, abs=1e-6)
    assert turned.image.advice == "re-embed"
    assert turned.sentences()[0][1].startswith("No, make it anew")


def test_an_encoder_that_was_not_changed_leaves_its_index_as_it_is():
    generator = np.random.default_rng(5)
    image, text, other = (unit(generator.normal(size=(60, 6))) for _ in range(3))
    report = report_on(
        {"image": image, "text": text}, {"image": image, "text": other}, unchanged={"image": True, "text": False}
    )
    assert report.image.advice == "may stay"
    assert report.image.kept == {
        "image": 1.0,
        "text": 1.0,
    }  # a new caption finds the same pictures in an index of equal vectors
    assert report.text.advice == "re-embed"
    assert report.as_json()["thresholds"] == {"may stay": 0.95, "re-embed soon": 0.8, "fewest rows": 50}


@pytest.mark.parametrize(
    ("rows", "kept", "advice"),
    [
        (50, 0.95, "may stay"),
        (50, 0.9499, "re-embed soon"),
        (50, 0.8, "re-embed soon"),
        (50, 0.79, "re-embed"),
        (49, 1, "too few rows to tell"),
    ],
)
def test_thresholds_of_the_advice(rows, kept, advice):
    assert advise(rows, kept, unchanged=False) == advice


# ------------------------------------------------------------------ certificates


def _certify(run, plugins):
    from salmu_core.files.writing import write_json
    from salmu_deletion.certificate.content import certificate_content
    from salmu_deletion.certificate.sealed import seal

    sealed = seal(certificate_content(run, plugins=plugins))
    write_json(run / "certificate.json", sealed)
    return sealed


def test_certificates_name_the_one_before_by_its_hash_and_verify_follows_them(given, first, place):
    pytest.importorskip("rfc8785")
    from salmu_deletion.certificate.page import render_page
    from salmu_deletion.certificate.verify import verify

    second = _forget(given, place / "2", after=first.folder, forget=str(place / "second.csv"))
    plugins = toy_plugins()
    early = _certify(second.folder, plugins)
    assert early["content"]["predecessor"]["certificate_sha256"] is None
    assert [check.outcome for check in verify(second.folder / "certificate.json")][3:] == ["not checked"]

    one, two = _certify(first.folder, plugins), _certify(second.folder, plugins)
    assert one["content"]["predecessor"] is None
    assert two["content"]["predecessor"]["certificate_sha256"] == one["sha256"]
    assert two["content"]["request"]["chain"]["requests"] == 2
    page = render_page(two)
    assert one["sha256"] in page
    assert "Do earlier requests stay forgotten?" in page
    checks = verify(second.folder / "certificate.json")
    assert [(check.what, check.outcome) for check in checks[3:]] == [("request 1 before", "good")]
    assert [check.what for check in verify(first.folder / "certificate.json")] == ["content", "signature", "weights"]

    # Elsewhere it has to be named; what is named and not there is bad.
    moved = place / "elsewhere" / "certificate.json"
    moved.parent.mkdir()
    (first.folder / "certificate.json").rename(moved)
    (place / "nothing").mkdir()
    outcome = lambda *earlier: verify(second.folder / "certificate.json", earlier=earlier)[3].outcome  # noqa: E731
    moved.rename(place / "nothing" / "x.json")
    assert outcome() == "not checked"
    assert outcome(place / "nothing") == "bad"
    assert outcome(place / "nothing" / "x.json") == "good"

    # A certificate that was changed under its old hash, and one of another run under it, are found out.
    changed = json.loads((place / "nothing" / "x.json").read_text())
    changed["content"]["requested"]["rows"] = 1
    (place / "nothing" / "x.json").write_text(json.dumps(changed))
    assert outcome(place / "nothing" / "x.json") == "bad"


def test_a_request_that_was_changed_is_one_error(tmp_path):
    write_sealed_json(tmp_path / REQUEST_FILE, {"record": "r", "chain": {"drift": 0.05}})
    assert read_request(tmp_path) == {"record": "r", "chain": {"drift": 0.05}}
    text = (tmp_path / REQUEST_FILE).read_text()
    (tmp_path / REQUEST_FILE).write_text(text.replace("0.05", "0.04"))
    with pytest.raises(BadRecord, match="changed after it was written"):
        read_request(tmp_path)
