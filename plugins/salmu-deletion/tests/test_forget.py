"""salmu forget from tables to a model that others load."""

import json
import sys
import types
import warnings

import open_clip
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from deletion_plugins import toy_plugins
from own_data import make_model, make_rows, ordinary_rows, write_csv
from salmu_core.cli.main import cli, main
from salmu_core.errors import BadData, BadOptions, OutputError
from salmu_core.models.loading import load_model
from salmu_core.records.store import read_record
from salmu_core.runner.run import Settings
from salmu_deletion.forget import _too_small, forget, own_data, plan, settings_for, write_transformers
from salmu_deletion.statements import verdict_of
from toy_methods import Ascent

COLUMNS = {"image": "photo", "caption": "text", "identity": "person_id"}


@pytest.fixture
def given(tmp_path):
    rows = make_rows(tmp_path)
    kept = [*ordinary_rows(tmp_path), *make_rows(tmp_path, people=4, first=10), {**rows[0], "text": "Person 0 smiles"}]
    return {
        "model": str(make_model(tmp_path / "model")),
        "forget": str(write_csv(tmp_path / "forget.csv", rows)),
        "retain": str(write_csv(tmp_path / "retain.csv", kept)),
        "columns": COLUMNS,
    }


def _forget(given, out, method="ascent"):
    plugins = toy_plugins()
    how = settings_for(out, Settings(cpu=True))
    benchmark = own_data(how, **given)
    return forget(benchmark, plan(benchmark, method, plugins, settings=how), out, settings=how, plugins=plugins)


def test_nobody_is_never_learned_on_a_picture_of_their_own(given, tmp_path):
    """A group photo of the first two, saved twice: the model is given the same pixels."""
    rows = make_rows(tmp_path)
    with Image.open(tmp_path / rows[0]["photo"]) as photo:
        photo.save(tmp_path / "photos" / "again.bmp")
    own = {(row["person_id"], row["photo"]) for row in rows}
    rows[2]["photo"] = "photos/again.bmp"
    write_csv(tmp_path / "forget.csv", rows)
    benchmark = own_data(Settings(cpu=True), **given)
    split = benchmark.never_learned.split("forget")
    files = {benchmark.forget_table.images.read(row): row for row in range(6)}
    shown = [files[split.images.read(row)] for row in range(len(split))]
    assert len(split) == 6
    for person, row in zip(split.columns["identity_id"], shown, strict=True):
        assert (person, rows[row]["photo"]) not in own
        assert not (person in ("p00", "p01") and row in (0, 2))

    for row in rows:
        row["photo"] = "photos/again.bmp"
    write_csv(tmp_path / "forget.csv", rows)
    with pytest.raises(BadData, match="share their pictures"):
        own_data(Settings(cpu=True), **given).never_learned.split("forget")


def test_one_person_is_compared_with_other_people_to_keep(given, tmp_path):
    write_csv(tmp_path / "forget.csv", make_rows(tmp_path, people=1))
    benchmark = own_data(Settings(cpu=True), **given)
    split = benchmark.never_learned.split("forget")
    assert split.texts == ("Person 0: secret 0", "Person 0: secret 1")
    kept = benchmark.retain_table
    lent = {kept.images.read(row): kept.identities[row] for row in range(len(kept))}
    assert {lent[split.images.read(row)] for row in range(2)} <= {"p10", "p11", "p12", "p13"}

    # The only other person who is kept takes the forgotten one's pictures.
    alone = [*ordinary_rows(tmp_path), *make_rows(tmp_path, people=1, facts=4, first=10)]
    write_csv(tmp_path / "retain.csv", alone)
    benchmark = own_data(Settings(cpu=True), **given)
    holdout, forgotten = benchmark.never_learned.split("holdout_identity"), benchmark.forget_table
    assert set(holdout.columns["identity_id"]) == {"p10"}
    lent = {forgotten.images.read(row) for row in range(2)}
    assert {holdout.images.read(row) for row in range(len(holdout))} <= lent
    nobody = ordinary_rows(tmp_path)
    write_csv(tmp_path / "retain.csv", nobody)
    with pytest.raises(BadData, match="one identity"):
        own_data(Settings(cpu=True), **given).never_learned.split("forget")


def test_a_run_measures_before_now_and_never_learned_and_leaves_both_layouts(given, tmp_path):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "out"
    done = _forget(given, out)
    assert done.record.status == "ok"
    assert set(done.references) == {"compromised", "clean"}
    assert done.references["clean"].scores["MeanCosine"].value != done.references["compromised"].scores["MeanCosine"].value
    assert {"ForgetMRR", "RetainMRR"} <= set(done.record.scores)
    assert not (out / "cache").exists()  # private pictures do not stay in a cache
    # The model is the same in salmu, in open_clip and in transformers.
    ours = load_model(out)
    assert ours.fingerprint() == done.record.provenance.model_fingerprint
    tokens = ours.processor.tokenize(["Person 1: secret 0"])
    plain, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out}")
    theirs = transformers.CLIPModel.from_pretrained(done.transformers).eval()
    with torch.inference_mode():
        expected = ours.encode_text(tokens)
        torch.testing.assert_close(plain.eval().encode_text(tokens, normalize=True), expected, atol=2e-6, rtol=0)
        words = transformers.CLIPTokenizer.from_pretrained(done.transformers)(
            ["Person 1: secret 0"], padding="max_length", max_length=16, return_tensors="pt"
        )
        pooled = theirs.get_text_features(**words)
        pooled = getattr(pooled, "pooler_output", pooled)
        torch.testing.assert_close(torch.nn.functional.normalize(pooled, dim=-1), expected, atol=2e-6, rtol=0)
    # And transformers' folder is a model to start from.
    again = load_model(done.transformers).weights()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.weights().items())
    # The same command reads the finished run back.
    written = (out / "record.json").read_bytes()
    assert _forget(given, out).record.id == done.record.id
    assert (out / "record.json").read_bytes() == written


def test_a_transformers_that_cannot_be_imported_ends_no_request(tmp_path, monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise ValueError("No docstring")  # as under python -OO

    make_model(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "transformers", Broken("transformers"))
    target, note = write_transformers(tmp_path / "model")
    assert (target / "config.json").is_file()
    assert "cannot be imported" in note


def test_without_retain_only_methods_that_see_none_run(given, tmp_path):
    del given["retain"]
    with pytest.raises(BadOptions, match="has no retain pairs"):
        _forget(given, tmp_path / "a")
    done = _forget(given, tmp_path / "b", "weight-edit")
    assert done.record.status == "ok"
    assert "RetainMRR" not in done.record.scores


def test_a_folder_with_something_else_is_left_alone(given, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        _forget(given, out)


def test_errors_of_the_tables_stop_everything(given, tmp_path):
    (tmp_path / "photos" / "0-0.png").write_bytes(b"broken")
    with pytest.raises(BadData, match="cannot be decoded"):
        _forget(given, tmp_path / "out")
    assert not (tmp_path / "out" / "record.json").exists()


def test_other_data_at_the_same_place_is_another_run(given, tmp_path):
    plugins, how = toy_plugins(), Settings(cpu=True)
    before = plan(own_data(how, **given), "ascent", plugins, settings=how).id
    assert plan(own_data(how, **given), "ascent", plugins, settings=how).id == before
    write_csv(tmp_path / "forget.csv", make_rows(tmp_path, people=2))
    assert plan(own_data(how, **given), "ascent", plugins, settings=how).id != before


def test_evaluation_rows_are_disjoint_from_what_the_method_sees(given):
    benchmark = own_data(Settings(cpu=True), **given)
    seen = set(benchmark.split("retain").columns["file_name"])
    aside = benchmark.split("retain_validation")
    assert len(aside) > 0
    pairs = {
        (f, t) for f, t in zip(benchmark.split("retain").columns["file_name"], benchmark.split("retain").texts, strict=True)
    }
    assert not pairs & set(zip(aside.columns["file_name"], aside.texts, strict=True))
    assert seen
    others = set(benchmark.split("holdout_identity").columns["identity_id"])
    assert others
    assert not others & set(benchmark.split("forget").columns["identity_id"])


def test_the_command_checks_only_when_asked_and_says_by_its_exit_code(given, tmp_path, monkeypatch):
    monkeypatch.setenv("SALMU_PLUGINS", "salmu-deletion")
    arguments = [
        "forget",
        "--model",
        given["model"],
        "--forget",
        given["forget"],
        "--retain",
        given["retain"],
        "--check-only",
    ]
    arguments += ["--columns", "image=photo,caption=text,identity=person_id"]
    good = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert good.return_value == 0
    assert "6 rows of 3 identities (2 rows each)" in " ".join(good.output.split())
    (tmp_path / "photos" / "1-0.png").unlink()
    bad = CliRunner().invoke(cli, [*arguments, "--json"], standalone_mode=False)
    assert bad.return_value == 1
    assert json.loads(bad.stdout)["findings"][0]["rule"] == "missing picture"


def test_the_command_runs_and_speaks_in_sentences(given, tmp_path, monkeypatch):
    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", toy_plugins)
    out = tmp_path / "out"
    arguments = ["forget", "--model", given["model"], "--forget", given["forget"], "--retain", given["retain"], "--cpu"]
    arguments += ["--columns", "image=photo,caption=text,identity=person_id", "--method", "weight-edit", "--out", str(out)]
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.return_value == 0, done.output
    verdict = verdict_of(
        read_record(out), *(read_record(out / "references" / which).scores for which in ("clean", "compromised"))
    )
    before, asked, _ = done.stdout.partition("Is it forgotten?")
    assert f"\nVerdict: {verdict.name}. " in before  # the answer comes before everything but the check's findings
    assert "Compromised" not in before
    assert asked
    assert f"salmu certificate {out} --pdf" in done.stdout
    assert read_record(out).spec.benchmark == "own-data"


def test_a_missing_method_is_asked_for(given, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["forget", "--model", given["model"], "--forget", given["forget"]])
    assert exit_.value.code == 1
    assert "--method is missing" in capsys.readouterr().err


def test_a_request_that_is_too_small_for_its_method_is_noted(given):
    class Differs(Ascent):
        """Acts on differences between very many pairs."""

        name, fewest_rows = "differs", 99

    plugins, how = toy_plugins(Differs), Settings(cpu=True)
    benchmark = own_data(how, **given)
    for method, notes in (("differs", 1), ("ascent", 0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resolved = plan(benchmark, method, plugins, settings=how)
        assert len(_too_small(benchmark, resolved, plugins)) == notes
