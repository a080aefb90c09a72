"""What a request means beyond its own pairs: for requests before it, and for vectors that were stored before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from salmu_core.benchmark import Benchmark
from salmu_core.data.pairs import View
from salmu_core.data.splits import Split, join_splits
from salmu_core.errors import SalmuError
from salmu_core.evaluation.embed import embed_views
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.evaluation.retrieval import RetainRetrieval
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins
from salmu_core.records.schema import RunRecord, Target
from salmu_core.runner.accelerate_setup import AUTOCAST, open_accelerator
from salmu_core.runner.run import Settings
from salmu_core.seeding import numpy_generator
from salmu_deletion.own_data.benchmark import OwnData
from salmu_deletion.own_data.chain import (
    DRIFT_BUDGET,
    ChainReport,
    EarlierRetrieval,
    judge_drift,
    judge_earlier,
)
from salmu_deletion.own_data.index_report import IndexReport, Side, report_on
from salmu_deletion.own_data.parts import MOST

_RETAIN = "retain"
_SIDES: tuple[Side, Side] = ("image", "text")


class _Rows:
    """Splits by name, as the embedding pass asks a benchmark for them."""

    def __init__(self, splits: Mapping[str, Split]) -> None:
        self._splits = splits

    def split(self, name: str) -> Split:
        return self._splits[name]


def index_report(
    benchmark: OwnData, folder: Path, record: RunRecord, settings: Settings, plugins: Plugins
) -> IndexReport | None:
    """Compare vectors by the model before and after on at most 5,000 rows of retain; None without any."""
    if benchmark.options.retain is None:
        return None
    whole = join_splits(_RETAIN, [benchmark.split("retain_validation"), benchmark.split("retain")])
    order = numpy_generator(benchmark.options.seed, "own data", "index").permutation(len(whole))[:MOST]
    rows = cast(Benchmark, _Rows({_RETAIN: whole.take(sorted(int(row) for row in order), _RETAIN)}))
    views = {side: View(_RETAIN, side) for side in _SIDES}
    data = settings.data_cache(plugins, "index")
    vectors = []
    with open_accelerator("no", cpu=settings.cpu) as accelerator:
        for model in (
            benchmark.load_model("compromised"),
            load_model(folder, fingerprint=record.provenance.model_fingerprint),
        ):
            moved = model.to(accelerator.device)
            moved.autocast = AUTOCAST[record.spec.precision]
            found = embed_views(moved, rows, list(views.values()), settings.embedding_cache, data=data)
            vectors.append({side: found[view].vectors for side, view in views.items()})
    before, after = record.provenance.start_fingerprint, record.provenance.model_fingerprint
    unchanged = {side: before.get(side) is not None and before.get(side) == after.get(side) for side in _SIDES}
    return report_on(vectors[0], vectors[1], unchanged=unchanged)


def chain_report(
    benchmark: OwnData,
    record: RunRecord,
    references: Mapping[Target, RunRecord],
    settings: Settings,
    plugins: Plugins,
    budget: float = DRIFT_BUDGET,
) -> ChainReport | None:
    """What the chain up to this run has come to; None for a first request.

    The first model of the chain is measured on the same rows as the others. Where it is not here any more, the drift is not known.
    """
    earlier = benchmark.earlier
    if not earlier:
        return None
    unmeasured = [f"{item.folder}: {item.why}" for item in earlier if item.data is None]
    first: dict[str, float] = {}
    never: float | None = None
    try:
        first, never = _first_scores(benchmark, settings, plugins, record)
    except SalmuError as error:
        unmeasured.append(f"The first model: {error.message}")

    def of(name: str) -> dict[str, float | None]:
        rows = {"before": references.get("compromised"), "now": record}
        found = {
            which: None if row is None or name not in row.scores else row.scores[name].value for which, row in rows.items()
        }
        return {"first": first.get(name), **found}

    pairs, general = {**of(EarlierRetrieval.name), "never": never}, of(RetainRetrieval.name)
    return ChainReport(
        requests=len(earlier) + 1,
        earlier_rows=sum(len(item.data.forget_table) for item in earlier if item.data is not None),
        unmeasured=tuple(unmeasured),
        earlier=pairs,
        # Of a part of the earlier pairs nothing good can be said of all.
        earlier_verdict=_of_all(judge_earlier(**pairs), complete=all(item.data is not None for item in earlier)),
        drift=general,
        drift_budget=budget,
        drift_verdict=judge_drift(general["first"], general["now"], budget),
    )


def _of_all(verdict: str, *, complete: bool) -> str:
    return verdict if complete or verdict == "came back" else "not measured"


def _first_scores(
    benchmark: OwnData, settings: Settings, plugins: Plugins, record: RunRecord
) -> tuple[dict[str, float], float | None]:
    """EarlierMRR and RetainMRR of the model that the first request was made on, and its EarlierMRR of pairs never learned.

    Never learned is measured there, and not in the model that this request begins with: a model that has deleted knows less of
    mismatched pairs, too.
    """
    model = _first_model(benchmark)
    with open_accelerator("no", cpu=settings.cpu) as accelerator:
        moved = model.to(accelerator.device)
        moved.autocast = AUTOCAST[record.spec.precision]
        data = settings.data_cache(plugins, "chain")
        metrics = [EarlierRetrieval(), RetainRetrieval()]
        found = evaluate_model(moved, benchmark, metrics, settings.embedding_cache, data=data).whole()
        others = evaluate_model(
            moved, benchmark.never_learned, [EarlierRetrieval()], settings.embedding_cache, data=data
        ).whole()
    never = others.scores.get(EarlierRetrieval.name)
    return {name: score.value for name, score in found.scores.items()}, None if never is None else never.value


def _first_model(benchmark: OwnData) -> DualEncoder:
    """Raises SalmuError where it is gone or another one."""
    oldest = benchmark.earlier[-1].record
    options: dict[str, Any] = {**oldest.spec.benchmark_options, "after": None}
    model = OwnData(OwnData.Options(**options)).load_model("compromised")
    stated = oldest.provenance.start_fingerprint
    if stated and model.fingerprint() != stated:
        raise SalmuError(f"'{oldest.spec.benchmark_options.get('model')}' is not the model that the chain began with.")
    return model
