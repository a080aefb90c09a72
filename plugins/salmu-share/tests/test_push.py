"""Publishing runs: what is uploaded, what the card says, what is refused. Against a stub of the hub on this machine."""

import dataclasses
import json
import shutil

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from hub_stub import TOKEN, running_hub, sha256
from records import COMPROMISED, record, references
from salmu_core import Settings, evaluate, load_model, run
from salmu_core.benchmark import Terms
from salmu_core.builtin.toy import Toy
from salmu_core.cli.main import cli, main
from salmu_core.errors import BadCheckpoint, BadOptions, BadRecord, HubError
from salmu_core.records.redact import public_record
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import read_record, write_record
from salmu_share import push
from salmu_share.card import make_card
from toy_methods import toy_plugins

NAME = "me/clip-forgets"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs over the toy benchmark as a comparison leaves them: the reference rows, a good run, a diverged and a failed one."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("comparison") / "runs"
    how = {"benchmark": "toy", "settings": Settings(cpu=True, cache=folder.parent / "cache"), "plugins": toy_plugins()}
    for start in ("clean", "compromised"):
        run("none", start=start, out=folder / f"reference-{start}", **how)
    for method in ("weight-edit", "explodes", "raises"):
        run(method, out=folder / method, **how)
    return {"references": folder, **{method: folder / method for method in ("weight-edit", "explodes", "raises")}}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub(monkeypatch, tmp_path / "hf", TOKEN) as stub:
        yield stub


def card_of(text: str) -> tuple[dict, str]:
    """Metadata and body of a card."""
    _, metadata, body = text.split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_what_was_pushed_loads_back_equal_in_salmu_and_in_open_clip(hub, runs):
    pushed = push(runs["weight-edit"], NAME)
    assert (pushed.url, pushed.uploaded) == (f"{hub.url}/{NAME}", True)
    assert sorted(hub.files(NAME)) == [
        ".gitattributes", "README.md", "open_clip_config.json", "open_clip_model.safetensors", "record.json"
    ]  # fmt: skip
    here = load_model(runs["weight-edit"])
    assert load_model(f"hf-hub:{NAME}").fingerprint() == here.fingerprint()
    import open_clip

    theirs, preprocess = open_clip.create_model_from_pretrained(f"hf-hub:{NAME}")
    pixels = torch.zeros(1, 3, 16, 16)
    assert torch.equal(theirs.eval().encode_image(pixels), here.clip.encode_image(pixels))
    assert preprocess is not None


def test_what_was_pushed_scores_as_the_run_did(hub, runs, tmp_path):
    push(runs["weight-edit"], NAME)
    settings = Settings(cpu=True, cache=tmp_path / "cache")
    again = evaluate(f"hf-hub:{NAME}", benchmark="toy", settings=settings, plugins=toy_plugins())
    own = read_record(runs["weight-edit"])
    assert again.provenance.model_fingerprint == own.provenance.model_fingerprint
    assert again.scores["MeanCosine"].value == own.scores["MeanCosine"].value


def test_the_published_record_reads_back_with_the_same_scores(hub, runs, tmp_path):
    push(runs["weight-edit"], NAME)
    (tmp_path / "record.json").write_bytes(hub.files(NAME)["record.json"])
    published, own = read_record(tmp_path), read_record(runs["weight-edit"])
    assert (published.id, published.scores, published.options) == (own.id, own.scores, own.options)
    assert (published.model_file, published.rows_file) == ("open_clip_model.safetensors", None)


def test_pushing_again_uploads_nothing_and_a_killed_push_goes_on(hub, runs):
    hub.fail(500, "/commit/main", times=9)
    with pytest.raises(HubError, match="problem of its own"):
        push(runs["weight-edit"], NAME)
    weights = sha256((runs["weight-edit"] / "model.safetensors").read_bytes())
    assert hub.uploads == [f"PUT {weights}"]  # the weights arrived, nothing is visible yet
    assert list(hub.files(NAME)) == [".gitattributes"]
    hub.faults.clear()
    assert push(runs["weight-edit"], NAME).uploaded
    assert hub.uploads == [f"PUT {weights}", f"COMMIT {NAME}"]
    again = push(runs["weight-edit"], NAME)
    assert not again.uploaded
    assert again.commit == hub.repositories["model", NAME].branches["main"]
    assert len(hub.uploads) == 2


def test_nothing_is_replaced_unless_asked(hub, runs, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("README.md", "open_clip_pytorch_model.bin", "notes.txt"):
        (theirs / name).write_text("theirs")
    hub.add("model", NAME, theirs)
    with pytest.raises(HubError, match=r"README.md, open_clip_pytorch_model.bin would be replaced") as error:
        push(runs["weight-edit"], NAME)
    assert "--overwrite" in error.value.hint
    assert hub.files(NAME)["README.md"] == b"theirs"

    push(runs["weight-edit"], NAME, branch="ours")  # a branch leaves main alone
    assert hub.files(NAME)["README.md"] == b"theirs"
    assert "open_clip_pytorch_model.bin" not in hub.files(NAME, "ours")

    push(runs["weight-edit"], NAME, overwrite=True)
    held = hub.files(NAME)
    assert "open_clip_pytorch_model.bin" not in held  # open_clip could load it instead
    assert held["notes.txt"] == b"theirs"
    assert held["README.md"].startswith(b"---")


def test_another_run_takes_the_place_of_the_first_whole(hub, runs, tmp_path):
    first = shutil.copytree(runs["weight-edit"], tmp_path / "first")
    (first / "result.json").write_text("{}")
    own = read_record(first)
    write_record(first, own.model_copy(update={"id": "first", "files": ("result.json",)}))
    push(first, NAME, rows=True)
    assert {"result.json", "rows.safetensors"} <= hub.files(NAME).keys()
    with pytest.raises(HubError, match=r"README.md, record.json, result.json, rows.safetensors would be replaced"):
        push(runs["weight-edit"], NAME)
    push(runs["weight-edit"], NAME, overwrite=True)
    assert not {"result.json", "rows.safetensors"} & hub.files(NAME).keys()


def test_a_card_edited_on_the_hub_is_not_lost(hub, runs):
    push(runs["weight-edit"], NAME)
    repository = hub.repositories["model", NAME]
    repository.commit("main", {**hub.files(NAME), "README.md": b"edited by hand"})
    with pytest.raises(HubError, match=r"README\.md would be replaced"):
        push(runs["weight-edit"], NAME)
    assert hub.files(NAME)["README.md"] == b"edited by hand"


def test_private_stays_private(hub, runs):
    push(runs["weight-edit"], NAME, private=True)
    assert hub.repositories["model", NAME].private
    push(runs["weight-edit"], "me/open")
    with pytest.raises(HubError, match="public already"):
        push(runs["weight-edit"], "me/open", private=True)


def test_a_dry_run_asks_the_hub_nothing(hub, runs, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    arguments = ["push", str(runs["weight-edit"]), NAME, "--dry-run"]
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False, env={"COLUMNS": "200"}).output
    assert "pipeline_tag: zero-shot-image-classification" in shown
    assert "open_clip_model.safetensors" in shown
    assert "Nothing was uploaded" in shown
    listed = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert not listed["uploaded"]
    assert listed["files"]["open_clip_model.safetensors"] == (runs["weight-edit"] / "model.safetensors").stat().st_size
    assert hub.requests == []


def test_the_command_prints_the_address_and_nothing_else(hub, runs):
    result = CliRunner().invoke(cli, ["push", str(runs["weight-edit"]), NAME, "--message", "first"], catch_exceptions=False)
    assert result.stdout == f"{hub.url}/{NAME}\n"
    again = CliRunner().invoke(cli, ["push", str(runs["weight-edit"]), NAME, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["uploaded"] is False
    assert "open_clip_model.safetensors" in hub.files(NAME)


@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("failed", BadRecord, r"(?s)failed: .*ZeroDivisionError: a bug of the method.*made no model"),
        ("diverged", BadRecord, r"(?s)diverged.*--force` publishes it with a warning"),
        ("reference", BadRecord, "a reference row, which made no model"),
        ("no run", BadRecord, "not a run directory"),
        ("changed", BadCheckpoint, "is not the model that the scores"),
        ("no rows", BadRecord, "no per-row scores"),
        ("name", HubError, "OWNER/NAME"),
        ("owner", HubError, "no owner"),
        ("no token", HubError, "(?s)not logged in.*hf auth login"),
        ("wrong token", HubError, "refuses your token"),
        ("no permission", HubError, "no permission"),
        ("offline", HubError, "HF_HUB_OFFLINE"),
        ("no network", HubError, "cannot be reached"),
    ],
)
def test_what_cannot_be_pushed_is_refused_in_words(hub, runs, tmp_path, monkeypatch, case, error, words):
    folder, name, more = runs["weight-edit"], NAME, {}
    match case:
        case "failed" | "diverged":
            folder = runs["raises" if case == "failed" else "explodes"]
        case "reference":
            folder = next(path for path in runs["references"].iterdir() if "clean" in path.name)
        case "no run":
            folder = tmp_path / "nothing"
        case "changed":
            folder = shutil.copytree(folder, tmp_path / "copy")
            weights = load_file(folder / "model.safetensors")
            next(iter(weights.values())).view(-1)[0] += 1
            save_file(weights, folder / "model.safetensors")
        case "no rows":
            folder = shutil.copytree(folder, tmp_path / "copy")
            (folder / "rows.safetensors").unlink()
            more = {"rows": True}
        case "name" | "owner":
            name = "a/b/c" if case == "name" else "clip"
        case "no token":
            monkeypatch.delenv("HF_TOKEN")
        case "wrong token":
            monkeypatch.setenv("HF_TOKEN", "hf_other")
        case "no permission":
            name = "somebody/clip"
        case "offline":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        case "no network":
            hub.close()
    with pytest.raises(error, match=words):
        push(folder, name, **more)
    assert hub.uploads == []


def test_a_diverged_run_is_published_with_a_warning_when_forced(hub, runs):
    if read_record(runs["explodes"]).model_file is None:
        pytest.fail("the toy's diverged run should have kept its last finite weights")
    push(runs["explodes"], NAME, force=True)
    body = hub.files(NAME)["README.md"].decode()
    assert "**Warning: this run diverged.**" in body
    assert "Do not use them as an unlearned model" in body


def test_errors_reach_the_terminal_as_one_panel(hub, runs, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["push", str(runs["raises"]), NAME])
    assert exit_.value.code == 1
    assert "Error" in capsys.readouterr().err


def test_result_files_and_rows_go_along(hub, runs, tmp_path):
    folder = shutil.copytree(runs["weight-edit"], tmp_path / "copy")
    (folder / "evaluation_weight-edit-b1-s0.json").write_text("{}")
    write_record(folder, read_record(folder).model_copy(update={"files": ("evaluation_weight-edit-b1-s0.json",)}))
    push(folder, NAME, rows=True, references=runs["references"])
    assert {"evaluation_weight-edit-b1-s0.json", "rows.safetensors"} <= hub.files(NAME).keys()
    assert json.loads(hub.files(NAME)["record.json"])["rows_file"] == "rows.safetensors"
    assert "- `rows.safetensors`" in hub.files(NAME)["README.md"].decode()


def test_no_name_or_caption_or_path_of_this_machine_is_uploaded(hub, runs, tmp_path):
    folder = shutil.copytree(runs["weight-edit"], tmp_path / "copy")
    own = read_record(folder)
    spec = own.spec.model_copy(update={"benchmark_options": {"data_dir": "/home/alice/secret project/snapshot"}})
    command = "salmu run weight-edit --bench-set 'data_dir=/home/alice/secret project/snapshot' --out ~/private/runs"
    changed = own.model_copy(
        update={
            "spec": spec,
            "options": {"mask": "C:\\Users\\alice\\mask.pt", "rate": "1/2"},
            "provenance": own.provenance.model_copy(update={"command": command}),
        }
    )
    write_record(folder, changed)
    push(folder, NAME, rows=True)
    text = "\n".join(hub.files(NAME)[name].decode() for name in ("README.md", "record.json"))
    assert not any(word in text for word in ("alice", "secret", "private/", str(tmp_path)))
    assert "…/snapshot" in text
    assert "1/2" in text  # what is no path stays
    toy = Toy()
    for split in ("forget", "retain", "holdout_identity", "holdout_association"):
        for column in ("name", "value"):
            values = {str(value) for value in toy.split(split).columns.get(column, ()) if len(str(value)) > 4}
            assert not [value for value in values if value in text]
        assert not [caption for caption in toy.split(split).texts if caption in text]


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/alice/x.pt", "…/x.pt"),
        ("~/x.pt", "…/x.pt"),
        ("C:\\Users\\alice\\x.pt", "…/x.pt"),
        ("no file '/home/alice/x.pt'\n  File \"/home/alice/m.py\", line 3", "no file '…/x.pt'\n  File \"…/m.py\", line 3"),
        ("https://arxiv.org/abs/2308.07707", "https://arxiv.org/abs/2308.07707"),
        ("hf-hub:owner/name", "hf-hub:owner/name"),
        ("see https://a.org/b/c (and/or 3/4)", "see https://a.org/b/c (and/or 3/4)"),
        ("data/shards", "data/shards"),
    ],
)
def test_paths_of_this_machine_are_cut_and_other_words_stay(text, public):
    assert public_record(record("delete", COMPROMISED, error=text, paper=text)).error == public


VALUES = {**COMPROMISED, "RetFail": 0.004, "AssocStr": 0.15, "InterIdSim": 0.2}


def card(changed: RunRecord, references: list[RunRecord], **more) -> tuple[dict, str]:
    return card_of(make_card(changed, references, repository=NAME, files=["README.md"], **more))


def test_the_cards_metadata_is_what_the_hub_understands():
    metadata, _ = card(record("delete", VALUES), references(), license="mit", base_model="owner/base@abc")
    assert metadata["library_name"] == "open_clip"
    assert metadata["pipeline_tag"] == "zero-shot-image-classification"
    assert metadata["license"] == "mit"
    assert metadata["base_model"] == "owner/base"
    assert {"machine-unlearning", "delete", "mini"} <= set(metadata["tags"])
    [model] = metadata["model-index"]
    [result] = model["results"]
    assert (model["name"], result["dataset"]["type"]) == ("clip-forgets", "mini")
    assert {item["type"]: item["value"] for item in result["metrics"]} == VALUES
    without, _ = card(record("delete", VALUES), references())
    assert without["license"] == "unknown"
    assert "base_model" not in without


def test_the_card_shows_scores_beside_clean_and_compromised_with_distances_and_the_verdict():
    _, body = card(record("delete", VALUES, options={"lr": 1e-4, "note": "a|b"}), references())
    # |0.004 - 0.001| / |0.236 - 0.001| = 0.0128; |0.2 - 0.321| / |0.321 - 0.143| = 0.6798
    assert "| RetFail | 0.0040 | -0.0060 to 0.0140 | 0.0010 | 0.2360 | Clean | 0.013 |" in body
    assert "| InterIdSim | 0.2000 | 0.1900 to 0.2100 | 0.1430 | 0.3210 | Compromised | 0.680 |" in body
    assert "Verdict: **over-generalised**." in body
    assert "InterIdSim moved 68%" in body
    assert "100 image-caption pairs of 10 identities" in body
    assert "| note | a\\|b |" in body
    assert "salmu run delete" in body
    assert f'create_model_from_pretrained("hf-hub:{NAME}")' in body
    assert "not a guarantee of erasure" in body
    assert "No audit" in body
    assert "\n\n\n" not in body


def test_a_card_without_reference_rows_gives_no_verdict():
    _, body = card(record("delete", VALUES), references()[:1])
    assert "Verdict: none. The reference row Compromised is missing" in body
    assert "| RetFail | 0.0040 | -0.0060 to 0.0140 | 0.0010 | – | Clean | – |" in body


def test_references_of_other_data_are_not_used(hub, runs, tmp_path):
    other = tmp_path / "runs"
    shutil.copytree(runs["references"], other)
    for folder in other.iterdir():
        found = read_record(folder)
        if found.kind == "reference":
            moved = found.provenance.model_copy(update={"data_fingerprint": "other"})
            write_record(folder, found.model_copy(update={"provenance": moved}))
    dry = push(other / runs["weight-edit"].name, NAME, dry_run=True)
    assert "The reference rows Clean and Compromised are missing" in dry.publication.card
    assert "are missing" not in push(runs["weight-edit"], NAME, dry_run=True).publication.card


def test_the_base_model_comes_from_the_benchmark(runs, monkeypatch):
    monkeypatch.setattr(Toy, "hub_model", lambda self, which: f"owner/{which}@abc123")
    metadata, body = card_of(push(runs["weight-edit"], NAME, dry_run=True, plugins=toy_plugins()).publication.card)
    assert metadata["base_model"] == "owner/compromised"
    assert "[owner/compromised](https://huggingface.co/owner/compromised) at revision `abc123`" in body


TERMS = Terms("model owner/base", "https://huggingface.co/owner/base", "Research only.", gated=True)


def test_terms_of_the_origin_stand_on_the_card_and_take_the_place_of_an_unknown_licence():
    metadata, body = card(record("delete", VALUES), references(), terms=[TERMS])
    assert (metadata["license"], metadata["license_name"]) == ("other", "terms-of-the-origin")
    assert metadata["license_link"] == TERMS.page
    assert "Research only." in metadata["extra_gated_prompt"]
    assert f"- [model owner/base]({TERMS.page}): Research only." in body
    assert "accept the gated terms above first" in body
    metadata, body = card(record("delete", VALUES), references(), license="mit", terms=[TERMS])
    assert metadata["license"] == "mit"
    assert "Research only." in body
    open_terms = dataclasses.replace(TERMS, gated=False)
    metadata, body = card(record("delete", VALUES), references(), terms=[open_terms])
    assert "extra_gated_prompt" not in metadata
    assert "accept the gated" not in body


def test_a_model_made_from_a_gated_one_is_offered_a_gate_that_closes_before_anything_is_uploaded(hub, runs, monkeypatch):
    monkeypatch.setattr(Toy, "terms", lambda self: (TERMS,))
    words = ["push", str(runs["weight-edit"]), NAME]
    plain = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    assert "Made from what is gated: model owner/base" in " ".join(plain.stderr.split())
    assert not any(item.startswith("GATE") for item in hub.uploads)
    hub.uploads.clear()
    gated = CliRunner().invoke(
        cli,
        ["push", str(runs["weight-edit"]), "me/other", "--gated", "manual"],
        catch_exceptions=False,
        standalone_mode=False,
    )
    assert "--gated" not in gated.stderr
    assert hub.uploads[0] == "GATE me/other manual"
    assert hub.uploads[-1] == "COMMIT me/other"
    assert hub.repositories["model", "me/other"].gate == "manual"


def test_scores_are_written_for_the_hubs_own_leaderboards(hub, runs):
    from huggingface_hub import parse_eval_result_entries

    dataset = "me/mini-instances@" + "a" * 40
    push(runs["weight-edit"], NAME, evaluates=dataset, references=runs["references"])
    content = yaml.safe_load(hub.files(NAME)[".eval_results/mini-instances.yaml"])
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(content)}
    own = read_record(runs["weight-edit"])
    assert entries["MeanCosine"].value == pytest.approx(own.scores["MeanCosine"].value, abs=1e-6)
    assert entries["MeanCosine"].notes.endswith("target: clean")
    assert {entry.dataset_id for entry in entries.values()} == {"me/mini-instances"}
    assert {entry.dataset_revision for entry in entries.values()} == {"a" * 40}
    assert {item["evaluation_framework"] for item in content} == {"salmu"}
    assert set(entries) <= {"overall", "MeanCosine"}
    with pytest.raises(BadOptions, match="no dataset repository"):
        push(runs["weight-edit"], NAME, evaluates="mini")


def test_results_without_a_model_become_a_dataset_repository(hub, runs):
    folder = runs["references"].parent
    pushed = push(folder, "me/results", license="cc-by-4.0")
    assert pushed.url == f"{hub.url}/datasets/me/results"
    held = hub.repositories["dataset", "me/results"]
    files = held.commits[held.branches["main"]]
    names = set(files)
    assert {"README.md", "report.html", "leaderboard.json", "leaderboard.md", "runs/weight-edit/record.json"} <= names
    assert not [name for name in names if name.endswith(".safetensors")]
    metadata, body = card_of(files["README.md"].decode())
    assert metadata["license"] == "cc-by-4.0"
    assert "| weight-edit |" in body
    assert str(folder) not in files["leaderboard.json"].decode()
    again = push(folder, "me/results", license="cc-by-4.0", dry_run=True)
    assert not again.uploaded
