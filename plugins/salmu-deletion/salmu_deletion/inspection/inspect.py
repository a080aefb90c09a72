"""What became of one person or one association: before, after, in a model that never learned it, and of its neighbours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from salmu_core.benchmark import Benchmark
from salmu_core.comparison.verdict import recovered_words
from salmu_core.data.cache import DataCache
from salmu_core.errors import BadCheckpoint, BadOptions, BadRecord, SalmuError
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.attacks import read_attacks
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import read_record
from salmu_core.runner.accelerate_setup import AUTOCAST, open_accelerator
from salmu_core.runner.progress import Progress
from salmu_core.runner.run import Settings
from salmu_core.spec.resolve import benchmark_of_run, make_metrics
from salmu_deletion.inspection.models import Embedding, Which, embed_rows, means
from salmu_deletion.inspection.rows import Row, find_association, find_identity, gather_rows, list_people
from salmu_deletion.inspection.words import sentences


@dataclass(frozen=True)
class PairView:
    """One pair: cosine and ranks by model, and whether the most similar caption of all is one that tells of the same person; None
    where a model was not measured on it."""

    row: Row
    similarity: Mapping[str, float | None]
    caption_rank: Mapping[str, int | None]
    picture_rank: Mapping[str, int | None]
    tells_of_person: Mapping[str, bool | None]


@dataclass(frozen=True)
class Neighbour:
    """Another association, and how far it moved.

    Attributes:
        closeness: cosine of its mean picture with that of what is looked at, both before; what is close is hit first.
        change: mean similarity after less before.
        best_rank: of its rows' captions, by model.
    """

    association: str
    name: str | None
    split: str
    group: str
    rows: int
    closeness: float
    similarity: Mapping[str, float | None]
    change: float
    best_rank: Mapping[str, int | None]


@dataclass(frozen=True)
class Inspection:
    """All that is known of one person or association in a run."""

    record: RunRecord
    title: str
    group: str
    pairs: Sequence[PairView]
    gallery: int
    pictures: int
    models: Sequence[str]
    stand_in: bool  # Clean is the model before on mismatched pairs
    neighbours: Mapping[str, Sequence[Neighbour]]
    affected: Mapping[str, Mapping[str, float]]  # group -> how many associations moved, of how many
    attacks: str = ""  # what attacks on the whole model brought back, in a sentence; "" where nothing was attacked
    notes: Sequence[str] = ()
    words: Sequence[str] = field(default_factory=tuple)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """By model: mean similarity; how many pictures were measured, find their own caption first, find some caption of the same
        person first; median and mean reciprocal rank."""
        found: dict[str, dict[str, float | None]] = {}
        for which in self.models:
            ranks = [rank for pair in self.pairs if (rank := pair.caption_rank[which]) is not None]
            found[which] = {
                "similarity": means({which: [pair.similarity[which] for pair in self.pairs]})[which],
                "first": sum(rank == 1 for rank in ranks) if ranks else None,
                "of_person": sum(bool(pair.tells_of_person[which]) for pair in self.pairs) if ranks else None,
                "measured": len(ranks),
                "median_rank": float(statistics.median(ranks)) if ranks else None,
                "mean_reciprocal_rank": sum(1 / rank for rank in ranks) / len(ranks) if ranks else None,
            }
        return found

    def as_json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            "run": self.record.id,
            "method": self.record.spec.method,
            "benchmark": self.record.spec.benchmark,
            "subject": self.title,
            "group": self.group,
            "words": list(self.words),
            "attacks": self.attacks,
            "captions_in_gallery": self.gallery,
            "pictures_in_gallery": self.pictures,
            "clean_is_a_stand_in": self.stand_in,
            "summary": self.summary(),
            "pairs": [
                {
                    **{
                        name: getattr(pair.row, name)
                        for name in ("association", "split", "group", "name", "file_name", "caption")
                    },
                    "similarity": dict(pair.similarity),
                    "caption_rank": dict(pair.caption_rank),
                    "picture_rank": dict(pair.picture_rank),
                    "nearest_caption_tells_of_person": dict(pair.tells_of_person),
                }
                for pair in self.pairs
            ],
            "neighbours": {group: [vars(item) for item in found] for group, found in self.neighbours.items()},
            "affected": {group: dict(counts) for group, counts in self.affected.items()},
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Opened:
    """A run with the benchmark it ran over and the rows that can be looked at."""

    folder: Path
    record: RunRecord
    benchmark: Benchmark
    rows: Sequence[Row]
    views: Sequence[Any]
    plugins: Plugins
    settings: Settings


def open_run(run: str | Path, settings: Settings | None = None, plugins: Plugins | None = None) -> Opened:
    """Find a run's benchmark again.

    Raises:
        BadRecord: no run directory, or one without a model.
        NotBuilt: the benchmark's data is not on this machine.
        BadData: it is, and is not what the run saw.
    """
    folder = Path(run)
    folder = folder.parent if folder.is_file() else folder
    record = read_record(folder)
    if record.kind != "run" or record.model_file is None:
        what = f"a {record.kind}" if record.kind != "run" else f"a run that {record.status}"
        raise BadRecord(
            f"'{folder}' holds {what} and no model of a method.",
            "Give the directory of a method's run, e.g. results/mini/runs/RUN.",
        )
    plugins, settings = plugins or load_plugins(), settings or Settings()
    benchmark = benchmark_of_run(record, folder, plugins, settings.cache_folder)
    views = plan_evaluation(
        make_metrics(plugins, settings.metric_options, benchmark, record.spec), benchmark, read=True
    ).all_views()
    embedded = {(view.split, view.side) for view in views if view.template is None}
    splits = [
        name
        for name, info in benchmark.splits().items()
        if {"image", "text"} <= set(info.sides)
        and (info.role == "forget" or (info.role == "evaluation" and {(name, "image"), (name, "text")} <= embedded))
    ]
    return Opened(folder, record, benchmark, gather_rows(benchmark, splits), views, plugins, settings)


def people(opened: Opened) -> list[dict[str, Any]]:
    """Everybody who can be looked at; needs no model."""
    return list_people(opened.rows)


def inspect(
    opened: Opened, *, identity: str | None = None, association: str | None = None, neighbours: int = 5
) -> Inspection:
    """Look at one identity or one association.

    Args:
        identity: an identity, or a person's name.
        association: IDENTITY/FIELD.
        neighbours: how many of each group are listed.

    Raises:
        UnknownName: nobody of that name; near matches are listed.
        BadCheckpoint: the run's weights are not those that its record was made of.
    """
    if (identity is None) == (association is None):
        raise BadOptions("Say what to look at: either an identity or an association.", "--list shows what there is.")
    rows = opened.rows
    chosen = find_identity(rows, identity) if identity is not None else find_association(rows, str(association))
    record = opened.record
    title = (chosen[0].identity or chosen[0].file_name) if identity is not None else chosen[0].association
    notes: list[str] = []
    embedded, stand_in = _embed(opened, title, notes)
    number = {id(row): place for place, row in enumerate(rows)}
    places = [number[id(row)] for row in chosen]
    similarity = {which: found.similarity() for which, found in embedded.items()}
    pairs = _pairs(rows, chosen, places, embedded, similarity)
    near, affected = _neighbours(rows, set(places), chosen, identity is not None, embedded, similarity, neighbours)
    attacked = read_attacks(record, opened.folder)
    found = Inspection(
        record=record,
        title=title,
        group=chosen[0].group,
        pairs=pairs,
        gallery=len(embedded["unlearned"].gallery),
        pictures=len(embedded["unlearned"].pictures),
        models=list(embedded),
        stand_in=stand_in,
        neighbours=near,
        affected=affected,
        attacks=recovered_words(attacked) if attacked.results else "",
        notes=notes,
    )
    return Inspection(**{**vars(found), "words": sentences(found)})


def _embed(opened: Opened, title: str, notes: list[str]) -> tuple[dict[Which, Embedding], bool]:
    record, benchmark, settings = opened.record, opened.benchmark, opened.settings

    def tell(stage: str, done: int, total: int) -> None:
        opened.plugins.tell("run_progress", event=Progress(title, stage, done, total))

    unlearned = load_model(opened.folder)
    if unlearned.fingerprint() != record.provenance.model_fingerprint:
        raise BadCheckpoint(
            f"The weights in '{opened.folder}' are not those that its record was made of.",
            "The file was changed after the run. Run it again: --overwrite.",
        )
    models: dict[Which, tuple[DualEncoder, Benchmark]] = {}
    where, which = benchmark.reference("compromised")
    models["compromised"] = (where.load_model(which), where)
    models["unlearned"] = (unlearned, benchmark)
    stand_in = False
    try:
        where, which = benchmark.reference("clean")
        if where is not benchmark:
            where.split_for("forget")  # pairs of one person cannot be mismatched
        models["clean"] = (where.load_model(which), where)
        stand_in = where is not benchmark
    except SalmuError as problem:
        notes.append(f"No model that never learned these pairs: {problem.message}")
    private = benchmark.private
    cache = None if private else settings.embedding_cache
    found: dict[Which, Embedding] = {}
    with open_accelerator(record.spec.precision, cpu=settings.cpu) as accelerator:
        for name, (model, rows_of) in models.items():
            encoder = model.to(accelerator.device)
            encoder.autocast = AUTOCAST[record.spec.precision]
            data = DataCache() if private else settings.data_cache(opened.plugins, title)
            found[name] = embed_rows(encoder, rows_of, opened.rows, opened.views, cache, data, tell)
    return found, stand_in


def _pairs(
    rows: Sequence[Row],
    chosen: Sequence[Row],
    places: Sequence[int],
    embedded: Mapping[Which, Embedding],
    similarity: Mapping[Which, torch.Tensor],
) -> list[PairView]:
    captions = {which: found.caption_ranks(places) for which, found in embedded.items()}
    pictures = {which: found.picture_ranks(places) for which, found in embedded.items()}
    nearest = {which: found.nearest_captions(places) for which, found in embedded.items()}
    telling: dict[str | None, set[str]] = {}
    for row in rows:
        if row.group != "retain":  # ordinary captions tell nothing of a person
            telling.setdefault(row.identity, set()).add(row.caption)

    def of_person(row: Row, found: int | None) -> bool | None:
        own = telling.get(row.identity, set()) if row.identity is not None else {row.caption}
        return None if found is None else rows[found].caption in own

    return [
        PairView(
            row,
            {which: _number(similarity[which][place]) for which in embedded},
            {which: captions[which][step] for which in embedded},
            {which: pictures[which][step] for which in embedded},
            {which: of_person(row, nearest[which][step]) for which in embedded},
        )
        for step, (row, place) in enumerate(zip(chosen, places, strict=True))
    ]


def _neighbours(
    rows: Sequence[Row],
    own: set[int],
    chosen: Sequence[Row],
    whole_person: bool,
    embedded: Mapping[Which, Embedding],
    similarity: Mapping[Which, torch.Tensor],
    count: int,
) -> tuple[dict[str, list[Neighbour]], dict[str, dict[str, float]]]:
    """Other associations of each group, those whose mean similarity moved most first; and how many moved."""
    members: dict[tuple[str, str], list[int]] = {}
    for place, row in enumerate(rows):
        if place not in own and not (whole_person and row.group == chosen[0].group and row.identity == chosen[0].identity):
            members.setdefault((row.group, row.association), []).append(place)
    before = embedded["compromised"].images
    centre = torch.nn.functional.normalize(before[sorted(own)].mean(dim=0), dim=0)
    moved = similarity["unlearned"] - similarity["compromised"]
    by_group: dict[str, list[tuple[float, str, list[int]]]] = {}
    for (group, association), places in members.items():
        by_group.setdefault(group, []).append((float(moved[places].mean()), association, places))
    found: dict[str, list[Neighbour]] = {}
    affected: dict[str, dict[str, float]] = {}
    for group, items in by_group.items():
        items.sort(key=lambda item: (-abs(item[0]), item[1]))
        typical = statistics.median(abs(change) for change, _, _ in items)
        affected[group] = {
            "associations": len(items), "weaker": sum(change < -NOTICED for change, _, _ in items),
            "stronger": sum(change > NOTICED for change, _, _ in items), "median_change": typical,
        }  # fmt: skip
        found[group] = []
        for change, association, places in items[:count]:
            ranks = {which: [r for r in e.caption_ranks(places) if r is not None] for which, e in embedded.items()}
            first = rows[places[0]]
            found[group].append(
                Neighbour(
                    association=association,
                    name=first.name,
                    split=first.split,
                    group=group,
                    rows=len(places),
                    closeness=float(torch.nn.functional.normalize(before[places].mean(dim=0), dim=0) @ centre),
                    similarity={which: _number(values[places].nanmean()) for which, values in similarity.items()},
                    change=change,
                    best_rank={which: min(values) if values else None for which, values in ranks.items()},
                )
            )
    return found, affected


#: A change of an association's mean cosine that is called a change.
NOTICED = 0.05


def _number(value: torch.Tensor) -> float | None:
    number = float(value)
    return None if number != number else number
