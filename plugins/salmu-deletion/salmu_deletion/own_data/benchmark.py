"""The benchmark `own-data`: a user's model, the pairs it is to forget, and pairs it is to keep."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import field_validator

from salmu_core.benchmark import Benchmark, Budget, BuildStep, Report, SplitInfo, Terms
from salmu_core.data.images import content_key
from salmu_core.data.splits import Split
from salmu_core.errors import BadCheckpoint, BadData, BadOptions, SalmuError
from salmu_core.evaluation.retrieval import RetainRetrieval
from salmu_core.files.digests import FileDigests
from salmu_core.files.writing import default_cache
from salmu_core.metric import Metric
from salmu_core.models.dual_encoder import CONFIG_FILE, DualEncoder, ModelConfig
from salmu_core.models.hf_settings import HF_CONFIG, is_hf_clip, read_hf_config, usual_pictures
from salmu_core.models.loading import load_model
from salmu_core.models.processor import Processor
from salmu_core.models.weights import weight_files
from salmu_core.options import AnyOptions, Field, Options
from salmu_core.records.schema import Target
from salmu_deletion.own_data.chain import EARLIER, Earlier, EarlierRetrieval, earlier_requests, earlier_split
from salmu_deletion.own_data.given import GivenTables
from salmu_deletion.own_data.metrics import ForgetRetrieval
from salmu_deletion.own_data.never_learned import mismatched
from salmu_deletion.own_data.parts import RetainParts, as_split, share_out
from salmu_deletion.own_data.tables import Table, table_files

#: Retain samples that a pass over forget allows at least: a usual batch. Most requests have a few rows, and as few pairs to keep in
#: a step would hold nothing in place.
RETAIN_EACH_PASS = 64


class OwnDataOptions(Options):
    """Options of `own-data`. Paths may move: a run is known by what lies there."""

    model: str | None = Field(
        None,
        description="open_clip folder, .safetensors/.pt/.bin file, hf-hub:OWNER/NAME@COMMIT, or a folder in transformers' layout",
    )
    forget: Path | None = Field(
        None, description="table of pairs to forget: .csv, .tsv, .parquet, .tar, or a folder of shards"
    )
    retain: Path | None = Field(None, description="table of pairs to keep")
    columns: dict[str, str] = Field(
        default_factory=dict, description="part -> column; parts: image, caption, identity, field, name, value"
    )
    images: Path | None = Field(None, description="folder that relative paths of pictures begin in; none: the table's own")
    architecture: str | None = Field(
        None, description="open_clip's name, for a file of weights without open_clip_config.json beside it"
    )
    after: Path | None = Field(
        None, description="run directory of the request before this one: its pairs, and those before, must stay forgotten"
    )
    passes: float = Field(
        10,
        gt=0,
        le=1e6,
        description="the 1x budget in passes over forget; as many retain samples are allowed, and at least 64 in each",
    )
    seed: int = Field(0, ge=0, description="which retain rows are set aside to measure is drawn from it")
    mismatched: bool = Field(
        False, description="pairs of people get the picture of another person: associations that nobody ever learned"
    )

    @field_validator("forget", "retain", "images", "after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        """A record's command must work from everywhere."""
        return None if path is None else Path(os.path.expanduser(path)).absolute()

    @field_validator("model")
    @classmethod
    def _place(cls, model: str | None) -> str | None:
        if model is None or model.startswith("hf-hub:"):
            return model
        return str(Path(os.path.expanduser(model.removeprefix("local-dir:"))).absolute())


class OwnData(Benchmark):
    """Somebody's own model and pairs.

    There is no Clean model. Its row is measured on a twin of this benchmark in which every picture of a person has the captions
    of another one, with the model as it was given: what an association looks like that was never learned.
    """

    name = "own-data"
    version = "1"
    summary = "Your own model, pairs it is to forget and pairs it is to keep (salmu forget)."
    private = True
    Options = OwnDataOptions

    def __init__(self, options: AnyOptions | None = None, cache: Path | None = None) -> None:
        super().__init__(options, cache)
        # The names of private files do not belong in the user's cache.
        self._digests = FileDigests(None if self.cache == default_cache() else self.cache / "digests")

    def ready(self) -> bool:
        return True  # everything is the user's; what is missing is an error that says so

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        if report is not None:
            report(BuildStep("nothing to build", 1, 1))

    # ------------------------------------------------------------------ data

    @cached_property
    def _given(self) -> GivenTables:
        return GivenTables(self.options)

    @property
    def forget_table(self) -> Table:
        """The table of pairs to forget."""
        return self._given.forget

    @property
    def retain_table(self) -> Table | None:
        """The table of pairs to keep."""
        return self._given.retain

    @cached_property
    def earlier(self) -> list[Earlier]:
        """The requests before this one, newest first.

        Raises:
            BadRecord: see `earlier_requests`.
        """
        return [] if self.options.after is None else earlier_requests(self.options.after)

    @cached_property
    def _earlier(self) -> Split | None:
        return earlier_split(self.earlier)

    @cached_property
    def _earlier_parts(self) -> bool:
        """Can pairs of earlier requests be mismatched?"""
        try:
            self.load_split(EARLIER)
        except BadData:
            return False
        return True

    def splits(self) -> Mapping[str, SplitInfo]:
        found = dict(self._own_splits())
        if (earlier := self._earlier) is not None and (not self.options.mismatched or self._earlier_parts):
            summary = "pairs of earlier requests, which must stay forgotten"
            found[EARLIER] = SplitInfo("evaluation", summary, columns=frozenset(earlier.columns))
        return found

    def _own_splits(self) -> Mapping[str, SplitInfo]:
        given = self.options
        known = self._columns() if given.forget is not None else None
        found = {
            "forget": SplitInfo("forget", "pairs to forget", columns=known),
            "forget_identity": SplitInfo("evaluation", "the same: whoever is named there is forgotten", columns=known),
        }
        if given.retain is None and given.forget is not None:
            return found
        found["retain"] = SplitInfo("retain", "pairs to keep that a method may see")
        found["retain_validation"] = SplitInfo("evaluation", "pairs to keep, set aside to measure")
        parts = self._parts if given.forget is not None else None
        for name, rows, summary in (
            ("retain_joint", parts and parts.of_forgotten, "of those, pairs of people in forget"),
            ("holdout_identity", parts and parts.of_others, "of those, pairs of other people who are known"),
            ("retain_disjoint", parts and parts.not_of_forgotten, "of those, pairs of nobody in forget"),
        ):
            if parts is None or rows:
                found[name] = SplitInfo("evaluation", summary, columns=known if name == "holdout_identity" else None)
        return found

    def _columns(self) -> frozenset[str]:
        table = self.forget_table
        usual = {"identity_id", "file_name", "data_field"}
        return frozenset(usual | ({"name"} if table.names else set()) | ({"value"} if table.values else set()))

    @cached_property
    def _parts(self) -> RetainParts:
        table = self.retain_table
        assert table is not None
        forgotten = frozenset(identity for identity in self.forget_table.identities or () if identity is not None)
        return share_out(list(table.identities or [None] * len(table)), forgotten, self.options.seed)

    @cached_property
    def _forget(self) -> Split:
        table = self.forget_table
        unknown = table.identities is None or None in table.identities
        keys = [content_key(table.images.read(row)).hex() for row in range(len(table))] if unknown else None
        return as_split("forget", table, keys)

    @cached_property
    def _retain(self) -> Split:
        assert self.retain_table is not None
        return as_split("retain", self.retain_table)

    def load_split(self, name: str) -> Split:
        if name == EARLIER:
            assert self._earlier is not None
            split = self._earlier
        elif name in ("forget", "forget_identity"):
            split = self._forget.take(range(len(self._forget)), name)
        else:
            parts = self._parts
            rows = {
                "retain": parts.seen,
                "retain_validation": parts.aside,
                "retain_joint": parts.of_forgotten,
                "holdout_identity": parts.of_others,
                "retain_disjoint": parts.not_of_forgotten,
            }[name]
            split = self._retain.take(rows, name)
        if not self.options.mismatched or name not in _OF_PEOPLE:
            return split
        by_field = self.forget_table.fields is not None
        return mismatched(split, self.processor, self._others(split), by_field=by_field)

    def _others(self, split: Split) -> Split | None:
        """Rows of known people who are not in a split of one: of retain those that no method sees, where there are some."""
        people = set(split.columns["identity_id"])
        if len(people) > 1:
            return None
        if split.name == "holdout_identity":
            return self._forget
        if self.retain_table is None:
            return None
        known = self._retain.columns["identity_id"]
        rows = self._parts.of_others or [row for row, who in enumerate(known) if who is not None]
        rows = [row for row in rows if known[row] not in people]
        return self._retain.take(rows) if rows else None

    # ------------------------------------------------------------------ models

    def load_model(self, which: Target) -> DualEncoder:
        if which == "clean":
            raise SalmuError(
                "There is no Clean model of your data: nobody trained one without the pairs to forget.",
                "The Clean row shows your model on mismatched pairs instead. Audits and oracle methods cannot run here.",
            )
        if self.options.model is None:
            raise BadOptions("own-data was given no model.", "--bench-set model=PLACE, or use `salmu forget`.")
        named = self.options.architecture
        return load_model(self.options.model, like=None if named is None else ModelConfig.named(named))

    @cached_property
    def processor(self) -> Processor:
        """What the model sees pictures and reads captions through."""
        return self.load_model("compromised").processor

    def reference(self, which: Target) -> tuple[Benchmark, Target]:
        if which == "compromised" or self.options.mismatched:
            return self, "compromised"
        return self.never_learned, "compromised"

    @cached_property
    def never_learned(self) -> OwnData:
        """The twin whose pairs of people are mismatched."""
        twin = OwnData(self.options.model_copy(update={"mismatched": True}), self.cache)
        # Tables are read once.
        twin.__dict__ |= {name: getattr(self, name) for name in ("_given", "_forget", "earlier", "_earlier")}
        return twin

    def hub_model(self, which: Target) -> str | None:
        model = self.options.model
        return model.removeprefix("hf-hub:") if which == "compromised" and model and model.startswith("hf-hub:") else None

    def terms(self) -> Sequence[Terms]:
        name = self.hub_model("compromised")
        if name is None:
            return ()
        words = "The model that this one was made from has terms of its own, which go on to what is made from it: read them there."
        return (Terms(f"model {name}", f"https://huggingface.co/{name.partition('@')[0]}", words),)

    # ------------------------------------------------------------------ identity

    def budget(self) -> Budget:
        rows = len(self.forget_table)
        retain = int(self.options.passes * max(rows, RETAIN_EACH_PASS)) if self.options.retain is not None else 0
        return Budget(forget=max(1, int(self.options.passes * rows)), retain=retain)

    def identity(self) -> Mapping[str, Any]:
        """What was given by its content, so that folders may move."""
        given = self.options
        if given.forget is None or given.model is None:
            return given.model_dump(mode="json")  # type: ignore[no-any-return]
        return {
            "model": self._model_identity,
            "data": self.fingerprint(),
            "passes": given.passes,
            "seed": given.seed,
            # Nobody is given a picture of their own: an older version's measure of never-learned pairs is not taken over.
            "mismatched": "strangers" if given.mismatched else False,
            **self._small(),
            **self._before(),
        }

    def _small(self) -> dict[str, Any]:
        """What tells a request of few rows from one of salmu 0.2, which allowed it less. Larger ones are the same."""
        few = self.options.retain is not None and len(self.forget_table) < RETAIN_EACH_PASS
        return {"retain_each_pass": RETAIN_EACH_PASS} if few else {}

    def _before(self) -> dict[str, Any]:
        """What the requests before say, by their content. Nothing for the first one, so that its identity is as it was before there
        were chains."""
        if self.options.after is None:
            return {}
        return {"earlier": [None if item.data is None else item.data.forget_fingerprint() for item in self.earlier]}

    def forget_fingerprint(self) -> str:
        """SHA-256 over captions, columns and pictures of the pairs to forget alone."""
        return self._digest_of([self._given.forget_as_read])  # which pairs to keep were given is no matter

    @cached_property
    def _model_identity(self) -> str:
        model = str(self.options.model)
        if model.startswith("hf-hub:"):
            return model
        place = Path(model)
        if not place.exists():
            raise BadCheckpoint(
                f"There is no model at '{model}'.",
                "A model is an open_clip folder, a .safetensors/.pt/.bin file, hf-hub:OWNER/NAME, or a folder in transformers'"
                " layout.",
            )
        folder = place if place.is_dir() else place.parent
        hf = place.is_dir() and is_hf_clip(place)
        config = folder / (HF_CONFIG if hf else CONFIG_FILE)
        described = [config.read_text(encoding="utf-8") if config.is_file() else str(self.options.architecture)]
        if hf and not usual_pictures(preprocess := read_hf_config(place)[1]):  # open_clip says it in the same file
            described.append(json.dumps(preprocess, sort_keys=True))
        weights = self._digests.of(weight_files(place))
        return f"content {hashlib.sha256(json.dumps([*described, *weights]).encode()).hexdigest()[:32]}"

    def fingerprint(self) -> str:
        """SHA-256 over captions, columns and pictures of every row of both tables."""
        cached: str | None = self.__dict__.get("_fingerprint")
        if cached is None:
            tables = [table for table in (self.forget_table, self.retain_table) if table is not None]
            cached = self.__dict__["_fingerprint"] = self._digest_of(tables)
        return cached

    def _digest_of(self, tables: Sequence[Table]) -> str:
        digest = hashlib.sha256()
        for table in tables:
            rows = [table.captions, table.identities, table.fields, table.names, table.values]
            digest.update(json.dumps(rows).encode())
            for content in self._pictures(table):
                digest.update(content.encode())
        return digest.hexdigest()[:32]

    def _pictures(self, table: Table) -> Sequence[str]:
        """Digests of the files that pictures lie in: their own, or the shards."""
        from salmu_core.data.images import FileImages, ImagePlaces

        places = ImagePlaces.of(table.images)
        files = [file for source in places.sources if isinstance(source, FileImages) for file in source.files()]
        missing = next((file for file in files if not file.is_file()), None)
        if missing is not None:
            raise BadData(f"There is no image '{missing}'.", "See all that is wrong with `salmu forget ... --check-only`.")
        return self._digests.of(files)

    def files(self) -> list[Path]:
        """The tables' own files."""
        return [
            file for path in (self.options.forget, self.options.retain) if path is not None for file in table_files(path)
        ]

    def metrics(self) -> Sequence[Metric]:
        found: list[Metric] = [ForgetRetrieval()]
        if self.options.after is not None:
            found.append(EarlierRetrieval())
        return [*found, RetainRetrieval()] if self.options.retain is not None else found


_OF_PEOPLE = ("forget", "forget_identity", "holdout_identity", EARLIER)
