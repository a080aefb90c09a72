"""A whole evaluation against a second one, which reads parquet and JSON and asks open_clip itself, and uses nothing of ours.

It is written from what is known of the official evaluator. What is not known of it (what ACS's classifier sees, IdZSC's prompt) is our
guess in both.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split

import salmu_metrics
from salmu_core import BuildStep, hookimpl
from salmu_core.benchmark import Report
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.schema import Package, RunRecord
from salmu_core.runner.evaluate import evaluate
from salmu_core.runner.run import Settings
from salmu_mini.generate import generate
from salmu_mini.sizes import SIZES
from salmubench import Snapshot, SnapshotBenchmark, write_snapshot
from toy_methods import toy_plugins

Rows = list[dict]


class Published(SnapshotBenchmark):
    """A drawn snapshot and an untrained model. Its table of ordinary portraits also shows people of `holdout_identity`, as the published
    one does."""

    name = "published-layout"
    version = "1"
    summary = "For tests."

    def ready(self) -> bool:
        return (self.cache / "snapshot").is_dir()

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        tables = generate(SIZES["tiny"], 0)
        ordinary, others = tables.splits["retain_synth"], tables.splits["holdout_identity"]
        fragile = set(tables.fragile_ids)
        nobody = [place for place, row in enumerate(ordinary) if row.identity_id is None and row.file_name not in fragile][
            :5
        ]
        for place, other in zip(nobody, others, strict=False):
            ordinary[place] = ordinary[place]._replace(identity_id=other.identity_id)
        write_snapshot(self.cache / "snapshot", tables)
        if report:
            report(BuildStep("drawn", 1, 1))

    def snapshot(self) -> Snapshot:
        return Snapshot(self.cache / "snapshot")

    def load_model(self, which: Literal["clean", "compromised"]) -> DualEncoder:
        return DualEncoder.create(TOY_MODEL, 2)


class Benchmarks:
    """The plugin that brings it."""

    @hookimpl
    def register_benchmarks(self):
        return [Published]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the snapshot, the model and the result file."""
    root = tmp_path_factory.mktemp("official")
    known = toy_plugins()
    known.metrics.clear()
    add_plugin(known, salmu_metrics, Package(name="salmu-metrics", version="0"), "metrics")
    add_plugin(known, Benchmarks(), Package(name="published", version="0"), "published")
    settings = Settings(cache=root / "cache", cpu=True)
    out = root / "out" / "x.json"
    evaluate("compromised", benchmark=Published.name, protocol="official", out=out, settings=settings, plugins=known)
    [snapshot] = (root / "cache").rglob("snapshot")
    snapshot.rename(root / "snapshot")
    Published(cache=root).load_model("compromised").save(root / "model")
    return root


class SecondEvaluator:
    """The official evaluator, told again."""

    def __init__(self, snapshot: Path, model: Path) -> None:
        self.snapshot = snapshot
        self.model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{model}")
        self.forget = self.table("forget")
        people = {row["identity_id"] for row in self.forget}
        ordinary = self.table("retain_synth")
        self.joint = [row for row in ordinary if row["identity_id"] is not None and row["identity_id"] in people]
        self.disjoint = [row for row in ordinary if row["identity_id"] is None]
        others = {row["identity_id"] for row in self.table("holdout_association")}
        self.whole = [row for row in self.forget if row["identity_id"] not in others]

    def table(self, split: str) -> Rows:
        return [
            row
            for shard in sorted((self.snapshot / "data").glob(f"{split}-*.parquet"))
            for row in pq.read_table(shard).to_pylist()
        ]

    def json(self, name: str):
        return json.loads((self.snapshot / name).read_text())

    def images(self, rows: Rows) -> np.ndarray:
        content = (row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"] for row in rows)
        pixels = torch.stack([self.transform(Image.open(io.BytesIO(encoded))) for encoded in content])
        with torch.inference_mode():
            return self.model.encode_image(pixels, normalize=True).double().numpy()

    def texts(self, captions: list[str]) -> np.ndarray:
        with torch.inference_mode():
            return self.model.encode_text(self.tokenizer(captions), normalize=True).double().numpy()

    def cosines(self, rows: Rows) -> list[float]:
        return (self.images(rows) * self.texts([row["text"] for row in rows])).sum(1).tolist()

    def retrieval_and_shuffle(self) -> tuple[list[int], list[str]]:
        captions = [row["text"] for row in self.forget]
        np.random.seed(42)
        gallery = list(np.random.choice(captions, min(1000, len(captions)), replace=False))
        ordinary = [row["text"] for row in self.disjoint]
        gallery += list(np.random.choice(ordinary, min(1000, len(ordinary)), replace=False))
        shuffled = list(np.random.permutation(captions))
        images, own, others = self.images(self.forget), self.texts(captions), self.texts(gallery)
        ranks = []
        for image, caption, vector in zip(images, captions, own, strict=True):
            closer = [image @ other > image @ vector for text, other in zip(gallery, others, strict=True) if text != caption]
            ranks.append(1 + sum(closer))
        return ranks, shuffled

    def consistency(self, shuffled: list[str]) -> float:
        images = self.images(self.forget)
        true, false = self.texts([row["text"] for row in self.forget]), self.texts(shuffled)
        seen = np.concatenate([np.c_[images, texts, (images * texts).sum(1)] for texts in (true, false)])
        labels = np.repeat([1.0, 0.0], len(images))
        fit, tried, fit_labels, tried_labels = train_test_split(
            seen, labels, test_size=0.5, stratify=labels, random_state=42
        )
        design, weights = np.c_[fit, np.ones(len(fit))], np.zeros(seen.shape[1] + 1)
        ridge = np.eye(len(weights))
        ridge[-1, -1] = 0
        for _ in range(30):
            chance = 1 / (1 + np.exp(-design @ weights))
            curvature = (design * (chance * (1 - chance))[:, None]).T @ design + ridge
            weights -= np.linalg.solve(curvature, design.T @ (chance - fit_labels) + ridge @ weights)
        return float(((np.c_[tried, np.ones(len(tried))] @ weights > 0) == tried_labels).mean())

    def named_right(self) -> float:
        people = self.json("identities_metadata.json")
        names = list(dict.fromkeys(people[row["identity_id"]]["name"] for row in self.whole))
        nearest = (self.images(self.whole) @ self.texts(names).T).argmax(1)
        return float(
            np.mean([names[at] == people[row["identity_id"]]["name"] for at, row in zip(nearest, self.whole, strict=True)])
        )

    def core(self) -> list[float]:
        people, fields = self.json("identities_metadata.json"), self.json("sensitive_set_captions_metadata.json")
        names, values = [], []
        for row in self.forget:
            person = people[row["identity_id"]]
            found = person[fields[row["file_name"]]["data_field"]]
            found = found if isinstance(found, list) else [found]
            names.append(person["name"])
            values.append(next((value for value in found if value in row["text"]), found[0]))
        images = self.images(self.forget)
        orders = (
            [f"{n} {v}" for n, v in zip(names, values, strict=True)],
            [f"{v} {n}" for n, v in zip(names, values, strict=True)],
        )
        return np.maximum(*((images * self.texts(order)).sum(1) for order in orders)).tolist()

    def private_preferred(self, rows: Rows) -> float:
        generic = self.json("sensitive_set_generic_captions.json")
        images = self.images(rows)
        ordinary = (images * self.texts([generic[row["file_name"]] for row in rows])).sum(1)
        return float(((images * self.texts([row["text"] for row in rows])).sum(1) > ordinary).mean())


def test_a_whole_evaluation_agrees_with_a_second_one(evaluated: Path) -> None:
    second = SecondEvaluator(evaluated / "snapshot", evaluated / "model")
    [file] = (evaluated / "out").glob("evaluation_*.json")
    content = json.loads(file.read_text())
    efficacy, utility = content["efficacy"], content["utility"]
    # People of holdout_identity stand among the ordinary portraits, and in neither of both splits.
    assert len(second.joint) + len(second.disjoint) + 5 == len(second.table("retain_synth"))
    assert 0 < len(second.whole) < len(second.forget)

    ranks, shuffled = second.retrieval_and_shuffle()
    assert efficacy["1.1_RetFail"]["outcomes"] == ranks
    assert efficacy["1.1_RetFail"]["MRR"] == pytest.approx(np.mean([1 / rank for rank in ranks]), abs=1e-12)
    assert efficacy["1.3_ACS"]["acs_accuracy"] == second.consistency(shuffled)
    assert efficacy["1.4_IdZSC"]["identity_classification_accuracy"] == second.named_right()
    fragile = set(second.json("fragile_set_ids.json"))
    for found, expected in (
        (efficacy["1.2_AssocStr"], second.cosines(second.forget)),
        (efficacy["1.5_CoreAssoc"], second.core()),
        (utility["2.2_InterIdSim"], second.cosines(second.table("holdout_identity"))),
        (utility["2.3_IntraIdSim"], second.cosines(second.table("holdout_association"))),
        (utility["2.4_VisIdInt"], second.cosines(second.joint)),
        (utility["2.5_FragSim"], second.cosines([row for row in second.disjoint if row["file_name"] in fragile])),
    ):
        assert found["scores"] == pytest.approx(expected, abs=2e-6)
        assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    preference = RunRecord.model_validate_json((evaluated / "out" / "x.json").read_text()).scores["PrivPref"]
    assert preference.value == second.private_preferred(second.forget)
    assert preference.extras == {
        split: second.private_preferred(second.table(split)) for split in ("holdout_identity", "holdout_association")
    }
