"""Audits: their measures in numbers, what they get from models with known answers, and how results are reported."""

from __future__ import annotations

import io
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from jaxtyping import install_import_hook
from PIL import Image
from salmu_audits.command import audit_command
from salmu_audits.runner import AuditResult, audit, make_audits

from salmu_core import Leak, SalmuError
from salmu_core.builtin.toy import Toy
from salmu_core.cli.arguments import parse_settings
from salmu_core.data.splits import Split
from salmu_core.metric import NotMeasurable
from salmu_core.plugins.loading import load_plugins
from salmu_core.records.attacks import attacks_of
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.audit_context import AuditContext
from salmu_core.runner.run import Settings, run

# Shape annotations are checked while these tests run.
with install_import_hook(["salmu_audits.measures", "salmu_audits.weights", "salmu_audits.probes"], "beartype.beartype"):
    from salmu_audits import AUDITS
    from salmu_audits.measures import (
        area_under_curve,
        distinct,
        mean_reciprocal_rank,
        strangers,
    )
    from salmu_audits.membership import views
    from salmu_audits.probes import ridge_map
    from salmu_audits.weights import round_model, rounded

NAMES = [cls.name for cls in AUDITS]

# ---------------------------------------------------------------- measures


def test_reciprocal_ranks_by_hand():
    texts = torch.eye(3)
    images = F.normalize(torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.5, 0.0], [0.2, 0.1, 0.9]]), dim=1)
    # Own captions 0, 1 and 0: ranks 1, 2 and 2.
    assert mean_reciprocal_rank(images, texts, torch.tensor([0, 1, 0])) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    with pytest.raises(NotMeasurable, match="fewer than two captions"):
        mean_reciprocal_rank(images, texts[:1], torch.tensor([0, 0, 0]))


def test_equal_captions_are_one_candidate():
    captions, own = distinct(["a", "b", "a", "c"])
    assert captions == ["a", "b", "c"]
    assert own.tolist() == [0, 1, 0, 2]


def test_area_under_curve_against_counting():
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 5, 12).astype(float), rng.integers(0, 4, 9).astype(float)
    counted = np.mean([(m > o) + 0.5 * (m == o) for m in members for o in others])
    assert area_under_curve(members, others) == pytest.approx(counted)


def test_strangers_share_the_field_and_not_the_person():
    split = Toy().split("forget")
    rows, other = strangers(split, torch.Generator().manual_seed(0))
    assert sorted(rows.tolist()) == list(range(len(split)))
    for row, partner in zip(rows.tolist(), other.tolist(), strict=True):
        assert split.columns["data_field"][row] == split.columns["data_field"][partner]
        assert split.columns["identity_id"][row] != split.columns["identity_id"][partner]
    alone = Split("s", texts=["x"], columns={"identity_id": ["a"], "data_field": ["name"]})
    with pytest.raises(NotMeasurable, match="two identities"):
        strangers(alone, torch.Generator())


def test_rounding_by_hand():
    weight = torch.tensor([[0.7, -0.35, 0.04], [7.0, 1.4, -2.6]])
    # 4 bits: levels -7..7; row scales 0.1 and 1: 7, -3.5 -> -4 (to even), 0.4 -> 0; 7, 1.4 -> 1, -2.6 -> -3.
    expected = torch.tensor([[0.7, -0.4, 0.0], [7.0, 1.0, -3.0]])
    torch.testing.assert_close(rounded(weight, 4, 0), expected, atol=0.051, rtol=0)
    assert torch.equal(rounded(torch.zeros(2, 3), 8, 0), torch.zeros(2, 3))
    columns = rounded(weight.T.contiguous(), 4, -1)
    torch.testing.assert_close(columns.T, rounded(weight, 4, 0))


def test_eight_bits_change_less_than_four_and_leave_biases_alone():
    models = [Toy().load_model("compromised") for _ in range(3)]
    counts = [round_model(models[1], 8), round_model(models[2], 4)]
    weights = [model.weights() for model in models]
    assert counts[0] == counts[1] > 0.9 * sum(tensor.numel() for name, tensor in weights[0].items() if tensor.ndim > 1)
    far = [sum(float((w[name] - weights[0][name]).square().sum()) for name in w) for w in weights]
    assert all(a < b for a, b in pairwise(far))
    same = [name for name, tensor in weights[0].items() if tensor.ndim < 2]
    assert same
    assert all(torch.equal(weights[0][name], weights[2][name]) for name in same)


def test_the_ridge_map_solves_its_equations():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, 4, generator=generator) for _ in range(2))
    learned = ridge_map(x, y, 0.1)
    gradient = x.T @ (x @ learned - y) + 0.1 * 20 * learned
    assert gradient.abs().max() < 1e-4
    torch.testing.assert_close(ridge_map(x, x, 1e-9), torch.eye(4), atol=1e-4, rtol=0)


def test_views_change_the_picture_and_nothing_else():
    split = Toy().split("forget").take(range(3), "tested")
    mirrored, cut = views(split)
    assert mirrored.texts == cut.texts == split.texts
    assert mirrored.columns == split.columns
    before, turned, inner = (
        np.asarray(Image.open(io.BytesIO(one.images.read(0))).convert("RGB")) for one in (split, mirrored, cut)
    )
    assert np.array_equal(turned, before[:, ::-1])
    edge = min(before.shape[:2]) // 10
    assert np.array_equal(inner, before[edge : len(before) - edge, edge : before.shape[1] - edge])


# ---------------------------------------------------------------- on models


# Grids are for models that somebody wants to attack; one cell of each says the same of the toy.
SMALL = {
    "few-shot-relearning": {"lrs": (5e-3,), "towers": ("both",)},
    "one-photo-relearning": {"lrs": (0.02,), "towers": ("text",)},
    "benign-relearning": {"lrs": (5e-3,), "towers": ("both",)},
    "name-inversion": {"lrs": (0.15,), "steps": 60},
    "identity-inference": {"names": 30},
}


def leak(cls, benchmark, which):
    with open_accelerator(cpu=True) as accelerator:
        ctx = AuditContext(benchmark.load_model(which), benchmark, accelerator, 0, cls.name)
        return cls(cls.Options(**SMALL.get(cls.name, {}))).attack(ctx)


@pytest.mark.parametrize("cls", AUDITS, ids=NAMES)
def test_each_audit_is_repeatable_within_bounds_and_gets_more_from_a_model_that_memorised(cls, memorised):
    if cls.name == "deja-vu-attributes":  # on the toy nobody shares an attribute: see test_attacks.py
        with pytest.raises(NotMeasurable, match="share no attribute"):
            leak(cls, memorised, "clean")
        return
    clean, compromised = leak(cls, memorised, "clean"), leak(cls, memorised, "compromised")
    assert leak(cls, memorised, "compromised") == compromised
    low, high = cls.bounds
    assert low <= clean.value <= high
    assert low <= compromised.value <= high
    assert all(np.isfinite(value) for value in compromised.extras.values())
    if cls.name not in (
        "pair-probe",
        "few-shot-relearning",
        "membership-augmented",
        "identity-inference",
    ):  # what the toy's squares share is chance
        assert compromised.value > clean.value


def test_the_original_tower_gives_back_what_only_the_other_one_forgot(memorised):
    from salmu_audits.weights import OriginalImageTower, OriginalTextTower

    model = memorised.load_model("compromised")
    with torch.no_grad():
        model.clip.visual.proj.copy_(-model.clip.visual.proj)  # the image tower is undone, the text tower hardly touched
        model.clip.ln_final.bias.add_(1e-6)
    with open_accelerator(cpu=True) as accelerator:
        ctx = AuditContext(model, memorised, accelerator, 0, "swap")
        original = leak(OriginalImageTower, memorised, "compromised").value
        assert OriginalImageTower().attack(ctx).value == pytest.approx(original, abs=1e-3)
        assert OriginalTextTower().attack(ctx).value < 0.5 * original


def test_the_calibrated_attack_knows_nothing_of_the_clean_model(memorised):
    from salmu_audits.membership import CalibratedMembership

    assert leak(CalibratedMembership, memorised, "clean").value == 0.5


# ---------------------------------------------------------------- reported


def test_results_stand_beside_both_references_and_come_from_the_cache(tmp_path):
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    chosen = ["int8-rounding", "membership-similarity"]
    first = audit("compromised", audits=chosen, benchmark="toy", settings=settings, out=tmp_path)
    assert [item.audit for item in first] == chosen
    assert all(item.value == item.compromised for item in first)
    assert (tmp_path / "audits.json").is_file()
    kept = sorted((tmp_path / "cache" / "audits").iterdir())
    assert len(kept) == 4  # two audits on two models, the third being one of them
    stamps = [path.stat().st_mtime_ns for path in kept]
    again = audit("compromised", audits=chosen, benchmark="toy", settings=settings)
    assert again == first
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    audit("compromised", audits=chosen, benchmark="toy", settings=settings, options={"membership-similarity": {"rows": 10}})
    assert len(list((tmp_path / "cache" / "audits").iterdir())) == 6


def test_attacks_of_the_same_model_stay_and_others_are_not_overwritten(tmp_path):
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    given = {"benchmark": "toy", "settings": settings, "out": tmp_path}
    for name in ("int8-rounding", "membership-similarity"):
        audit("compromised", audits=[name], **given)
    path = tmp_path / "audits.json"
    whole = path.read_text()
    assert [item["audit"] for item in json.loads(whole)["audits"]] == ["int8-rounding", "membership-similarity"]
    with pytest.raises(SalmuError, match="about another model"):
        audit("clean", audits=["int8-rounding"], **given)
    with pytest.raises(SalmuError, match="other"):
        audit("compromised", audits=["int8-rounding"], benchmark_options={"identities": 5}, **given)
    models = json.loads(whole)["model_fingerprint"]
    assert len(attacks_of(models, tmp_path).results) == 2
    assert attacks_of(models, tmp_path, "others").problem.endswith("is about other data: its attacks are left out.")
    assert path.read_text() == whole
    path.write_text(whole[:50])
    with pytest.raises(SalmuError, match="is damaged"):
        audit("compromised", audits=["int8-rounding"], **given)
    assert path.read_text() == whole[:50]


def test_a_run_is_attacked_on_its_own_instance(tmp_path):
    settings, own = Settings(cache=tmp_path / "cache", cpu=True), {"seed": 2, "identities": 4}
    folder, chosen = tmp_path / "run", ["membership-similarity"]
    run("none", benchmark="toy", benchmark_options=own, out=folder, settings=settings)
    [found] = audit(folder, audits=chosen, settings=settings)  # the folder of a reference row, which keeps no weights
    assert found.value == found.compromised
    assert json.loads((folder / "audits.json").read_text())["benchmark_options"] == own
    kept = (folder / "audits.json").read_text()
    with pytest.raises(SalmuError, match="other data"):  # it would stand beside a record that it is not about
        audit(folder, audits=chosen, benchmark="toy", settings=settings)
    audit(folder, audits=chosen, benchmark="toy", settings=settings, out=tmp_path / "elsewhere")
    assert (folder / "audits.json").read_text() == kept
    (folder / "record.json").write_text("{")
    with pytest.raises(SalmuError, match="record cannot be read"):
        audit(folder, audits=chosen, settings=settings)


def test_recovered_and_times_clean_by_hand():
    result = AuditResult(audit="a", summary="", package="", options={}, value=0.3, clean=0.1, compromised=0.9)
    assert result.recovered == pytest.approx(0.25)
    assert result.times_clean == pytest.approx(3.0)
    equal = result.model_copy(update={"compromised": 0.1})
    assert equal.recovered is None
    assert result.model_copy(update={"value": None}).times_clean is None


def test_the_command_shows_what_each_attack_got_and_what_it_cost(tmp_path):
    given = ["compromised", "--benchmark", "toy", "--cpu", "--only", "int8-rounding", "--only", "one-photo-relearning"]
    grid = ["lrs=[0.01]", 'towers=["text"]', "epochs=2", "curve=false"]
    given += [word for cell in grid for word in ("--set", f"one-photo-relearning.{cell}")]
    found = CliRunner().invoke(audit_command, given, env={"SALMU_CACHE": str(tmp_path), "COLUMNS": "200"})
    assert found.exit_code == 0, found.output
    assert "int8-rounding" in found.output
    assert "Pairs trained on: one-photo-relearning 36\n" in found.output  # 18 associations, two passes


def test_the_options_in_the_commands_examples_are_there():
    [example] = re.findall(r"--set '(\S+)'", audit_command.epilog)
    [(name, value)] = parse_settings([example]).items()
    audit, option = name.split(".")
    [made] = make_audits(load_plugins(), [audit], {audit: {option: value}})
    assert made.options.lrs == (0.01,)


def test_what_cannot_be_measured_says_why(tmp_path):
    settings = Settings(cache=tmp_path, cpu=True)
    options = {"benchmark_options": {"identities": 1}}
    [result] = audit("compromised", audits=["membership-similarity"], benchmark="toy", settings=settings, **options)
    assert result.value is None
    assert "two identities" in result.reason


def test_an_unknown_audit_or_option_is_one_clear_error(tmp_path):
    with pytest.raises(SalmuError, match="few-shot"):
        audit("compromised", audits=["few-shot"], benchmark="toy", settings=Settings(cache=tmp_path))
    with pytest.raises(SalmuError, match="no option 'bits'"):
        audit("compromised", audits=["int8-rounding"], options={"int8-rounding": {"bits": 3}}, benchmark="toy")


def test_the_card_names_every_audit_and_the_entry_point_registers_them():
    card = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in card for name in NAMES)
    found = load_plugins().audits
    assert set(NAMES) <= set(found)
    assert isinstance(Leak(0.0).extras, dict)
