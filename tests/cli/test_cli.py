"""The command line: what each command prints, refuses and exits with."""

import json

import pytest
from click.testing import CliRunner

from salmu_core.cli import core_commands
from salmu_core.cli.main import cli, main
from salmu_core.records.store import read_record
from toy_methods import Hooks, toy_plugins


def _salmu(*arguments: str):
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


@pytest.fixture(autouse=True)
def only_core(monkeypatch):
    """Commands are tested with core's own parts, whatever is installed."""
    monkeypatch.setenv("SALMU_PLUGINS", "core")


@pytest.mark.parametrize("command", [info.name for info in core_commands.register_commands()])
def test_every_command_has_help_with_an_example(command):
    result = _salmu(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"salmu {command}" in result.output


@pytest.mark.parametrize("command", ["list-methods", "list-metrics", "list-benchmarks"])
def test_listings_are_json_when_asked(command):
    listed = json.loads(_salmu(command, "--json").output)
    if command == "list-benchmarks":
        assert [item["name"] for item in listed] == ["toy"]
        assert {item["package"] for item in listed} == {"salmu"}
    if command == "list-methods":
        assert [item["name"] for item in listed] == ["none"]


def test_describe_shows_options_with_types_defaults_and_bounds():
    output = _salmu("describe", "toy").output
    assert "identities" in output
    assert ">= 1, <= 500" in output
    [seed, *_] = json.loads(_salmu("describe", "toy", "--json").output)["options"]
    assert (seed["name"], seed["default"]) == ("seed", 0)


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    out = tmp_path / "run"
    result = _salmu("run", "none", "--benchmark", "toy", "--out", str(out), "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert plan["benchmark_built"] is True
    assert plan["folder"] == str(out)
    assert not out.exists()


def test_run_and_evaluate(tmp_path):
    out = tmp_path / "run"
    assert _salmu("run", "none", "--benchmark", "toy", "--out", str(out), "--cpu").exit_code == 0
    assert json.loads((out / "record.json").read_text())["kind"] == "reference"
    scores = tmp_path / "scores.json"
    result = _salmu("evaluate", "compromised", "--benchmark", "toy", "--out", str(scores), "--cpu", "--json")
    assert json.loads(result.stdout)["status"] == "ok"
    assert json.loads(scores.read_text())["rows_file"] == "scores.rows.safetensors"
    assert (tmp_path / "scores.rows.safetensors").is_file()


def test_compare_skips_what_is_done_names_faulty_observers_and_report_reads_it_again(tmp_path, monkeypatch):
    def loaded():
        plugins = toy_plugins()
        plugins.watch(Hooks(run_finished=lambda record: [][0]))
        return plugins

    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", loaded)
    folder = tmp_path / "all"
    arguments = ["compare", "weight-edit", "raises", "--benchmark", "toy", "--out", str(folder), "--cpu", "--workers", "1"]
    first = CliRunner().invoke(cli, [*arguments, "--json"], standalone_mode=False)
    assert [row["title"] for row in json.loads(first.stdout)["rows"]] == ["Clean", "Compromised", "weight-edit", "raises"]
    assert first.stderr.count("IndexError") == 1
    assert first.return_value == 1  # one run failed, and the others went on
    again = _salmu(*arguments)
    assert "4 runs, 3 of them done before" in again.stderr
    assert "ZeroDivisionError" in again.stdout
    assert _salmu("report", str(folder)).exit_code == 0
    assert (folder / "report.html").is_file()


def test_a_run_ends_with_the_verdict_and_stands_between_its_references(tmp_path, monkeypatch):
    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", toy_plugins)
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path / "cache"))
    result = _salmu("run", "weight-edit", "--benchmark", "toy", "--out", str(tmp_path / "run"), "--cpu")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "overall" in lines[0] or "no score" in lines[0]
    [shown] = [line.split() for line in lines if line.startswith("MeanCosine")]
    records = [read_record(folder) for folder in (tmp_path / "cache" / "references").iterdir()]
    start = {record.spec.start: record.scores["MeanCosine"].value for record in records}
    own = read_record(tmp_path / "run").scores["MeanCosine"].value
    assert shown[1:4] == [f"{value:.3f}" for value in (start["clean"], own, start["compromised"])]
    assert len(set(shown[1:4])) == 3
    assert f"salmu audit {tmp_path / 'run'}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nonne", "--benchmark", "toy"], "Did you mean none"),
        (["run", "none", "--benchmark", "tooy"], "Did you mean toy"),
        (["run", "none", "--benchmark", "toy", "--set", "lr"], "NAME=VALUE"),
        (["run", "none", "--benchmark", "toy", "--set", "lr=1"], "no option 'lr'"),
        (["run", "none", "--benchmark", "toy", "--bench-set", "identities=0"], "greater than or equal to 1"),
        (["compare", "none", "--benchmark", "toy", "--seeds", "a"], "separated by commas"),
        (["compare", "none", "--benchmark", "toy", "--metric-set", "X=1"], "METRIC.NAME=VALUE"),
        (["evaluate", "no/such/model", "--benchmark", "toy"], "no model at"),
        (["report", "no/such/folder"], "no record"),
        (["describe", "toyy"], "Did you mean toy"),
    ],
)
def test_bad_input_is_one_panel_and_exit_code_1(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert exit_.value.code == 1
    assert "Error" in shown
    assert words in shown
    assert "Traceback" not in shown


def test_an_unknown_command_names_near_ones(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["comapre"])
    assert exit_.value.code == 2
    assert "Did you mean compare" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    assert "_SALMU_COMPLETE" in _salmu("completion", shell).output


def test_doctor_names_versions_devices_and_plugins():
    found = json.loads(_salmu("doctor", "--json").output)
    assert found["versions"]["salmu"]
    assert found["devices"]
    assert found["problems"] == []
