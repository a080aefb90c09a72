"""Which rows of a leaderboard are shown, in what order, and conditions that a script can rest on."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from salmu_core.comparison.leaderboard import VERDICTS, Comparison, Row
from salmu_core.comparison.ranks import section
from salmu_core.errors import BadOptions

_WORDS = ("verdict", "status", "family")
_VOCABULARY = {"verdict": VERDICTS, "status": ("ok", "diverged", "failed")}
_NUMBERS = ("overall", "rank", "recovered", "seconds", "budget", "runs")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "==": operator.eq, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_CONDITION = re.compile(r"(?:(?P<row>[^:]+):)?(?P<field>[^<>=!:]+)(?P<sign><=|>=|==|!=|=|<|>)(?P<value>.+)")


@dataclass(frozen=True)
class Condition:
    """`FIELD SIGN VALUE` of a row, e.g. `GenKnow.gap<0.1` or `verdict=selective|ineffective`; `ROW:...` is about one row.

    Attributes:
        row: the title it is about; "" for every row.
        field: verdict, status, family; overall, rank, recovered, seconds, budget, runs; METRIC for its value and METRIC.gap for its
            distance to the target.
        value: a number, or the words that are allowed.
    """

    text: str
    row: str
    field: str
    sign: str
    value: float | tuple[str, ...]

    def holds(self, row: Row) -> bool:
        """Does it hold? A number that the row lacks makes it false, whatever the sign."""
        if isinstance(self.value, tuple):
            return (getattr(row, self.field) in self.value) == (self.sign != "!=")
        found = _number(row, self.field)
        return found is not None and not math.isnan(found) and _SIGNS[self.sign](found, self.value)


def parse_condition(text: str, flag: str, metrics: Sequence[str], rows: Sequence[str] | None = None) -> Condition:
    """Read a condition and check its names.

    Args:
        metrics: names of metrics that it may be about.
        rows: titles of rows; None: not known yet.

    Raises:
        BadOptions: it cannot be read, or names a field, a word or a row that is not there; near ones are listed.
    """
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        raise BadOptions(
            f"{flag} takes FIELD<VALUE with <, <=, >, >=, = or !=, got '{text}'.", f"E.g. {flag} 'overall>=0.2'."
        )
    row, field, sign, value = ((found[name] or "").strip() for name in ("row", "field", "sign", "value"))
    if row and rows is not None:
        _known(row, rows, "row", flag)
    _known(field, [*_WORDS, *_NUMBERS, *metrics, *(f"{name}.gap" for name in metrics)], "field", flag)
    if field in _WORDS:
        if sign not in ("=", "==", "!="):
            raise BadOptions(f"{flag} '{text}': {field} is a word, so only = and != say something of it.")
        words = tuple(word.strip() for word in value.split("|"))
        # A misspelt verdict would hold for no row, and a script would never fail.
        for word in words if field in _VOCABULARY else ():
            _known(word, _VOCABULARY[field], field, flag)
        return Condition(text, row, field, sign, words)
    try:
        return Condition(text, row, field, sign, float(value))
    except ValueError:
        raise BadOptions(f"{flag} '{text}': {field} is a number and '{value}' is not.") from None


def _parsed(text: str, flag: str, comparison: Comparison) -> Condition:
    names = [metric.name for metric in comparison.metrics]
    return parse_condition(text, flag, names, [title for row in own_rows(comparison) for title in (row.title, *row.same_as)])


def _known(name: str, known: Sequence[str], what: str, flag: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
        raise BadOptions(f"{flag}: there is no {what} '{name}'.", hint)


def own_rows(comparison: Comparison) -> list[Row]:
    """Runs and evaluations: neither references nor what others published."""
    return [row for row in comparison.rows if row.kind in ("run", "evaluation")]


def select(
    comparison: Comparison,
    *,
    families: Iterable[str] = (),
    verdicts: Iterable[str] = (),
    statuses: Iterable[str] = (),
    where: Iterable[str] = (),
    sort: str | None = None,
) -> Comparison:
    """The same comparison with fewer rows, or in another order. References and published rows stay. Ranks, ties and p stay those
    among all rows: picking some afterwards does not make a test stricter or weaker.

    Args:
        sort: rank, overall, recovered (least first), seconds, or a metric (nearest to its target first); with a leading "-" the
            other way round.

    Raises:
        BadOptions: a word that no row has, or a condition that cannot be read.
    """
    for flag, chosen, field in (
        ("--family", families, "family"), ("--verdict", verdicts, "verdict"), ("--status", statuses, "status")
    ):  # fmt: skip
        have = _VOCABULARY.get(field) or sorted({row.family for row in own_rows(comparison)})
        for word in chosen:
            _known(word, have, field, flag)
    conditions = [_parsed(text, "--where", comparison) for text in where]

    def shown(row: Row) -> bool:
        words = ((families, row.family), (verdicts, row.verdict), (statuses, row.status))
        return all(not list(chosen) or word in chosen for chosen, word in words) and all(
            condition.holds(row) for condition in conditions if condition.row in ("", row.title, *row.same_as)
        )

    own = own_rows(comparison)
    kept = [row for row in own if shown(row)]
    if sort is not None:
        kept = _sorted(comparison, kept, sort)
    rest = [row for row in comparison.rows if row.kind not in ("run", "evaluation")]
    titles = {row.title for row in kept}
    notes = comparison.notes
    if len(kept) < len(own):
        notes = (
            *notes, f"{len(kept)} of {len(own)} rows are shown; ranks, ties and corrections are those among all of them."
        )  # fmt: skip
    changes = {
        "rows": (
            *(row for row in rest if row.kind == "reference"), *kept, *(row for row in rest if row.kind == "published")
        ),
        "differences": tuple(d for d in comparison.differences if d.row in titles and d.other in titles),
        "notes": notes,
    }  # fmt: skip
    return comparison.model_copy(update=changes)


def first_rows(comparison: Comparison, most: int) -> tuple[Comparison, int]:
    """The comparison with the first of its own rows, and how many it then lacks. References and published rows stay."""
    own = own_rows(comparison)
    dropped = {id(row) for row in own[most:]}
    if not dropped:
        return comparison, 0
    kept = tuple(row for row in comparison.rows if id(row) not in dropped)
    return comparison.model_copy(update={"rows": kept}), len(dropped)


def _sorted(comparison: Comparison, rows: Sequence[Row], sort: str) -> list[Row]:
    name = sort.removeprefix("-")
    metrics = [metric.name for metric in comparison.metrics]
    _known(name, ["rank", "overall", "recovered", "seconds", *metrics], "column", "--sort")
    # What is best comes first: short distances, ranks and times, and high overall scores.
    field = f"{name}.gap" if name in metrics else name
    sign = (-1 if name == "overall" else 1) * (-1 if sort.startswith("-") else 1)
    values = {row.title: _number(row, field) for row in rows}
    # A ruined or unchanged model stays below whatever it is sorted by, as controls and oracles do.
    return sorted(rows, key=lambda row: (section(row), values[row.title] is None, sign * (values[row.title] or 0.0)))


def broken(comparison: Comparison, require: Iterable[str], fail_if: Iterable[str]) -> list[str]:
    """What a script should fail for, a sentence each: rows for which a required condition does not hold, or a refused one does.

    Raises:
        BadOptions: see `parse_condition`.
    """
    found = []
    for text, flag, wanted in [*((t, "--require", True) for t in require), *((t, "--fail-if", False) for t in fail_if)]:
        condition = _parsed(text, flag, comparison)
        for row in own_rows(comparison):
            if condition.row in ("", row.title, *row.same_as) and condition.holds(row) != wanted:
                found.append(f"{row.title}: {flag} '{text}', but {condition.field} is {_shown(row, condition.field)}.")
    return found


def _number(row: Row, field: str) -> float | None:
    if field in _NUMBERS:
        value = getattr(row, field)
        return None if value is None else float(value)
    name = field.removesuffix(".gap")
    # A metric may be called something.gap itself.
    cell = row.cells.get(field) or row.cells.get(name)
    if cell is None:
        return None
    return cell.gap if field not in row.cells else cell.value


def _shown(row: Row, field: str) -> str:
    if field in _WORDS:
        return str(getattr(row, field))
    value = _number(row, field)
    return "not known" if value is None else f"{value:.4g}"
