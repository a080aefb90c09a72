"""A leaderboard that others can add to: what is submitted, what a board refuses and why, and the site that it builds."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from salmu_core import FitOptions, Settings, run
from salmu_core.builtin.toy import Toy
from salmu_core.cli.main import cli
from salmu_core.errors import BadOptions, BadRecord, OutputError
from salmu_core.files.seals import file_checksum, read_json
from salmu_core.files.writing import read_tensors, write_sealed_json, write_tensors
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.attacks import AUDITS_FILE, AuditResult, read_attacks, write_attacks
from salmu_core.records.schema import Package, RunSpec
from salmu_core.records.store import read_record, write_record
from salmu_share import Checks, check_board, submit
from salmu_share.board import check
from salmu_share.board.check import check_submission
from salmu_share.board.command import board_command
from salmu_share.board.site import requirements
from salmu_share.board.start import start_board
from salmu_share.board.submission import DELTA_FILE, SUBMISSION_FILE, read_submission
from salmu_share.board.weights import write_delta
from toy_methods import Hooks, toy_plugins


def attack_runs(runs):
    """An attack that gets half of it back from everybody."""
    for _, folder, _ in runs:
        record = read_record(folder)
        load_model(folder)  # a board has put the weights there
        write_attacks(folder, record.provenance.model_fingerprint, [half_back()], {})
    return []


def half_back(value=0.5):
    return AuditResult(audit="toy", summary="", package="t 1", options={}, value=value, clean=0.0, compromised=1.0)


def plugins():
    made = toy_plugins()
    add_plugin(made, Hooks(attack_runs=attack_runs), Package(name="toy-attacks", version="1.0"), "attacks")
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Finished runs, and the submission of two of them."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("board")
    how = {"benchmark": "toy", "settings": Settings(cpu=True, cache=root / "cache"), "plugins": plugins()}
    for start in ("clean", "compromised"):
        run("none", start=start, out=root / "runs" / f"reference-{start}", **how)
    for method in ("weight-edit", "ascent", "explodes"):
        run(method, out=root / "runs" / method, **how)
    run("weight-edit", seed=1, out=root / "runs" / "weight-edit-1", **how)
    folder = root / "runs" / "weight-edit"
    write_attacks(folder, read_record(folder).provenance.model_fingerprint, [half_back()], {"data_dir": "/home/alice"})
    runs = [folder, root / "runs" / "weight-edit-1"]
    submit(runs, root / "submissions", requirement="toy-methods==1.0", authors="Alice", plugins=plugins())
    return root


@pytest.fixture
def place(root, tmp_path):
    """A results repository with that submission."""
    shutil.copytree(root / "submissions", tmp_path / "submissions")
    return tmp_path


@pytest.fixture
def checks(root, tmp_path):
    return Checks(plugins(), tmp_path / "kept", Settings(cpu=True, cache=root / "cache"))


def only(place):
    [folder] = (place / "submissions").iterdir()
    return folder


def first_run(folder):
    return folder / read_submission(folder).runs[0].folder


def sealed_again(folder, **changes):
    """What a forger would do: write every checksum anew."""
    submission = read_submission(folder)
    runs = [
        item.model_copy(
            update={"files": {path.name: file_checksum(path) for path in sorted((folder / item.folder).iterdir())}}
        )
        for item in submission.runs
    ]
    submission.model_copy(update={"runs": tuple(runs), **changes}).write(folder)


def test_a_submission_holds_what_changed_and_gives_the_model_back_bit_for_bit(root, place, checks):
    folder = only(place)
    submission = read_submission(folder)
    assert folder.name.startswith("weight-edit-")
    assert (submission.method, submission.package) == ("weight-edit", Package(name="toy-methods", version="1.0"))
    assert {name for run in submission.runs for name in run.files} == {
        "audits.json", "delta.safetensors", "record.json", "rows.safetensors"
    }  # fmt: skip
    changed = load_file(first_run(folder) / DELTA_FILE)
    assert changed.keys() < load_file(root / "runs" / "weight-edit" / "model.safetensors").keys()
    outcome = check_submission(folder, checks)
    assert (outcome.reason, outcome.words) == (None, "")
    assert [item.replayed for item in outcome.runs] == ["bit for bit", "bit for bit"]
    own = read_record(root / "runs" / "weight-edit")
    assert outcome.runs[0].record.scores == own.scores
    assert outcome.runs[0].record.provenance.model_fingerprint == own.provenance.model_fingerprint
    assert "alice" not in "".join(path.read_text(errors="ignore") for path in folder.rglob("*.json"))
    card = (folder / "README.md").read_text()
    assert card.startswith("# weight-edit\n\n**")
    assert "Submitted by Alice." in card


def test_the_site_shows_what_the_board_measured(place, checks):
    board = check_board(place, checks, site=place / "site")
    [table] = board.tables
    assert table.replayed == {"bit for bit": 2}
    row = next(row for row in table.comparison.rows if row.kind == "run")
    assert (row.title, row.runs, row.recovered) == ("weight-edit", 2, 0.5)
    page = board.index.read_text()
    assert f'data-verdict="{row.verdict}"' in page
    assert f"{table.name}/report.html" in page
    assert "Alice" in page
    assert (place / "site" / table.name / "report.html").is_file()
    [told] = json.loads((place / "site" / "board.json").read_text())["submissions"]
    assert (told["reason"], len(told["runs"])) == (None, 2)


def test_what_holds_is_not_measured_again(place, checks, monkeypatch):
    assert check_submission(only(place), checks).reason is None

    def again(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(check, "evaluate", again)
    monkeypatch.setattr(check, "run_alone", again)
    assert check_submission(only(place), checks).reason is None
    folder = first_run(only(place))  # other weights are another run
    tensors, _ = read_tensors(folder / DELTA_FILE)
    write_tensors(folder / DELTA_FILE, {name: tensor * 1.01 for name, tensor in tensors.items()})
    sealed_again(only(place))
    assert check_submission(only(place), checks).reason == "weights"


def change(folder, **changes):
    """Another record in a run's folder, sealed as salmu seals records."""
    record = read_record(folder)
    write_record(folder, record.model_copy(update=changes))
    return record


def forge(case, root, folder):
    """Make the submission in `folder` a forged one."""
    place = first_run(folder)
    record = read_record(place)
    provenance = record.provenance
    [name] = record.scores
    better = {name: record.scores[name].model_copy(update={"value": 0.01})}
    match case:
        case "a value edited":
            text = (place / "record.json").read_text()
            (place / "record.json").write_text(text.replace(str(record.scores[name].value), "0.01", 1))
            return
        case "a file added":
            (place / "notes.txt").write_text("")
            return
        case "a link":
            (place / "rows.safetensors").unlink()
            (place / "rows.safetensors").symlink_to(root / "runs" / "weight-edit" / "rows.safetensors")
            return
        case "a value edited and sealed":
            change(place, scores=better)
        case "values and rows edited and sealed":
            rows = {f"{name}/rows": torch.full((record.scores[name].n,), 0.01)}
            write_tensors(place / "rows.safetensors", rows)
            change(place, scores=better)
        case "a bad score left out":
            change(place, scores={})
        case "foreign weights":
            write_delta(place, {key: value + 0.01 for key, value in read_tensors(place / DELTA_FILE)[0].items()})
        case "weights of another shape":
            write_delta(place, {"logit_scale": torch.zeros(3)})
        case "foreign weights with their fingerprint":
            clean = Toy().load_model("clean")
            write_delta(place, clean.weights())
            change(place, provenance=provenance.model_copy(update={"model_fingerprint": clean.fingerprint()}))
        case "the Clean model as a result":
            clean = Toy().load_model("clean")
            own = read_record(root / "runs" / "reference-clean")
            write_delta(place, clean.weights())
            shutil.copy(root / "runs" / "reference-clean" / "rows.safetensors", place)
            (place / AUDITS_FILE).unlink()
            change(
                place, scores=own.scores, provenance=provenance.model_copy(update={"model_fingerprint": clean.fingerprint()})
            )
        case "other data":
            change(place, provenance=provenance.model_copy(update={"data_fingerprint": "0" * 32}))
        case "another version of the benchmark":
            change(place, provenance=provenance.model_copy(update={"benchmark_version": "99"}))
        case "a benchmark that nobody has":
            change(place, spec=record.spec.model_copy(update={"benchmark": "easy"}))
        case "another start":
            change(place, provenance=provenance.model_copy(update={"start_fingerprint": {"image": "x", "text": "y"}}))
        case "fewer samples":
            change(place, cost=record.cost.model_copy(update={"samples": {"forget": 1}}))
        case "another method's run":
            change(place, spec=RunSpec(method="ascent", benchmark="toy"))
        case "the weights of another method":
            for item in read_submission(folder).runs:
                own = read_record(folder / item.folder).spec
                spec = own.model_copy(update={"method": "two-stages", "method_options": {}})
                change(folder / item.folder, spec=spec, options=FitOptions().model_dump(mode="json"))
            sealed_again(folder, method="two-stages")
            return
        case "a run that diverged":
            change(place, status="diverged")
        case "another package":
            package = Package(name="toy-methods", version="0.9")
            for item in read_submission(folder).runs:
                of = read_record(folder / item.folder).provenance
                change(folder / item.folder, provenance=of.model_copy(update={"method_package": package}))
            sealed_again(folder, package=package)
            return
        case "attacks that got nothing":
            write_attacks(place, provenance.model_fingerprint, [half_back(0.0)], {})
        case "attacks on another model":
            write_attacks(place, {"image": "x"}, [half_back(0.0)], {})
    sealed_again(folder)


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("a value edited", "changed", r"record\.json' was changed"),
        ("a file added", "changed", r"notes\.txt' is not named"),
        ("a link", "changed", "is a link"),
        ("a value edited and sealed", "run", "have the mean"),
        ("values and rows edited and sealed", "scores", r"MeanCosine 0\.0100, and it is"),
        ("a bad score left out", "scores", "nothing of MeanCosine"),
        ("foreign weights", "weights", "not those that the record names"),
        ("weights of another shape", "weights", "which the model does not have"),
        ("foreign weights with their fingerprint", "scores", "MeanCosine"),
        ("the Clean model as a result", "replay", "MeanCosine"),
        ("other data", "benchmark", "other data"),
        ("another version of the benchmark", "benchmark", "toy 99"),
        ("a benchmark that nobody has", "benchmark", "no benchmark called 'easy'"),
        ("another start", "start", "began from weights"),
        ("fewer samples", "replay", "'forget': 1"),
        ("another method's run", "run", "not of the submission"),
        ("the weights of another method", "replay", "the record says (MeanCosine|.*samples)"),
        ("a run that diverged", "run", "diverged"),
        ("another package", "method", r"with toy-methods 0\.9, and toy-methods 1\.0 is installed here"),
        ("attacks that got nothing", "attacks", "toy recovers 50% here, and 0% is claimed"),
        ("attacks on another model", "attacks", "about another model"),
    ],
)
def test_a_forged_submission_is_refused_for_one_named_reason(root, place, checks, case, reason, words):
    folder = only(place)
    forge(case, root, folder)
    outcome = check_submission(folder, checks)
    assert outcome.runs == ()
    assert outcome.reason == reason, outcome.words
    assert re.search(words, outcome.words), outcome.words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"requirement": "--index-url https://example.org toy"}, "is not a requirement"),
        ({"runs": []}, "runs"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_no_submission_is_refused_for_its_form(place, checks, changes, words):
    path = only(place) / SUBMISSION_FILE
    write_sealed_json(path, {**read_json(path), **changes})
    outcome = check_submission(only(place), checks)
    assert outcome.reason == "form"
    assert words in outcome.words
    assert requirements(place) == []  # nothing of it reaches pip
    path.write_text(path.read_text().replace("weight-edit", "weight-edits"))
    assert "was changed after" in check_submission(only(place), checks).words


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp", "a/b", ".."])
def test_a_run_lies_in_a_plain_folder_of_its_own(place, checks, name):
    path = only(place) / SUBMISSION_FILE
    content = read_json(path)
    content["runs"][0]["folder"] = name
    write_sealed_json(path, content)
    outcome = check_submission(only(place), checks)
    assert (outcome.reason, "not a plain folder name" in outcome.words) == ("form", True)


def test_a_run_is_on_the_board_once(place, checks):
    shutil.copytree(only(place), place / "submissions" / "zz-the-same")
    board = check_board(place, checks, site=place / "site")
    assert [outcome.reason for outcome in board.outcomes] == [None, "duplicate"]
    assert "Not taken" in board.index.read_text()
    assert board.tables[0].comparison.rows[-1].runs == 2


def test_benchmarks_that_are_not_run_again_need_one_that_is(place, checks):
    outcome = check_submission(only(place), replace(checks, replay=("mini",)))
    assert (outcome.reason, outcome.words) == ("replay", "It holds no run on mini, which this board runs again.")
    assert check_submission(only(place), replace(checks, replay=("toy",))).reason is None


def test_whole_weights_are_taken_as_well(root, tmp_path, checks):
    made = submit([root / "runs" / "ascent"], tmp_path / "submissions", weights="whole", plugins=plugins())
    assert made.submission.requirement == "toy-methods==1.0"
    assert check_submission(made.folder, checks).reason is None


@pytest.mark.parametrize(
    ("runs", "more", "error", "words"),
    [
        (["explodes"], {}, BadRecord, "diverged"),
        (["reference-clean"], {}, BadRecord, "reference row"),
        (["weight-edit", "ascent"], {}, BadRecord, "these runs are of 2"),
        (["nothing"], {}, BadRecord, "not a run directory"),
        (["ascent"], {"requirement": "-e ."}, BadOptions, "is not a requirement"),
        (["ascent"], {"weights": "hf-hub:me/clip"}, BadOptions, "40 digits"),
        (["weight-edit", "weight-edit-1"], {"weights": "hf-hub:me/clip@" + "0" * 40}, BadOptions, "several runs"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_words_and_leaves_nothing(root, tmp_path, runs, more, error, words):
    with pytest.raises(error, match=words):
        submit([root / "runs" / name for name in runs], tmp_path / "submissions", plugins=plugins(), **more)
    assert not list((tmp_path).rglob("*.json"))


def test_a_submission_is_replaced_when_asked(root, place):
    runs = [root / "runs" / "weight-edit", root / "runs" / "weight-edit-1"]
    with pytest.raises(OutputError, match="is there already"):
        submit(runs, place / "submissions", plugins=plugins())
    (only(place) / "notes.txt").write_text("")
    assert not (submit(runs, place / "submissions", overwrite=True, plugins=plugins()).folder / "notes.txt").exists()


def test_the_commands_say_what_came_of_each_submission(root, place, monkeypatch):
    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", plugins)
    monkeypatch.setenv("SALMU_CACHE", str(root / "cache"))
    arguments = ["board", str(place), "--cpu", "--kept", str(place / "kept")]
    found = CliRunner().invoke(cli, [*arguments, "--site", str(place / "site")], catch_exceptions=False)
    assert "holds (2 runs: bit for bit)" in found.stdout
    assert CliRunner().invoke(cli, ["board", str(place), "--requirements"]).stdout == "toy-methods==1.0\n"
    forge("a value edited", root, only(place))
    found = CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)
    assert found.return_value == 1
    assert "refused, changed: " in found.stdout
    told = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert told[0]["reason"] == "changed"


def test_the_workflow_is_yaml_and_calls_options_that_there_are(tmp_path):
    files = start_board(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        ".github/workflows/board.yml", "README.md", ".gitignore"
    ]  # fmt: skip
    workflow = yaml.safe_load(files[0].read_text())
    assert workflow["permissions"] == {"contents": "read"}
    scripts = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert not any("${{" in script for script in scripts)  # a branch's name would be run as code
    known = {name for parameter in board_command.params if isinstance(parameter, click.Option) for name in parameter.opts}
    used = [word for script in scripts for line in script.splitlines() if "salmu board" in line for word in line.split()]
    flags = {word for word in used if word.startswith("--")}
    assert flags
    assert flags <= known
    with pytest.raises(OutputError, match="is there already"):
        start_board(tmp_path)


def test_what_holds_lies_beside_its_attacks(place, checks):
    [run_, _] = check_submission(only(place), checks).runs
    assert read_attacks(run_.record, run_.folder).most.recovered == 0.5
    assert not (Path(run_.folder) / "model.safetensors").exists()
