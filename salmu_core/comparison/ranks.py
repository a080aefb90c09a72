"""The order of rows: sections, and ranks that rows share which cannot be told apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from salmu_core.comparison.differences import Outcome, PairedDifference
from salmu_core.comparison.leaderboard import TURNED, Row
from salmu_core.comparison.paired import shared_ranks, tie_groups
from salmu_core.comparison.verdict import RANKED


def order_of(row: Row) -> tuple[int, float]:
    """Best overall score first within each section."""
    return section(row), -(row.overall if row.overall is not None else float("-inf"))


def section(row: Row) -> int:
    """Where a row stands whatever its score: 0 with a verdict that can hold a rank, 1 ruined, unchanged or failed, 2 a control, 3 a
    method that has seen Clean. Every table, page and picture keeps to it."""
    if row.oracle:
        return 3
    return 2 if row.control else int(row.verdict not in RANKED)


def with_ranks(rows: Sequence[Row], differences: Sequence[PairedDifference], compared: Collection[str]) -> list[Row]:
    """Ranks for rows that may hold one, shared by ties; and what each row wins and loses.

    Args:
        rows: in order.
        compared: titles of the rows that the differences are between.
    """
    outcomes: dict[tuple[str, str], Outcome] = {}
    counts: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
    metrics: defaultdict[str, defaultdict[str, Counter[Outcome]]] = defaultdict(lambda: defaultdict(Counter))
    for found in differences:  # once over all pairs: there are twenty thousand of two hundred rows
        turned = TURNED[found.outcome]
        outcomes[found.row, found.other], outcomes[found.other, found.row] = found.outcome, turned
        counts[found.row][found.outcome] += 1
        counts[found.other][turned] += 1
        own, other = metrics[found.row], metrics[found.other]
        for name, metric in found.metrics.items():
            own[name][metric.outcome] += 1
            other[name][TURNED[metric.outcome]] += 1

    def worse(title: str, than: str) -> bool:
        return outcomes.get((title, than)) == "worse"

    holding = [row.title for row in rows if section(row) == 0 and row.kind == "run" and row.title in compared]
    groups = tie_groups(holding, worse)
    ranks = shared_ranks(groups)
    sizes = Counter(groups.values())
    result = []
    for row in rows:
        cells = {name: cell.model_copy(update=counts_of(metrics[row.title][name])) for name, cell in row.cells.items()}
        ranked: dict[str, int] = {}
        if (group := groups.get(row.title)) is not None:
            ranked = {"rank": ranks[row.title], "tie_group": group, "tied": sizes[group]}
        result.append(row.model_copy(update={**ranked, **counts_of(counts[row.title]), "cells": cells}))
    return by_rank(result)


def by_rank(rows: Sequence[Row]) -> list[Row]:
    """Tie groups stay together; a row that holds no rank (a given model, say) stays behind the one before it."""
    places = []
    rank = 0
    for number, row in enumerate(rows):
        rank = row.rank or rank
        places.append((section(row), rank, number))
    return [rows[number] for *_, number in sorted(places)]


def counts_of(outcomes: Mapping[Outcome, int]) -> dict[str, int]:
    return {"wins": outcomes.get("better", 0), "ties": outcomes.get("tie", 0), "losses": outcomes.get("worse", 0)}
