"""Decide whether vectors stored before a deletion may stay, or the index must be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Side = Literal["image", "text"]
Advice = Literal["may stay", "re-embed soon", "re-embed", "too few rows to tell"]

NEIGHBOURS = 10
FEWEST = 50  # rows: among fewer, ten neighbours are too many of all to tell anything
STAYS = 0.95  # share of neighbours kept from which an index may stay
SOON = 0.80  # share below which it must not
_CHUNK = 512


@dataclass(frozen=True)
class SideReport:
    """An index of one kind of vectors, pictures' or captions'.

    Attributes:
        unchanged: the encoder's weights are what they were, so each stored vector is what it would be now.
        cosine: of old and new vectors of the same row: mean, lowest hundredth, smallest.
        kept: share of the nearest neighbours in a new index that the old one also finds, by what is asked for: a picture's
            or a caption's new vector. A picture is not its own neighbour.
        advice: see `advise`.
    """

    rows: int
    unchanged: bool
    cosine: Mapping[str, float]
    kept: Mapping[str, float]
    advice: Advice


@dataclass(frozen=True)
class IndexReport:
    """Both kinds of index."""

    neighbours: int
    image: SideReport
    text: SideReport

    def sentences(self) -> list[tuple[str, str]]:
        """Question and answer."""
        found = [
            ("May an index of picture vectors stay?", _sentence(self.image, "picture", self.neighbours)),
            ("May an index of caption vectors stay?", _sentence(self.text, "caption", self.neighbours)),
        ]
        return [*found, ("And the forgotten ones?", "Take their vectors out of every index, whether it stays or not.")]

    def as_json(self) -> dict[str, Any]:
        """For programs."""

        def side(report: SideReport) -> dict[str, Any]:
            return {**vars(report), "cosine": dict(report.cosine), "kept": dict(report.kept)}

        return {
            "neighbours": self.neighbours,
            "thresholds": {"may stay": STAYS, "re-embed soon": SOON, "fewest rows": FEWEST},
            "image": side(self.image),
            "text": side(self.text),
            "answers": [{"question": question, "answer": answer} for question, answer in self.sentences()],
        }


def report_on(
    old: Mapping[Side, Float[Tensor, "n dim"]],
    new: Mapping[Side, Float[Tensor, "n dim"]],
    *,
    unchanged: Mapping[Side, bool],
    neighbours: int = NEIGHBOURS,
) -> IndexReport:
    """The report, from vectors of the same rows by the model before and after.

    Args:
        old, new: by side, fp32 rows of unit length; row i of both sides is one pair.
        unchanged: sides whose encoder has the same weights.
    """
    sides: dict[Side, SideReport] = {}
    for side in ("image", "text"):
        rows = len(old[side])
        cosines = (old[side] * new[side]).sum(dim=-1).clamp(-1, 1).numpy().astype(np.float64)
        kept = {
            asked: neighbours_kept(new[asked], old[side], new[side], neighbours, own=asked == side)
            for asked in ("image", "text")
        }
        spread = {
            "mean": float(cosines.mean()),
            "lowest hundredth": float(np.quantile(cosines, 0.01)),
            "smallest": float(cosines.min()),
        }
        sides[side] = SideReport(
            rows, unchanged[side], spread, kept, advise(rows, min(kept.values()), unchanged=unchanged[side])
        )
    return IndexReport(neighbours, sides["image"], sides["text"])


def neighbours_kept(
    asked: Float[Tensor, "m dim"], old: Float[Tensor, "n dim"], new: Float[Tensor, "n dim"], count: int, *, own: bool
) -> float:
    """Share of the `count` nearest rows of `new` that are among the `count` nearest rows of `old`, over all that is asked.

    Args:
        asked: vectors by the new model, which is what questions are encoded with from now on.
        own: row i of `asked` is row i of the index, and does not count as its own neighbour.

    >>> import torch
    >>> line = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.5], [0.0, 1.0]]), dim=-1)
    >>> neighbours_kept(line, line, line, 1, own=True)
    1.0
    """
    count = min(count, len(old) - own)
    if count < 1:
        return 1.0
    found = 0
    for start in range(0, len(asked), _CHUNK):
        questions = asked[start : start + _CHUNK]
        nearest = []
        for index in (old, new):
            cosines = questions @ index.T
            if own:
                rows = torch.arange(len(questions))
                cosines[rows, rows + start] = -2.0
            nearest.append(cosines.topk(count, dim=1).indices)
        found += int((nearest[0][:, :, None] == nearest[1][:, None, :]).sum())
    return found / (len(asked) * count)


def advise(rows: int, kept: float, *, unchanged: bool) -> Advice:
    """What to do with an index.

    It may stay where the encoder did not change, or where 95 % of the ten nearest neighbours are kept; below 80 % it must be made
    anew. Between them one or two answers of ten differ, which its owner may bear for a while: soon.

    >>> advise(5000, 0.97, unchanged=False), advise(5000, 0.9, unchanged=False), advise(5000, 0.5, unchanged=False)
    ('may stay', 're-embed soon', 're-embed')
    >>> advise(20, 1.0, unchanged=False), advise(20, 1.0, unchanged=True)
    ('too few rows to tell', 'may stay')
    """
    if unchanged:
        return "may stay"
    if rows < FEWEST:
        return "too few rows to tell"
    return "may stay" if kept >= STAYS else "re-embed soon" if kept >= SOON else "re-embed"


def _sentence(report: SideReport, what: str, neighbours: int) -> str:
    if report.unchanged:
        return f"Yes: the encoder of {what}s was not changed, so every stored vector is what it would be now."
    facts = (
        f"on {report.rows:,} retain rows old and new {what} vectors have a cosine of {report.cosine['mean']:.4f} on average"
        f" ({report.cosine['smallest']:.4f} at least), and of the {neighbours} nearest neighbours that a new index"
        f" finds, the old one finds {report.kept['image']:.0%} for a picture and {report.kept['text']:.0%} for a caption."
    )
    words = {
        "may stay": f"Yes: {facts}",
        "re-embed soon": f"For now: {facts} Make it anew soon.",
        "re-embed": f"No, make it anew: {facts}",
        "too few rows to tell": f"Too few retain rows to tell ({FEWEST} at least): {facts}",
    }
    return words[report.advice]
