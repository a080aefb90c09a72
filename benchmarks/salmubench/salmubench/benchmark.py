"""A benchmark from a snapshot in SALMUBench's layout: its splits, and the pair of models beside it."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from salmu_core.benchmark import Benchmark, Budget, Counted, PublishedRow, SplitInfo
from salmu_core.data.splits import Split, join_splits
from salmu_core.files.digests import FileDigests
from salmu_core.files.writing import visible
from salmu_core.records.schema import RunRecord
from salmubench import layout, rules
from salmubench.official import official_result, result_name
from salmubench.published import published_rows
from salmubench.snapshot import Snapshot

SPLITS: dict[str, SplitInfo] = {
    "forget": SplitInfo("forget", "associations to forget"),
    "retain": SplitInfo("retain", "ordinary pairs that a method may see"),
    "forget_identity": SplitInfo("evaluation", "forget rows of people who are forgotten whole"),
    "forget_association": SplitInfo("evaluation", "forget rows of people who are forgotten in part"),
    "holdout_identity": SplitInfo("evaluation", "associations of people nobody asked to forget"),
    "holdout_association": SplitInfo("evaluation", "other associations of people in forget"),
    "retain_joint": SplitInfo("evaluation", "ordinary portraits of people in forget"),
    "retain_disjoint": SplitInfo("evaluation", "ordinary portraits of strangers"),
    "fragile_set": SplitInfo("evaluation", "ordinary portraits nearest to the sensitive ones"),
    "genknow": SplitInfo("evaluation", "zero-shot pictures", ("image",)),
    "genknow_prompts": SplitInfo("evaluation", "captions of the zero-shot classes", ("text",)),
}

GENKNOW_SPLITS = (layout.GENKNOW, "genknow_prompts")


_FORGETTING, _HOLDOUT = Counted("clean", "forgetting"), Counted("compromised", "holdout")
_RETAINED, _GENERAL = Counted("compromised", "retained"), Counted("compromised", "general")
#: SALMUBench's ten, in its groups of five for what is forgotten and five for what is kept.
SCORING: Mapping[str, Counted] = {
    **dict.fromkeys(("RetFail", "AssocStr", "ACS", "IdZSC", "CoreAssoc"), _FORGETTING),
    "GenKnow": _GENERAL,
    **dict.fromkeys(("InterIdSim", "IntraIdSim"), _HOLDOUT),
    **dict.fromkeys(("VisIdInt", "FragSim"), _RETAINED),
}


class SnapshotBenchmark(Benchmark):
    """Splits of a snapshot. Subclasses say where it is, how it is built, and where the models are.

    Attributes:
        passes: the 1x budget in passes over the forget split; as many retain samples are allowed. SALMUBench's unit is
            not published; the authors' own baseline code trains for 10 epochs on equally large forget and retain batches
            (lluisgomez/MultiDelete, task_unlearn.py), so 10 it is.
    """

    passes: ClassVar[int] = 10
    scoring = SCORING

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The snapshot; raises NotBuilt when it is not there."""

    def splits(self) -> Mapping[str, SplitInfo]:
        return SPLITS

    def load_split(self, name: str) -> Split:
        snapshot = self.snapshot()
        match name:
            case "forget" | "holdout_identity" | "holdout_association":
                return snapshot.sensitive(name)
            case "forget_identity" | "forget_association":
                # The people who are forgotten in part are those with associations outside forget. Only the table is
                # read: a method may be running.
                partly = set(snapshot.table("holdout_association").columns["identity_id"])
                forget = self.split("forget")
                people = forget.columns["identity_id"]
                wanted = name == "forget_association"
                return forget.take([row for row, person in enumerate(people) if (person in partly) == wanted], name)
            case "retain":
                tables = [snapshot.table(layout.RETAIN)]
                if snapshot.has(layout.GENERAL):
                    tables.append(snapshot.table(layout.GENERAL))
                return join_splits("retain", tables)
            case "retain_joint" | "retain_disjoint":
                synth = snapshot.table(layout.RETAIN)
                people = synth.columns["identity_id"]
                if name == "retain_disjoint":
                    return synth.take([row for row, person in enumerate(people) if person is None], name)
                # As the official loader: of the portraits with an identity, those of people in forget. The published table
                # also shows people of holdout_identity, of whom nothing is forgotten.
                forgotten = set(self.split("forget").columns["identity_id"])
                return synth.take([row for row, person in enumerate(people) if person in forgotten], name)
            case "fragile_set":
                ids = snapshot.metadata(layout.FRAGILE_IDS)
                disjoint = self.split("retain_disjoint")
                files = disjoint.columns["file_name"]
                rules.raise_first_error(rules.fragile_findings(ids, files))
                chosen = set(ids)
                return disjoint.take([row for row, file in enumerate(files) if file in chosen], name)
            case "genknow":
                table = snapshot.table(layout.GENKNOW)
                return Split(name, table.images, None, table.columns)
            case _:
                prompts = snapshot.metadata(layout.PROMPTS)
                return Split(
                    name, texts=[item["text"] for item in prompts], columns={"label": [item["label"] for item in prompts]}
                )

    def published(self) -> Sequence[PublishedRow]:
        return published_rows(self.name)

    def result_files(self, record: RunRecord, rows: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """`evaluation_<slug>.json`, as the official evaluator writes it; nothing for a model that was not scored."""
        return {result_name(record): official_result(record, rows)} if record.scores else {}

    def budget(self) -> Budget:
        samples = self.passes * len(self.split("forget"))
        return Budget(forget=samples, retain=samples)

    def fingerprint(self) -> str:
        """SHA-256 over the content of every table and metadata file, by name. Files are read again only when they changed."""
        folder = self.snapshot().folder
        paths = sorted([*visible(folder, "*.json"), *visible(folder / layout.DATA, "*.parquet")])
        digest = hashlib.sha256()
        for path, content in zip(paths, FileDigests(self.cache / "digests").of(paths), strict=True):
            digest.update(path.name.encode() + b"\0" + bytes.fromhex(content))
        return digest.hexdigest()[:32]
