"""Candidates of a search with their pictures, as one self-contained HTML page. It is personal data."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from salmu_core.data.pixels import decode_image
from salmu_core.data.splits import Split
from salmu_core.errors import BadData
from salmu_core.report.html import decimals, html_template
from salmu_deletion.own_data.find import Candidate
from salmu_deletion.own_data.images import PathImages
from salmu_deletion.own_data.tables import Table

SIDE = 256  # longest side of a picture on the page, in pixels
MOST = 400  # pictures on a page


def render_candidates(
    table: Table, found: Sequence[Candidate], asked: Mapping[str, str | None], face: Path | None = None
) -> str:
    """The page. Pictures are decoded and encoded again: nothing but pixels of a file gets into it.

    Args:
        asked: what was looked for, by kind.
        face: the picture that was looked for.
    """
    split = Split("table", table.images)
    cards: list[dict[str, Any]] = [
        {
            "row": item.row,
            "file": table.file_names[item.row],
            "identity": None if table.identities is None else table.identities[item.row],
            "caption": table.captions[item.row],
            "why": "; ".join(item.why),
            "similarity": item.similarity,
            "picture": _picture(split, item.row),
        }
        for item in found[:MOST]
    ]
    return _template().render(
        cards=cards,
        left_out=len(found) - len(cards),
        asked={kind: value for kind, value in asked.items() if value is not None},
        face=None if face is None else _picture(Split("face", PathImages([face])), 0),
        rows=len(table),
    )


def _picture(split: Split, row: int) -> str | None:
    """A small JPEG as a data: address; None where the picture cannot be shown."""
    assert split.images is not None
    try:
        picture: Image.Image = decode_image(split.images, row, split.name)
    except BadData:
        return None
    picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@cache
def _template() -> jinja2.Template:
    return html_template("salmu_deletion.own_data", "find.html.j2", {"cosine": decimals(3)})
