"""Studies: comparisons as files, from the file to the results and back."""

import json
import tomllib

import pytest
from click.testing import CliRunner

from salmu_core.cli.main import cli
from salmu_core.errors import BadOptions
from salmu_core.spec.study import Study, StudyMethod, parse_study, read_study, write_study
from toy_methods import toy_plugins

TEXT = """# two ways to forget
benchmark = "toy"
bench_seeds = [0, 1]
seeds = [3]
methods = ["weight-edit", {name = "ascent", options = {lr = 1e-3}}, {name = "ascent", options = {lr = 1e-4}}]

[execution]
cpu = true
workers = 1
"""


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", toy_plugins)


def _salmu(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False, catch_exceptions=False)


def test_a_study_is_written_and_read_back_the_same(tmp_path):
    study = Study(
        benchmark="toy", benchmark_options={"identities": 9}, bench_seeds=(0, 1), budgets=(1.0, 5.0), preset="none",
        methods=(StudyMethod(name="a"), StudyMethod(name="b", options={"lr": 1e-4, "layers": [1, 2], "limit": None})),
        metrics={"M": {"k": 3}}, launcher={"kind": "local"}, execution={"precision": "bf16", "workers": 2},
    )  # fmt: skip
    again = read_study(write_study(tmp_path, study))
    # TOML has no null: options read this word as None.
    assert again.methods[1].options == {"lr": 1e-4, "layers": [1, 2], "limit": "none"}
    assert again.model_copy(update={"methods": study.methods}) == study
    assert "micro_batch" not in (tmp_path / "study.toml").read_text()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"benchmrk": "toy"}, "there is no key 'benchmrk', did you mean benchmark"),
        ({"methods": [{"name": "a", "option": {}}]}, "there is no key 'methods.0.option', did you mean options"),
        ({"execution": {"worker": 2}}, "there is no key 'execution.worker', did you mean workers"),
        ({"execution": {"precision": "fp8"}}, "execution.precision"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [0, 0]}, "given twice"),
        ({"budgets": [-1.0]}, "negative"),
        ({"methods": [{"options": {}}]}, "methods.0.name"),
        ({"seeds": 3, "preset": 4}, "preset"),
    ],
)
def test_mistakes_are_named_with_what_was_meant(content, words):
    with pytest.raises(BadOptions) as error:
        parse_study(content, "s.toml")
    assert words in str(error.value)


def test_a_file_that_is_none_says_so(tmp_path):
    with pytest.raises(BadOptions, match="no study at"):
        read_study(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_text("a = [")
    with pytest.raises(BadOptions, match="is no TOML"):
        read_study(tmp_path / "study.toml")


def test_a_study_over_instances_is_carried_out_kept_and_reported(tmp_path):
    file, out = tmp_path / "s.toml", tmp_path / "out"
    file.write_text(TEXT)
    plans = json.loads(_salmu("study", file, "--out", out, "--dry-run", "--json").stdout)
    assert len(plans) == 4 + 3 * 2
    assert not (out / "study.toml").exists()
    file.write_text(short := TEXT.replace(', {name = "ascent", options = {lr = 1e-4}}', ""))
    done = _salmu("study", file, "--out", out, "--json", "--require", "status=ok")
    assert done.return_value == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["bench_seeds"] == [0, 1]
    own = [row for row in made["rows"] if row["kind"] == "run"]
    assert {row["title"] for row in own} == {"weight-edit", "ascent"}
    assert {row["runs"] for row in own} == {2}
    assert all(d["unit"] == "bench seed" and d["identity_low"] is not None for d in made["differences"])
    assert (out / "study.toml").read_text() == short
    # From the records alone comes the same leaderboard.
    again = json.loads(_salmu("report", out, "--json").stdout)
    assert again["differences"] == made["differences"]
    assert {row["title"]: row["rank"] for row in again["rows"]} == {row["title"]: row["rank"] for row in made["rows"]}
    one = _salmu("report", out, "--where", "status=ok", "--fail-if", "weight-edit:runs<9", "--commands")
    assert one.return_value == 3
    assert "Broken: weight-edit" in one.stderr
    assert "salmu compare weight-edit --benchmark toy --seeds 3 --bench-seeds 0,1" in one.stdout


def test_a_comparison_leaves_a_study_that_repeats_it(tmp_path):
    out = tmp_path / "first"
    arguments = [
        "compare",
        "weight-edit",
        "ascent",
        "--benchmark",
        "toy",
        "--set",
        "ascent.lr=1e-3",
        "--cpu",
        "--workers",
        1,
    ]
    assert _salmu(*arguments, "--out", out, "--json").return_value == 0
    content = tomllib.loads((out / "study.toml").read_text())
    assert content["methods"] == ["weight-edit", {"name": "ascent", "options": {"lr": 1e-3}}]
    assert (content["benchmark"], content["preset"], content["execution"]) == ("toy", "none", {"cpu": True, "workers": 1})
    again = _salmu("study", out / "study.toml")
    assert "4 runs, 4 of them done before" in again.stderr
    assert again.return_value == 0


def test_conditions_that_cannot_be_read_are_found_before_anything_is_run(tmp_path):
    with pytest.raises(BadOptions, match="MeanCosine"):
        _salmu("compare", "ascent", "--benchmark", "toy", "--out", tmp_path / "out", "--fail-if", "MeanCosin>1")
    assert not (tmp_path / "out").exists()


def test_seeds_of_the_benchmark_given_twice_or_not_had_are_refused(tmp_path):
    with pytest.raises(BadOptions, match="given twice"):
        _salmu("compare", "ascent", "--benchmark", "toy", "--bench-seed", 0, "--bench-seeds", "1,2", "--out", tmp_path)
    (tmp_path / "s.toml").write_text('benchmark = "toy"\nbench_seeds = [1]\nbenchmark_options = {seed = 0}\n')
    with pytest.raises(Exception, match="given twice"):
        _salmu("study", tmp_path / "s.toml", "--out", tmp_path / "out")
