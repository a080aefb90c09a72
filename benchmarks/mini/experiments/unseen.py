"""Who runs with defaults that were chosen on the instances of the tables, and what such a method reaches where nothing was chosen."""

from __future__ import annotations

from collections.abc import Iterable

from matrix import Cell, Summary, cells_of, summarise
from selective import BUDGET, Kept

#: Methods whose defaults were chosen on the instances of the tables, and how. Others take theirs from papers or other code.
CHOSEN_HERE = {
    "selective": "was written on benchmark seeds 0, 1 and 2 (those of these tables), and its defaults were chosen there by hand, in trials that are not kept; the search that every method got, on seed 3, found none better than these defaults",
}


def elsewhere() -> list[Cell]:
    """Runs of `selective` and its rivals on instances on which nothing was chosen, as `selective.py` keeps them."""
    content = Kept().content
    runs = [run for run in content["runs"] if run["part"] == "main"]
    return [
        cell
        for place in dict.fromkeys(run["where"] for run in runs)
        for cell in cells_of(
            {
                "instance": int(place.removeprefix("mini ")),
                "references": content["references"][place],
                "runs": [{**run, "seed": 0, "weight_change": None, "error": None} for run in runs if run["where"] == place],
            }
        )
    ]


def in_words(methods: Iterable[str]) -> str:
    """Whose defaults were chosen on the instances of the tables, and how that shows: a paragraph; empty where nobody's were."""
    others = sorted(CHOSEN_HERE.keys() & {*methods})
    if not others:
        return ""
    cells = elsewhere()
    places = sorted({cell.instance for cell in cells})
    reached = "; ".join(map(_one, summarise(cells)))
    told = "; ".join(f"`{method}` {CHOSEN_HERE[method]}" for method in others)
    return (
        f"**Chosen here:** {told}. Its rows above are therefore flattered by an unknown amount. On benchmark seeds "
        f"{places[0]} to {places[-1]}, on which nothing was chosen, at {BUDGET:g}x: {reached}."
    )


def _one(summary: Summary) -> str:
    verdicts = ", ".join(f"{name} {count}" for name, count in summary.verdicts.items())
    return f"`{summary.method}` {summary.overall:.2f} [{summary.low:.2f}, {summary.high:.2f}] ({verdicts})"
