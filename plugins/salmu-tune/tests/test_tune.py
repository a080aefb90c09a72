"""Choosing options: what is carved out of forget and retain, what a trial is worth, presets."""

import json
from dataclasses import replace

import numpy as np
import pytest

from salmu_authors.testing import report_benchmark
from salmu_core import Between, FitOptions, LossMethod, OneOf, SalmuError, hookimpl
from salmu_core.builtin.toy import Toy
from salmu_core.cli.catalogue import facts_of
from salmu_core.comparison.verdict import Thresholds
from salmu_core.data.pairs import View
from salmu_core.errors import BadOptions
from salmu_core.evaluation.mismatch import mismatch
from salmu_core.losses import pair_cosine
from salmu_core.metric import Metric, Score
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.schema import Package, ScoreRecord
from salmu_core.runner.run import Settings
from salmu_core.spec.presets import preset_file, with_preset
from salmu_core.spec.resolve import make_benchmark, shipped_presets
from salmu_tune import plugin
from salmu_tune.rule import LARGEST_LOSS, Worth, lost_of, mean_worth, worth_of
from salmu_tune.search import Trial, choose, choose_and_run, make_grounds, tune
from salmu_tune.space import first_trial, searched_values, space_of, suggest
from salmu_tune.validation import Validation, carve, chance_to_be_first
from toy_methods import toy_plugins as core_plugins


def toy_plugins(*more):
    """Core, the toy methods, and the benchmark that options are chosen on."""
    plugins = core_plugins(*more)
    add_plugin(plugins, plugin, Package(name="salmu-tune", version="0"), "tune")
    return plugins


PEOPLE = [f"{person:02d}" for person in range(12) for _ in range(8)]
FIELDS = [field for _ in range(12) for field in ("name", "city", "iban", "job") for _ in range(2)]
RETAIN = [f"{person:02d}" for person in range(12) for _ in range(4)] + [None] * 200


def test_rows_are_shared_out_once_and_by_whole_associations():
    parts = carve(PEOPLE, FIELDS, RETAIN, 0)
    rows = [*parts.forget, *parts.holdout_identity, *parts.holdout_association]
    assert sorted(rows) == list(range(len(PEOPLE)))
    held = {PEOPLE[row] for row in parts.holdout_identity}
    assert len(held) == 3
    assert held.isdisjoint({PEOPLE[row] for row in (*parts.forget, *parts.holdout_association)})
    of = {name: {(PEOPLE[row], FIELDS[row]) for row in getattr(parts, name)} for name in ("forget", "holdout_association")}
    assert not of["forget"] & of["holdout_association"]
    partly = {person for person, _ in of["holdout_association"]}
    assert len(partly) == 4  # half of the other nine, rounded to even
    assert all(len([field for person, field in of["holdout_association"] if person == one]) == 2 for one in partly)
    assert {PEOPLE[row] for row in parts.forget_identity} == set(PEOPLE) - held - partly


def test_retain_rows_are_measured_or_seen_and_tell_nothing_about_identities_held_out():
    parts = carve(PEOPLE, FIELDS, RETAIN, 0)
    held = {PEOPLE[row] for row in parts.holdout_identity}
    assert not set(parts.retain) & set(parts.retain_validation)
    assert sorted([*parts.retain_joint, *parts.retain_disjoint]) == parts.retain_validation
    assert len(parts.retain_joint) == 8
    assert len(parts.retain_disjoint) == 20
    assert not held & {RETAIN[row] for row in (*parts.retain, *parts.retain_validation)}
    assert len(parts.retain) + len(parts.retain_validation) == len(RETAIN) - 4 * len(held)


def test_another_seed_sets_others_aside():
    assert carve(PEOPLE, FIELDS, RETAIN, 0) == carve(PEOPLE, FIELDS, RETAIN, 0)
    assert carve(PEOPLE, FIELDS, RETAIN, 0).holdout_identity != carve(PEOPLE, FIELDS, RETAIN, 1).holdout_identity


def test_too_few_identities_are_refused():
    with pytest.raises(SalmuError, match="2 identities"):
        carve(["a", "b"], ["name", "name"], [None], 0)


def test_mismatched_pairs_are_of_one_field_and_two_identities():
    rows, images = mismatch(PEOPLE, FIELDS)
    assert sorted(rows) == list(range(len(PEOPLE)))
    assert sorted(images) == sorted(rows)
    for row, image in zip(rows, images, strict=True):
        assert FIELDS[row] == FIELDS[image]
        assert PEOPLE[row] != PEOPLE[image]
    # Only one identity has a job: nobody to exchange it with.
    assert mismatch(["a", "a", "b"], ["job", "city", "city"]) == ([1, 2], [2, 1])


def validation(tmp_path, **options):
    return make_benchmark(
        "validation", {"base": "toy", "base_options": {"identities": 12}, **options}, toy_plugins(), tmp_path
    )


def test_only_forget_and_retain_of_the_other_benchmark_are_read(tmp_path, monkeypatch):
    read = []
    original = Toy.load_split
    monkeypatch.setattr(Toy, "load_split", lambda self, name: read.append(name) or original(self, name))
    monkeypatch.setattr(Toy, "load_model", lambda self, which, load=Toy.load_model: read.append(which) or load(self, which))
    benchmark = validation(tmp_path)
    for name in benchmark.splits():
        assert len(benchmark.split(name)) > 0
    benchmark.load_model("compromised")
    assert set(read) == {"forget", "retain", "compromised"}
    with pytest.raises(SalmuError, match="no Clean model"):
        benchmark.load_model("clean")


def test_a_trial_takes_as_many_samples_as_a_run(tmp_path):
    benchmark = validation(tmp_path)
    assert len(benchmark.split_for("forget")) < len(benchmark.base.split_for("forget"))
    assert benchmark.budget() == benchmark.base.budget()


def test_a_trial_may_lose_less_than_a_verdict_allows():
    limit = Thresholds.general_drop
    assert Worth(0.5, 0.5, 0.6 * limit).allowed
    assert not Worth(0.5, 0.5, 0.7 * limit).allowed


def test_mismatched_pairs_keep_their_captions(tmp_path):
    plain, mismatched = validation(tmp_path), validation(tmp_path, mismatched=True)
    assert plain.identity() != mismatched.identity()
    assert sorted(mismatched.split("forget").texts) == sorted(plain.split("forget").texts)
    images = dict(zip(plain.split("forget").texts, plain.split("forget").image_keys, strict=True))
    exchanged = zip(mismatched.split("forget").texts, mismatched.split("forget").image_keys, strict=True)
    assert all(images[text] != key for text, key in exchanged if text in images)


def test_it_keeps_a_benchmarks_contract_but_for_the_clean_model(tmp_path):
    failed = [result for result in report_benchmark(validation(tmp_path)).results if result.status == "failed"]
    assert failed
    assert all("no Clean model" in result.message for result in failed), failed
    with pytest.raises(SalmuError, match="out of itself"):
        Validation(Validation.Options(base="validation"))


class Tunable(LossMethod):
    """Pushes forget pairs apart."""

    name = "tunable"
    summary = "Has a space."
    family = "negative pairs"
    data = ("forget",)
    search = {"lr": Between(1e-6, 1e-1), "batch_size": OneOf((8, 16)), "beta1": Between(0.5, 0.9, log=False)}

    class Options(FitOptions):
        """Small."""

        batch_size: int = 12

    def loss(self, model, batch):
        return pair_cosine(*model(batch.forget)[:2]).mean()


@pytest.fixture
def tunable():
    plugins = toy_plugins()
    plugins.methods["tunable"] = replace(plugins.methods["ascent"], name="tunable", cls=Tunable)
    return plugins


def test_a_search_tries_the_defaults_first_goes_on_where_it_was_cut_and_writes_a_preset(tmp_path, tunable):
    arguments = {
        "benchmark": "toy",
        "benchmark_options": {"identities": 12},
        "bench_seeds": [3, 4],
        "trials": 4,
        "out": tmp_path / "tune",
        "settings": Settings(cache=tmp_path / "cache", cpu=True),
        "plugins": tunable,
    }

    class Cut(Exception):
        pass

    def cut(method, number, trials, trial):
        if number == 2:
            raise Cut

    with pytest.raises(Cut):
        tune(["tunable"], **arguments, show=cut)
    done = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "tune" / "trials").glob("*/record.json")}
    shown = []
    [found] = tune(["tunable"], **arguments, show=lambda *what: shown.append(what))
    again = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "tune" / "trials").glob("*/record.json")}
    assert {name: again[name] for name in done} == done
    assert not list((tmp_path / "tune" / "trials").glob("tunable*/model.safetensors"))
    assert [number for _, number, _, _ in shown] == [1, 2, 3, 4]
    assert found.trials[0].options == {}
    assert len({trial.options["lr"] for trial in found.trials[1:]}) == 3
    assert all(len(trial.scores) == (1 if trial.stopped else 2) for trial in found.trials)
    preset = json.loads(found.preset.read_text())
    assert preset["options"] == found.best.options
    assert len(preset["trials"]) == 4
    assert [sorted(one) for one in preset["references"]] == [["compromised", "never learned"]] * 2
    assert "RetainAcc" in preset["references"][0]["compromised"]
    assert preset["instances"] == [3, 4]
    assert preset["chosen"]["lost_in_run"] is None  # toy has nothing that stands for a zero-shot task
    assert found.preset.name == preset_file("tunable", 1.0) == "tunable-1x.json"
    chosen = with_preset("tunable", {"lr": 1.0}, Toy(), tmp_path / "tune" / "presets")
    assert chosen == {**found.best.options, "lr": 1.0}


def test_general_knowledge_is_read_from_what_a_benchmark_offers_in_the_place_of_its_zero_shot_task(monkeypatch):
    def made() -> Validation:
        return make_benchmark("validation", {"base": "toy"}, toy_plugins())

    assert [metric.name for metric in made().metrics()] == ["RetainAcc"]
    fresh = Toy().split("fragile_set").take([0, 1])
    monkeypatch.setattr(Toy, "stand_ins", lambda self: {"fragile_set": fresh})
    validation = made()
    assert validation.metrics() == ()
    assert validation.splits()["fragile_set"].role == "evaluation"
    assert list(validation.split("fragile_set").texts) == fresh.texts


def test_a_benchmarks_rate_of_pretraining_bounds_what_is_tried(tmp_path, tunable, monkeypatch):
    monkeypatch.setattr(Toy, "pretraining_rate", lambda self: 1e-5)
    [found] = tune(
        ["tunable"],
        benchmark="toy",
        benchmark_options={"identities": 12},
        trials=4,
        budgets=[2.0],
        out=tmp_path / "tune",
        settings=Settings(cache=tmp_path / "cache", cpu=True),
        plugins=tunable,
    )
    assert max(trial.options.get("lr", 1e-5) for trial in found.trials) <= 1e-5
    assert found.preset.name == "tunable-2x.json"


def test_ranges_and_defaults_above_the_rate_of_pretraining_come_down_to_it():
    assert space_of(Tunable, None) == Tunable.search
    assert space_of(Tunable, 1.0) == Tunable.search
    assert space_of(Tunable, 2e-6)["lr"] == Between(1e-6, 2e-6)
    assert space_of(Tunable, 1e-7)["lr"] == Between(1e-8, 1e-7)  # the whole range is above it
    assert first_trial(Tunable, space_of(Tunable, 1e-6)) == {"lr": 1e-6}  # its default is 1e-5
    assert first_trial(Tunable, space_of(Tunable, 1e-4)) == {}


def test_a_method_without_a_space_is_refused(tmp_path):
    with pytest.raises(BadOptions, match="ascent declares no search space"):
        tune(["ascent"], benchmark="toy", out=tmp_path, plugins=toy_plugins())


def score(value, target, aspect):
    return ScoreRecord(value=value, target=target, aspect=aspect, primary=True)


def scores_of(**values):
    kinds = {
        "F": ("clean", "forgetting"),
        "F2": ("clean", "forgetting"),
        "H": ("compromised", "holdout"),
        "G": ("compromised", "general"),
    }
    return {name: score(value, *kinds[name]).model_copy(update={"chance": 0.1}) for name, value in values.items()}


COMPROMISED = scores_of(F=1.0, F2=0.8, H=1.0, G=0.9)
NEVER = scores_of(F=0.0, F2=0.4, H=0.0, G=0.9)


def test_a_trial_is_worth_what_it_forgets_and_a_tenth_of_what_it_keeps():
    ideal = worth_of(scores_of(F=0.0, F2=0.4, H=1.0, G=0.9), NEVER, COMPROMISED)
    assert (ideal.forgotten, ideal.kept, ideal.lost, ideal.value) == (1.0, 1.0, 0.0, 1.1)
    # F a quarter of the way, F2 past its target by half the way: a quarter by the worse of the two, three eighths by their mean.
    partly = worth_of(scores_of(F=0.75, F2=0.2, H=0.6, G=0.9), NEVER, COMPROMISED)
    assert partly.forgotten == pytest.approx((0.25 + 0.375) / 2)
    assert partly.value == pytest.approx(0.3125 + 0.1 * 0.6)


def test_what_forgets_a_little_is_worth_more_than_what_does_nothing():
    # One metric has not moved, or went the wrong way, as at a small budget: by the worst metric alone both forget nothing.
    nothing = worth_of(COMPROMISED, NEVER, COMPROMISED)
    a_little = worth_of(scores_of(F=0.8, F2=0.82, H=0.95, G=0.9), NEVER, COMPROMISED)
    assert nothing.value == pytest.approx(0.1)
    assert a_little.value == pytest.approx(0.2 / 2 / 2 + 0.1 * 0.95)
    assert a_little.value > nothing.value


def test_a_trial_that_harms_cannot_be_chosen_however_much_it_forgets():
    # Chance is .1, so of .8 above it .04 may be lost.
    harmless = worth_of(scores_of(F=1.0, F2=0.8, H=1.0, G=0.9 - 0.8 * LARGEST_LOSS + 1e-9), NEVER, COMPROMISED)
    harmful = worth_of(scores_of(F=0.0, F2=0.4, H=1.0, G=0.9 - 0.8 * LARGEST_LOSS - 1e-3), NEVER, COMPROMISED)
    wrecked = worth_of(scores_of(F=0.0, F2=0.4, H=1.0, G=0.1), NEVER, COMPROMISED)
    assert harmless.allowed
    assert not harmful.allowed
    assert harmless.value > 0 > harmful.value > wrecked.value == -1.0


def test_the_largest_loss_of_all_instances_counts():
    fine = worth_of(scores_of(F=0.0, F2=0.4, H=1.0, G=0.9), NEVER, COMPROMISED)
    harmful = worth_of(scores_of(F=1.0, F2=0.8, H=0.5, G=0.5), NEVER, COMPROMISED)
    both = mean_worth([fine, harmful])
    assert (both.forgotten, both.kept, both.lost) == (0.5, 0.75, 0.5)
    assert not both.allowed


def test_nothing_is_worth_anything_where_forgetting_or_general_knowledge_was_not_measured():
    assert worth_of(scores_of(F=0.0, H=1.0), NEVER, COMPROMISED) is None
    assert worth_of(scores_of(H=1.0, G=0.9), NEVER, COMPROMISED) is None


def trial_of(value, *, stopped=False):
    return Trial({}, value, None, None, None, stopped, ["selective"], ["ok"], [1.0])


def test_a_trial_that_was_stopped_or_harms_is_chosen_only_where_there_is_no_other():
    assert choose([trial_of(0.2), trial_of(0.9, stopped=True), trial_of(-0.1)]).value == 0.2
    assert choose([trial_of(-0.3), trial_of(-0.06), trial_of(-2.0)]).value == -0.06


def test_what_a_run_lost_is_read_from_general_metrics_alone():
    assert lost_of(scores_of(F=0.0, G=0.5), NEVER, COMPROMISED) == pytest.approx(0.5)
    assert lost_of(scores_of(F=0.0, G=1.0), NEVER, COMPROMISED) == 0.0
    assert lost_of(scores_of(F=0.0), NEVER, COMPROMISED) is None


class Ran:
    """An instance on which the run of a trial with lr loses what is told."""

    def __init__(self, lost):
        self.lost, self.asked = lost, []

    def lost_in_run(self, method, options, budget):
        self.asked.append(options["lr"])
        return self.lost[options["lr"]]


def trials_of(*values):
    return [replace(trial_of(value), options={"lr": number}) for number, value in enumerate(values)]


def test_what_harms_in_a_run_gives_way_to_the_next_best():
    first, second = Ran({0: 0.0, 1: 0.5, 2: 0.01}), Ran({0: 0.0, 1: 0.0, 2: 0.0195})
    trials, best = choose_and_run("any", trials_of(0.1, 0.9, 0.5), [first, second], 1.0)
    assert (best.value, best.lost_in_run) == (0.5, 0.0195)
    assert [trial.lost_in_run for trial in trials] == [None, 0.5, 0.0195]
    assert (first.asked, second.asked) == ([1, 2], [2])  # the first instance already refused it


def test_where_every_run_harms_the_one_that_harms_least_is_taken_and_told():
    trials, best = choose_and_run("any", trials_of(0.1, 0.9, -0.3), [Ran({0: 0.03, 1: 0.5})], 1.0)
    assert (best.value, best.lost_in_run, best.harms_in_a_run) == (0.1, 0.03, True)
    assert trials[2].lost_in_run is None


def test_no_run_is_made_where_no_trial_may_be_chosen_or_nothing_stands_for_the_zero_shot_task():
    assert choose_and_run("any", trials_of(-0.1, -0.3), [Ran({})], 1.0)[1].lost_in_run is None
    assert choose_and_run("any", trials_of(0.1, 0.3), [Ran({1: None})], 1.0)[1].value == 0.3


def test_nothing_is_set_aside_of_a_whole_one_and_trials_of_before_are_the_same_trials(tmp_path):
    whole, carved = validation(tmp_path, whole=True), validation(tmp_path)
    assert set(whole.splits()) == {"forget", "retain"}
    for name in whole.splits():
        assert list(whole.split_for(name).image_keys) == list(whole.base.split_for(name).image_keys)
    assert "whole" not in carved.identity()
    assert whole.fingerprint() != carved.fingerprint()
    with pytest.raises(SalmuError, match="not both"):
        validation(tmp_path, whole=True, mismatched=True)


class Level(Metric):
    """General knowledge that no method touches."""

    name = "Level"
    summary = "Is the same for all."
    target = "compromised"
    aspect = "general"
    primary = True
    bounds = (0.0, 1.0)

    def needs(self):
        return {"image": View("genknow", "image")}

    def compute(self, image):
        rows = np.full(len(image.vectors), 0.5)
        return Score(0.5, rows, chance=0.1)


def test_a_run_with_nothing_set_aside_is_measured_where_something_stands_for_the_zero_shot_task(
    tmp_path, tunable, monkeypatch
):
    settings = Settings(cache=tmp_path / "cache", cpu=True)

    def lost():
        [ground] = make_grounds("toy", {"identities": 12}, (), 0, "no", tmp_path, settings, tunable)
        return ground.lost_in_run("tunable", {}, 1.0)

    monkeypatch.setattr(Validation, "metrics", lambda self: (Level(),))
    assert lost() is None
    fresh = {name: Toy().split(name) for name in ("genknow", "genknow_prompts")}
    monkeypatch.setattr(Toy, "stand_ins", lambda self: fresh)
    assert lost() == 0.0
    [run] = (tmp_path / "trials").glob("tunable*/record.json")
    record = json.loads(run.read_text())
    assert record["spec"]["benchmark_options"]["whole"] is True
    assert record["cost"]["samples"]["forget"] >= len(Toy(Toy.Options(identities=12)).split("forget"))


def test_the_own_caption_is_first_among_so_many_drawn_with_this_chance():
    # 4 captions, the own one and 1 drawn of the 3 others; 2 drawn of 3: (3 - b choose 2) / 3.
    assert chance_to_be_first(np.array([0, 1, 2, 3]), 4, 2).tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert chance_to_be_first(np.array([0, 1, 2, 3]), 4, 3).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert chance_to_be_first(np.array([0, 1]), 4, 4).tolist() == [1, 0]  # all are shown: first or not


def test_presets_are_those_of_the_runs_budget_or_of_the_nearest(tmp_path):
    for budget, lr in ((None, 1.0), (5, 5.0), (20, 20.0)):
        named = {} if budget is None else {"budget": budget}
        (tmp_path / f"{budget}.json").write_text(json.dumps({"method": "delete", "options": {"lr": lr}, **named}))
    taken = {budget: with_preset("delete", {}, Toy(), tmp_path, budget)["lr"] for budget in (0.1, 1, 2, 3, 5, 10, 100)}
    assert taken == {0.1: 1, 1: 1, 2: 1, 3: 5, 5: 5, 10: 5, 100: 20}  # 10 is as near to 5 as to 20
    (tmp_path / "5.json").write_text(json.dumps({"method": "delete", "options": {}, "budget": -1}))
    with pytest.raises(BadOptions, match="names the budget -1"):
        with_preset("delete", {}, Toy(), tmp_path)


def test_defaults_outside_the_space_teach_the_search_nothing():
    assert searched_values(Tunable, Tunable.search, {}) == {}  # the batch size of 12 is not among the values

    class Other(Tunable):
        """Another space."""

        search = {"lr": Between(1e-6, 1e-1), "beta1": Between(0.5, 0.9, log=False)}

    assert searched_values(Other, Other.search, {"lr": 1e-3}) == {"lr": 1e-3, "beta1": 0.9}
    space = {"epochs": Between(1.0, 2.0)}
    assert searched_values(Other, space, {}) == {}  # none: all that the budget holds


def test_suggestions_are_short_numbers_inside_the_space():
    class Draws:
        def suggest_float(self, name, low, high, log):
            return 0.0123456 if name == "lr" else high

        def suggest_categorical(self, name, values):
            return values[-1]

        def suggest_int(self, name, low, high, log):
            return low

    class Whole(Tunable):
        """Whole numbers where the option takes whole numbers, whatever the range is written with."""

        search = {"accumulate": Between(1, 4), "weight_decay": Between(0, 1, log=False)}

    assert suggest(Draws(), Whole, Whole.search) == {"accumulate": 1, "weight_decay": 1}
    assert suggest(Draws(), Tunable, Tunable.search) == {"lr": 0.0123, "batch_size": 16, "beta1": 0.9}


def test_shipped_presets_are_those_of_benchmarks_that_need_no_options():
    class WithPreset(Toy):
        name = "with-preset"

        def presets(self):
            return {"delete": {"lr": 1e-2}, "none": {}}

    class Plugin:
        @hookimpl
        def register_benchmarks(self):
            return [WithPreset]

    plugins = toy_plugins()
    add_plugin(plugins, Plugin(), Package(name="presets", version="1"), "presets")
    assert shipped_presets(plugins)["with-preset"] == {"delete": {"lr": 1e-2}, "none": {}}
    assert facts_of(plugins.methods["ascent"], shipped_presets(plugins))["presets"] == {}
    assert plugins.problems == []


def test_a_benchmark_that_fails_when_asked_for_presets_is_noted_and_others_go_on():
    class WithPreset(Toy):
        name = "with-preset"

        def presets(self):
            return {"delete": {"lr": 1e-2}}

    class Broken(Toy):
        name = "broken"

        def presets(self):
            raise FileNotFoundError("presets.json")

    class Plugin:
        @hookimpl
        def register_benchmarks(self):
            return [Broken, WithPreset]

    plugins = toy_plugins()
    add_plugin(plugins, Plugin(), Package(name="presets", version="1"), "presets")
    assert shipped_presets(plugins)["with-preset"] == {"delete": {"lr": 1e-2}}
    [problem] = plugins.problems
    assert str(problem).endswith("presets of its benchmark 'broken' cannot be read: FileNotFoundError: presets.json")


def test_presets_give_way_to_what_is_asked_for(tmp_path):
    class WithPreset(Toy):
        def presets(self):
            return {"delete": {"lr": 1e-2, "batch_size": 8}}

    benchmark = WithPreset()
    assert with_preset("delete", {"lr": "3"}, benchmark, "benchmark") == {"lr": "3", "batch_size": 8}
    assert with_preset("delete", {}, benchmark, "none") == {}
    assert with_preset("other", {}, benchmark, "benchmark") == {}
    path = tmp_path / "delete.json"
    path.write_text(json.dumps({"method": "delete", "options": {"lr": 5}}))
    assert with_preset("delete", {}, benchmark, path) == {"lr": 5}
    with pytest.raises(BadOptions, match="is for delete, not for other"):
        with_preset("other", {}, benchmark, path)
    path.write_text("{}")
    with pytest.raises(BadOptions, match="is not a preset"):
        with_preset("delete", {}, benchmark, path)
