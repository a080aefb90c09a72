"""What all metrics check about the rows they are given, and how rows group into clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from salmu_core import Embedded, Field, NotMeasurable, Options
from salmu_core.errors import BadData

NumberType = Literal["float32", "float16"]


class CosineOptions(Options):
    """Options of metrics that are made of cosines."""

    cosines: NumberType = Field(
        "float32", description="cosines are rounded to float16, as the official evaluator's autocast leaves them, or not"
    )


#: What the official evaluator does where its encoders compute in half precision.
HALF = {"official-fp16": {"cosines": "float16"}}


def rounded(cosines: Float[Tensor, "*shape"], kind: NumberType) -> Float[Tensor, "*shape"]:
    """Cosines as fp32, where asked after rounding each to the nearest float16 (of two equally near the one with an even last bit).

    Steps of float16 are 2^-12 from 1/4 to 1/2, where cosines of CLIP lie. The official evaluator also takes the products of
    vectors in float16; sums of 512 of those in fp32, as GPUs do, move a cosine by a step at most.

    >>> import torch
    >>> rounded(torch.tensor([0.3215]), "float16").item()
    0.321533203125
    """
    return cosines.half().float() if kind == "float16" else cosines


def check_rows(metric: str, **views: Embedded) -> None:
    """Rows that belong together must be there, and be equally many.

    Raises:
        NotMeasurable: there is no row.
        BadData: the views differ in length, so row i of one cannot belong to row i of another.
    """
    lengths = {name: len(view) for name, view in views.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise BadData(f"{metric} pairs views row by row, and they have different numbers of rows: {shown}.")
    if 0 in lengths.values():
        raise NotMeasurable(f"there are no rows to measure {metric} on")


def texts_of(metric: str, view: Embedded) -> Sequence[str]:
    """The captions of a text view.

    Raises:
        BadData: the view carries none, or not one per row.
    """
    if view.texts is None or len(view.texts) != len(view):
        found = "none" if view.texts is None else str(len(view.texts))
        raise BadData(f"{metric} compares captions as text and needs one per row: {len(view)} rows, captions: {found}.")
    return view.texts


def column_of(metric: str, view: Embedded, name: str) -> Sequence[Any]:
    """A column in which every row has a value.

    Raises:
        BadData: no such column, or a row without a value; column and row are named.
    """
    if name not in view.columns:
        raise BadData(f"{metric} needs the column '{name}'.", f"The split has: {', '.join(view.columns) or 'none'}.")
    values = view.columns[name]
    if len(values) != len(view):
        raise BadData(f"{metric} needs a value of '{name}' for each of {len(view)} rows, there are {len(values)}.")
    for row, value in enumerate(values):
        if value is None:
            raise BadData(f"{metric} needs the column '{name}' in every row; row {row} has none.")
    return values


def identity_clusters(columns: Mapping[str, Sequence[Any]]) -> list[str] | None:
    """One cluster label per row: its identity, or a label of its own where no identity is known.

    Returns:
        None without a column `identity_id`: rows are then independent.
    """
    if "identity_id" not in columns:
        return None
    return [f"row {row}" if person is None else f"identity {person}" for row, person in enumerate(columns["identity_id"])]
