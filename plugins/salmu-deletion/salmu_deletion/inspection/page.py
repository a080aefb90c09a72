"""An inspection as one self-contained HTML page, with the pictures in it."""

from __future__ import annotations

import base64
import io
from functools import cache

import jinja2
from markupsafe import Markup

from salmu_core.benchmark import Benchmark
from salmu_core.data.pixels import decode_image
from salmu_core.errors import BadData
from salmu_core.report.html import decimals, html_template
from salmu_deletion.chart import STYLE, dot_chart
from salmu_deletion.inspection.inspect import Inspection, PairView
from salmu_deletion.inspection.rows import Row
from salmu_deletion.inspection.words import GROUP_WORDS, MODEL_WORDS
from salmu_deletion.inspection.words import conclusion as conclusion_of
from salmu_deletion.wording import file_name, kind_of_fact

DRAWN = 12  # pairs in a chart
SIDE = 256  # longest side of a picture on the page, in pixels


def render_page(found: Inspection, benchmark: Benchmark, pictures: int = 24) -> str:
    """The page. Pictures are decoded and encoded again: nothing but pixels of a file gets into it.

    Args:
        pictures: shown at most; the others are rows of the table only.
    """
    shown = {pair.row.file_name: picture_uri(benchmark, pair.row) for pair in _first_of_each_file(found)[:pictures]}
    words = dict(MODEL_WORDS)
    if found.stand_in:
        words["clean"] = "Pairs never learned"
    outcome, conclusion = conclusion_of(found)
    name = found.pairs[0].row.name
    return _template().render(
        found=found,
        name=name or found.title,
        outcome=outcome,
        verdict=conclusion.partition(". ")[0] + ".",
        because=conclusion.partition(". ")[2],
        words_left=[line for line in found.words if not line.startswith("Conclusion")],
        similarities=_similarities(found),
        places=_places(found),
        summary=found.summary(),
        models=[(which, words[which]) for which in found.models],
        files=_by_file(found),
        pictures=shown,
        left_out=len(_first_of_each_file(found)) - len(shown),
        groups=GROUP_WORDS,
        style=STYLE,
        drawn=DRAWN,
    )


def _similarities(found: Inspection) -> Markup:
    """Where the similarity of each pair went, of the first `DRAWN`."""
    rows = [(_label(pair.row), pair.similarity) for pair in found.pairs[:DRAWN]]
    values = [value for _, by_model in rows for value in by_model.values() if value is not None]
    low = min([0.0, *values])
    return dot_chart(rows, "Similarity of each pair, before and after", low=low, high=max([0.1, *values]))


def _places(found: Inspection) -> Markup:
    """The place of each pair's caption, of the first `DRAWN`."""
    rows = [(_label(pair.row), pair.caption_rank) for pair in found.pairs[:DRAWN]]
    words = "Place of each picture's own caption, before and after: 1 is found first"
    return dot_chart(rows, words, low=1, high=max(2, found.gallery), log=True)


def _label(row: Row) -> str:
    return f"{kind_of_fact(row.field)}: {row.caption}" if row.field and not row.field.startswith("fact-") else row.caption


def _by_file(found: Inspection) -> dict[str, list[PairView]]:
    """The pairs of each picture."""
    files: dict[str, list[PairView]] = {}
    for pair in found.pairs:
        files.setdefault(pair.row.file_name, []).append(pair)
    return files


def picture_uri(benchmark: Benchmark, row: Row) -> str:
    """A small JPEG of a row's picture as a data: address."""
    split = benchmark.split(row.split)
    if split.images is None:
        raise BadData(f"The split '{row.split}' has no pictures.")
    picture = decode_image(split.images, row.position, row.split)
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _first_of_each_file(found: Inspection) -> list:  # type: ignore[type-arg]
    return list({pair.row.file_name: pair for pair in reversed(found.pairs)}.values())[::-1]


@cache
def _template() -> jinja2.Template:
    return html_template(
        "salmu_deletion.inspection", "inspect.html.j2", {"cosine": decimals(3), "place": _place, "file": file_name}
    )


def _place(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
