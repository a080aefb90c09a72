"""An inspection as one self-contained HTML page, with the pictures in it."""

from __future__ import annotations

import base64
import io
from functools import cache

import jinja2

from salmu_core.benchmark import Benchmark
from salmu_core.data.pixels import decode_image
from salmu_core.errors import BadData
from salmu_core.report.html import decimals, html_template
from salmu_deletion.inspection.inspect import Inspection
from salmu_deletion.inspection.rows import Row
from salmu_deletion.inspection.words import GROUP_WORDS, MODEL_WORDS

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
    return _template().render(
        found=found,
        summary=found.summary(),
        models=[(which, words[which]) for which in found.models],
        pictures=shown,
        left_out=len(_first_of_each_file(found)) - len(shown),
        groups=GROUP_WORDS,
    )


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
    return html_template("salmu_deletion.inspection", "inspect.html.j2", {"cosine": decimals(3), "place": _place})


def _place(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
