"""One metric on one model: what it is handed, and whether what it gives back can be recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from salmu_core.benchmark import Benchmark
from salmu_core.data.pairs import Embedded
from salmu_core.errors import PluginFailure, SalmuError
from salmu_core.evaluation.bootstrap import clustered_interval
from salmu_core.metric import Metric, NotMeasurable, Score
from salmu_core.plugins.calls import Warn, plugin_code
from salmu_core.plugins.opened_files import opened_files
from salmu_core.plugins.process_state import ProcessState
from salmu_core.records.schema import ScoreRecord

_PAST_THE_VIEWS = "Its value may rest on more than the embeddings that it was handed."


class ReadOnlyColumns(Mapping[str, Sequence[Any]]):
    """Columns of a split whose values cannot be changed."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = columns
        self._read: dict[str, Sequence[Any]] = {}

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._read:
            self._read[name] = tuple(self._columns[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def read_only(view: Embedded) -> Embedded:
    """A view whose columns and texts cannot be changed; its vectors are the same tensor."""
    return Embedded(view.vectors, ReadOnlyColumns(view.columns), None if view.texts is None else tuple(view.texts))


def named(metric: Metric) -> str:
    """A metric and where it comes from, as the beginning of a sentence."""
    return f"The metric {metric.name}" + (f" ({metric.origin})" if metric.origin else "")


def measure(
    metric: Metric, views: Mapping[str, Embedded], benchmark: Benchmark, state: ProcessState, warn: Warn
) -> tuple[Score, ScoreRecord]:
    """What a metric says of a model. It is given copies, so that one that writes into them changes nobody's numbers.

    Args:
        state: of the process, as it must be afterwards.
        warn: told what the metric left changed.

    Raises:
        NotMeasurable: the data at hand cannot support it.
        PluginFailure: it raised, changed its views, or gave what cannot be recorded.
    """
    name, own, who = metric.name, type(metric).__module__.partition(".")[0], named(metric)
    handed = {argument: Embedded(view.vectors.clone(), view.columns, view.texts) for argument, view in views.items()}
    with opened_files(benchmark, {own}) as opened:
        try:
            with plugin_code(who, warn, state, own):
                score = metric.compute(**handed)
            for argument, view in views.items():
                if not _same(handed[argument].vectors, view.vectors):
                    raise PluginFailure(f"it changed the view '{argument}', which is not its own: work on a copy")
            if metric.name != name:
                raise PluginFailure(f"it calls itself {metric.name} now: a name is given once, in the class")
            return score, _record(metric, score, benchmark)
        except NotMeasurable:
            raise
        except SalmuError as error:
            raise PluginFailure(error.message.removeprefix(f"{who} ").rstrip(".")) from error
        except ValidationError as error:
            raise PluginFailure(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
        except Exception as error:
            raise PluginFailure(f"it raised {type(error).__name__}: {error}") from error
        finally:
            for sentence in opened.warnings(who, _PAST_THE_VIEWS):
                warn(sentence)
            vars(metric).pop("name", None)
            type(metric).name = name


def _same(found: Any, before: torch.Tensor) -> bool:
    return found.shape == before.shape and found.dtype == before.dtype and torch.equal(found, before)


def described(metric: Metric, benchmark: Benchmark) -> dict[str, Any]:
    """What a record says of a score's metric, whoever measured it, and what it counts on a benchmark.

    Raises:
        PluginFailure: the benchmark counts a metric of this name that looks at something else.
    """
    names = ("target", "aspect", "primary", "bounds", "summary", "tolerance", "scored")
    found = {name: getattr(metric, name) for name in names}
    if benchmark.scoring is None:
        return found
    counted = benchmark.scoring.get(metric.name)
    if counted is not None and (counted.target, counted.aspect) != (metric.target, metric.aspect):
        raise PluginFailure(
            f"{benchmark.name} counts {metric.name} as {counted.aspect} with target {counted.target}, and the installed metric of"
            f" that name says {metric.aspect} with target {metric.target}."
        )
    return {**found, "weight": float(counted is not None)}


def _record(metric: Metric, score: Score, benchmark: Benchmark) -> ScoreRecord:
    low = high = None
    clusters = 0
    if not isinstance(score, Score):
        raise PluginFailure(f"it returned {type(score).__name__} and not a Score")
    value = float(score.value)
    if not np.isfinite(value):
        raise PluginFailure(f"it gave {value}, which is not a number to compare")
    for name, values in {**score.details, **({} if score.rows is None else {"rows": score.rows})}.items():
        if np.asarray(values).dtype.kind not in "biuf":
            raise PluginFailure(f"its {name} are not numbers")
    if score.rows is not None:
        rows = np.asarray(score.rows, dtype=np.float64)
        if rows.ndim != 1 or not len(rows) or not np.isfinite(rows).all():
            raise PluginFailure("its rows are not one finite number each")
        if score.clusters is not None and len(score.clusters) != len(rows):
            raise PluginFailure(f"it gave {len(score.clusters)} cluster labels for {len(rows)} rows")
        if not np.isclose(rows.mean(), value, rtol=1e-5, atol=1e-6):
            raise PluginFailure(f"it gave {value}, which is not the mean {rows.mean()} of its rows")
        low, high, clusters = clustered_interval(rows, score.clusters, metric.name)
    return ScoreRecord(
        value=value,
        **described(metric, benchmark),
        chance=metric.chance if score.chance is None else score.chance,
        n=0 if score.rows is None else len(score.rows),
        clusters=clusters,
        low=low,
        high=high,
        extras=dict(score.extras),
    )
