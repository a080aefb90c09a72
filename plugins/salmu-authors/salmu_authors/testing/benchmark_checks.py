"""The contract of a benchmark, line by line, on one that is built."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from salmu_authors.testing.contract import Checks, NotApplicable, NotReached
from salmu_authors.testing.declarations import add_declaration_checks
from salmu_authors.testing.package import check_finished, package_card
from salmu_authors.testing.watch import fixed_randomness
from salmu_core.benchmark import Benchmark, Budget, PublishedRow, SplitInfo, evaluation_locked
from salmu_core.data.pixels import decode_image
from salmu_core.data.splits import Split
from salmu_core.errors import EvaluationLocked, SalmuError
from salmu_core.metric import Metric
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.plugins.calls import plugin_code
from salmu_core.plugins.loading import Entry
from salmu_core.plugins.process_state import ProcessState
from salmu_core.records.schema import Target

BENCHMARK_CHECKS = Checks()
add_declaration_checks(BENCHMARK_CHECKS)
check = BENCHMARK_CHECKS.add

_LOOKED_AT = 3  # images of each split that are decoded: a benchmark may have millions


class BenchmarkTrial:
    """A built benchmark; splits and models are read once."""

    def __init__(self, benchmark: Benchmark, entry: Entry[Any] | None = None) -> None:
        self.kind = "benchmark"
        self.benchmark = benchmark
        self.cls: Any = type(benchmark)
        self.options: dict[str, Any] = {}
        self.entry = entry

    def twin(self) -> Benchmark:
        """Another object of the same options and cache."""
        made: Benchmark = self.cls(self.benchmark.options, self.benchmark.cache)
        return made

    @cached_property
    def built(self) -> Benchmark:
        """The benchmark.

        Raises:
            NotReached: it is not built.
        """
        if not self.benchmark.ready():
            raise NotReached("It is not built.")
        return self.benchmark

    @cached_property
    def infos(self) -> Mapping[str, SplitInfo]:
        """What it says of its splits."""
        return self.benchmark.splits()

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Every split."""
        return {name: self.built.split(name) for name in self.infos}

    def of_role(self, role: str) -> Split:
        """The split that methods see in a role.

        Raises:
            NotReached: there is not exactly one.
        """
        names = [name for name, info in self.infos.items() if info.role == role]
        if len(names) != 1:
            raise NotReached("It has not one split of each role: see `roles`.")
        return self.splits[names[0]]

    @cached_property
    def loaded(self) -> tuple[dict[Target, DualEncoder], list[str], list[str]]:
        """Both models, which global generators loading them used, and which settings it left changed."""
        _ = self.built
        with fixed_randomness():
            state, drawn = ProcessState(), []
            changed: list[str] = []
            with plugin_code("It", changed.append, state, type(self.built).__module__.partition(".")[0]):
                models: dict[Target, DualEncoder] = {
                    which: self.built.load_model(which) for which in ("compromised", "clean")
                }
                drawn = state.drawn()
        return models, drawn, changed


# ---------------------------------------------------------------- what it says before it is built


@check("version", "`version` is set: results of different versions never share a table.")
def version(trial: BenchmarkTrial) -> None:
    assert trial.cls.version.strip(), "The version is empty: start with '1' and raise it whenever results change."


@check("roles", "There is exactly one split for methods to forget and one to retain.")
def roles(trial: BenchmarkTrial) -> None:
    given = [info.role for info in trial.infos.values()]
    for role in ("forget", "retain"):
        assert given.count(role) == 1, (
            f"There must be exactly one split with the role {role}, there are {given.count(role)}."
        )
    assert "evaluation" in given, "There is no split with the role evaluation: nothing that methods cannot see is measured."


@check("split-cards", "Every split says in a few words what it is.")
def split_cards(trial: BenchmarkTrial) -> None:
    bare = [name for name, info in trial.infos.items() if not info.summary.strip() or not info.sides]
    assert not bare, f"These splits have no summary or no sides: {', '.join(bare)}."


@check("identity", "What tells an instance from others is JSON, and two objects of the same options have the same.")
def identity(trial: BenchmarkTrial) -> None:
    given = dict(trial.benchmark.identity())
    try:
        json.dumps(given)
    except TypeError as error:
        raise AssertionError(f"identity() cannot be written as JSON: {error}.") from None
    assert given == dict(trial.twin().identity()), (
        "Two objects of the same options have different identities: use no time or counter."
    )


@check("plans", "Presets, downloads, published rows and metrics of its own have the right form.")
def plans(trial: BenchmarkTrial) -> None:
    for method, options in trial.benchmark.presets().items():
        assert isinstance(method, str) and isinstance(options, Mapping), "presets() maps method names to options."
    odd: list[Any] = [row for row in trial.benchmark.published() if not isinstance(row, PublishedRow)]
    odd += [metric for metric in trial.benchmark.metrics() if not isinstance(metric, Metric)]
    assert not odd, f"published() gives PublishedRow and metrics() gives Metric objects, not {odd[0]!r}."
    assert all(isinstance(item.what, str) for item in trial.benchmark.downloads()), "downloads() gives Download objects."


@check("built", "It is on this machine.")
def built(trial: BenchmarkTrial) -> None:
    assert trial.benchmark.ready(), f"The benchmark is not built: run `salmu build {trial.cls.name}` first."


@check("build-again", "Building what is there changes nothing.")
def build_again(trial: BenchmarkTrial) -> None:
    before = trial.built.fingerprint()
    twin = trial.twin()
    twin.build()
    assert twin.ready(), "After build() it is not ready."
    assert twin.fingerprint() == before, (
        "build() on a finished benchmark gave other data: do nothing where nothing is missing."
    )


# ---------------------------------------------------------------- its data


@check("splits-filled", "No split is empty.")
def splits_filled(trial: BenchmarkTrial) -> None:
    empty = [name for name, split in trial.splits.items() if not len(split)]
    assert not empty, f"The split {empty[0]} is empty."


@check("sides", "Every split has the sides that it declares.")
def sides(trial: BenchmarkTrial) -> None:
    for name, info in trial.infos.items():
        split = trial.splits[name]
        for side, there in (("image", split.images is not None), ("text", split.texts is not None)):
            assert (side in info.sides) == there, (
                f"The split {name} declares {', '.join(info.sides)}, and {side} is {there}."
            )


@check("trainable-pairs", "The forget and retain splits are pairs of images and captions.")
def trainable_pairs(trial: BenchmarkTrial) -> None:
    for role in ("forget", "retain"):
        split = trial.of_role(role)
        assert split.images is not None and split.texts is not None, f"Methods are handed pairs: {split.name} lacks a side."
        bare = [row for row, text in enumerate(split.texts) if not isinstance(text, str) or not text.strip()]
        assert not bare, f"Row {bare[0]} of {split.name} has no caption."


@check("associations", "Every forget row says whose association it is, and which.")
def associations(trial: BenchmarkTrial) -> None:
    split = trial.of_role("forget")
    for column in ("identity_id", "data_field"):
        assert column in split.columns, (
            f"{split.name} has no column {column}: paraphrases of one fact cannot be told from others."
        )
        bare = [row for row, value in enumerate(split.columns[column]) if value is None]
        assert not bare, f"Row {bare[0]} of {split.name} has no {column}."


@check("images", "Images can be decoded.")
def images(trial: BenchmarkTrial) -> None:
    for name, split in trial.splits.items():
        for row in range(min(_LOOKED_AT, len(split)) if split.images is not None else 0):
            try:
                decode_image(split.images, row, name)  # type: ignore[arg-type]
            except SalmuError as error:
                raise AssertionError(error.message) from None


@check("forget-retain-disjoint", "No image is in forget and in retain.")
def forget_retain_disjoint(trial: BenchmarkTrial) -> None:
    forget, retain = trial.of_role("forget"), trial.of_role("retain")
    if forget.images is None or retain.images is None:
        raise NotReached("A side is missing: see `trainable-pairs`.")
    shared = set(forget.image_keys) & set(retain.image_keys)
    assert not shared, (
        f"{len(shared)} images are in {forget.name} and in {retain.name}: what is to be forgotten would be retained."
    )


@check("holdouts-disjoint", "An evaluation split is a part of forget, or shares no pair with it.")
def holdouts_disjoint(trial: BenchmarkTrial) -> None:
    seen = {role: _pairs(trial.of_role(role)) for role in ("forget",)}
    for name, info in trial.infos.items():
        if info.role != "evaluation" or trial.splits[name].images is None or trial.splits[name].texts is None:
            continue
        pairs = _pairs(trial.splits[name])
        shared = pairs & seen["forget"]
        assert not shared or pairs <= seen["forget"], (
            f"{len(shared)} of {len(pairs)} pairs of {name} are in forget too: what methods are asked to forget must not be held out."
        )


@check("stand-ins", "What stands for an evaluation split, so that options may be chosen on it, holds nothing of that split.")
def stand_ins(trial: BenchmarkTrial) -> None:
    for name, split in trial.built.stand_ins().items():
        assert trial.infos.get(name) is not None and trial.infos[name].role == "evaluation", (
            f"stand_ins() names {name}, which is not an evaluation split."
        )
        own = trial.splits[name]
        assert (split.images is None, split.texts is None) == (own.images is None, own.texts is None), (
            f"The stand-in of {name} has not the sides of {name}."
        )
        pictures = set() if split.images is None else set(split.image_keys) & set(own.image_keys)
        shared = pictures or set(split.texts or ()) & set(own.texts or ())
        assert not shared, f"{len(shared)} of the stand-in of {name} are {name}'s own: options would be chosen on it."


@check("repeatable", "Another object of the same options reads the same rows.")
def repeatable(trial: BenchmarkTrial) -> None:
    twin = trial.twin()
    assert twin.fingerprint() == trial.built.fingerprint(), "The fingerprint is not stable: make it from content alone."
    for name, split in trial.splits.items():
        other = twin.split(name)
        assert _content(split) == _content(other), (
            f"The split {name} has other rows when it is read again: draw from a seeded generator."
        )


@check("evaluation-locked", "Evaluation splits cannot be read while a method runs.")
def is_locked(trial: BenchmarkTrial) -> None:
    _ = trial.built
    twin = trial.twin()
    for name, info in trial.infos.items():
        if info.role == "evaluation":
            try:
                with evaluation_locked():
                    twin.split(name)
            except EvaluationLocked:
                continue
            raise AssertionError(f"The split {name} can be read while a method runs: override load_split and not split.")


@check("budget", "The budget holds samples of both splits.")
def budget(trial: BenchmarkTrial) -> None:
    given = trial.built.budget()
    assert isinstance(given, Budget), f"budget() gives {given!r}, not a Budget."
    for role in ("forget", "retain"):
        count = getattr(given, role)
        assert isinstance(count, int) and count > 0, f"The budget holds {count} {role} samples."


# ---------------------------------------------------------------- its models


@check("models-repeatable", "Loading a model twice gives the same weights.")
def models_repeatable(trial: BenchmarkTrial) -> None:
    again = trial.twin()
    for which, model in trial.loaded[0].items():
        assert again.load_model(which).fingerprint() == model.fingerprint(), (
            f"Loading the {which} model twice gave other weights."
        )


@check("models-apart", "Clean and Compromised differ.")
def models_apart(trial: BenchmarkTrial) -> None:
    models = trial.loaded[0]
    assert models["clean"].fingerprint() != models["compromised"].fingerprint(), "Clean and Compromised are the same model."


@check("models-alike", "Clean and Compromised are of one architecture and see the same pixels and tokens.")
def models_alike(trial: BenchmarkTrial) -> None:
    clean, compromised = trial.loaded[0]["clean"], trial.loaded[0]["compromised"]
    shapes = [{name: tuple(tensor.shape) for name, tensor in model.weights().items()} for model in (clean, compromised)]
    assert shapes[0] == shapes[1], "Clean and Compromised are of other architectures."
    assert clean.processor.image_fingerprint == compromised.processor.image_fingerprint, (
        "The models preprocess images differently."
    )
    assert clean.processor.text_fingerprint == compromised.processor.text_fingerprint, (
        "The models have different tokenizers."
    )


@check("models-ready", "Models come in fp32, on the CPU, in eval mode and trainable.")
def models_ready(trial: BenchmarkTrial) -> None:
    for which, model in trial.loaded[0].items():
        odd = [n for n, t in model.weights().items() if t.is_floating_point() and t.dtype != torch.float32]
        assert not odd, f"{odd[0]} of the {which} model is {model.weights()[odd[0]].dtype}: load it as float32."
        assert model.device.type == "cpu", (
            f"The {which} model is on {model.device}: the runner moves it, load it on the CPU."
        )
        assert not model.training, f"The {which} model is in training mode: return model.eval()."
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        assert not frozen, f"{frozen[0]} of the {which} model takes no gradients, so no method can change it."


@check("no-global-randomness", "Loading draws nothing from global generators.")
def no_global_randomness(trial: BenchmarkTrial) -> None:
    drawn = list(trial.loaded[1])
    with fixed_randomness():
        state = ProcessState()
        twin = trial.twin()
        for name in trial.infos:
            twin.split(name)
        drawn += state.drawn()
    assert not drawn, (
        f"It draws from or seeds {', '.join(dict.fromkeys(drawn))}: use DualEncoder.create(config, seed) and own generators."
    )


@check("process-settings", "Settings of the process are as they were.")
def process_settings(trial: BenchmarkTrial) -> None:
    changed = trial.loaded[2]
    assert not changed, f"Loading its models left the process changed. {' '.join(changed)}"


@check("card", "The package has a card that names the benchmark.")
def card(trial: BenchmarkTrial) -> None:
    text = package_card(trial)
    assert trial.cls.name in text, f"The card does not mention {trial.cls.name}."
    check_finished(text)


def _pairs(split: Split) -> set[tuple[str, str]]:
    if split.images is None or split.texts is None:
        raise NotApplicable(f"{split.name} has no pairs.")
    return set(zip(split.image_keys, split.texts, strict=True))


def _content(split: Split) -> list[Any]:
    keys: Sequence[str] = split.image_keys if split.images is not None else ()
    return [list(keys), list(split.texts or ()), {name: list(values) for name, values in split.columns.items()}]
