"""What a report shows of one model beside its scores: how similar pairs are, where they lie, what is found for single ones.

`exhibits.json` lies beside a record and belongs to its model; `scene.json` lies beside Compromised's record and holds, once for a
benchmark's data, the pictures and captions that all exhibits of that data speak of. Both are decoration: a report without them
lacks these pictures and nothing else. Neither needs torch to be read.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float32, Int8
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from salmu_core.errors import BadRecord, DamagedFile
from salmu_core.files.seals import read_json, sealed_json
from salmu_core.files.writing import write_text
from salmu_core.records.schema import Aspect
from salmu_core.records.store import RECORD_FILE

EXHIBITS_VERSION = 1
EXHIBITS_FILE = "exhibits.json"
SCENE_FILE = "scene.json"
LIMIT_BYTES = 300_000  # of either file
BINS = 200  # of a histogram, over cosines from -1 to 1

#: How what was found relates to what was asked for: the very pair, another wording or picture of the same association (person and
#: field), something else of the same person, or anything else.
Relation = Literal["pair", "association", "person", "other"]
_BASE64 = r"^[A-Za-z0-9+/]*={0,2}$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Similarities(_Frozen):
    """Cosines of the image-text pairs of one split, as a histogram of `BINS` bins from -1 to 1.

    Args:
        first: number of the first bin that is not empty.
        counts: pairs per bin from `first` to the last one that is not empty.
    """

    split: str
    aspect: Aspect
    n: int
    mean: float
    first: int = Field(ge=0, lt=BINS)
    counts: tuple[int, ...] = Field(max_length=BINS)


class Found(_Frozen):
    """One of the captions or pictures nearest to what was asked for; a picture is a row of the scene."""

    cosine: float
    relation: Relation
    caption: str = ""
    row: int | None = None


class Retrieval(_Frozen):
    """What one model finds for one pair: captions for its picture, pictures for its caption, nearest first.

    Args:
        row: the pair, as a row of the scene.
        caption_rank: place of the pair's own caption among `captions` different ones, from 1.
        picture_rank: place of the pair's own picture among the `pictures` of the scene, from 1.
    """

    row: int = Field(ge=0)
    caption_rank: int
    captions: int
    picture_rank: int
    pictures: int
    found_captions: tuple[Found, ...] = ()
    found_pictures: tuple[Found, ...] = ()


class Vectors(_Frozen):
    """Unit-length embeddings of the scene's first rows, each number as one signed byte times `scale`, base64."""

    dim: int = Field(gt=0)
    scale: float = Field(gt=0)
    image: str = Field(pattern=_BASE64)
    text: str = Field(pattern=_BASE64)

    @field_validator("image", "text")
    @classmethod
    def _decodes(cls, side: str) -> str:
        base64.b64decode(side, validate=True)  # raises a ValueError
        return side

    @classmethod
    def of(cls, image: Float32[np.ndarray, "rows dim"], text: Float32[np.ndarray, "rows dim"]) -> Vectors:
        """Round two tables of embeddings to a byte a number."""
        scale = float(max(np.abs(image).max(initial=0.0), np.abs(text).max(initial=0.0), 1e-6)) / 127
        packed = [base64.b64encode(np.rint(side / scale).astype(np.int8).tobytes()).decode() for side in (image, text)]
        return cls(dim=image.shape[1], scale=scale, image=packed[0], text=packed[1])

    def tables(self) -> tuple[Float32[np.ndarray, "rows dim"], Float32[np.ndarray, "rows dim"]]:
        """Image and text embeddings, of as many rows as both have."""
        sides = [np.frombuffer(base64.b64decode(side), dtype=np.int8) for side in (self.image, self.text)]
        rows = min(len(side) for side in sides) // self.dim
        image, text = (self._table(side[: rows * self.dim]) for side in sides)
        return image, text

    def _table(self, numbers: Int8[np.ndarray, " n"]) -> Float32[np.ndarray, "rows dim"]:
        return numbers.reshape(-1, self.dim).astype(np.float32) * np.float32(self.scale)


class Exhibits(_Frozen):
    """Everything shown of one model. `data` tells the scene that rows are of: exhibits of another one are not shown beside it."""

    version: int = EXHIBITS_VERSION
    data: str
    similarities: tuple[Similarities, ...] = ()
    vectors: Vectors | None = None
    retrievals: tuple[Retrieval, ...] = ()


class SceneRow(_Frozen):
    """One pair that exhibits speak of. Caption, person and picture are left out where a benchmark does not allow them."""

    split: str
    aspect: Aspect
    person: str = ""
    field: str = ""
    caption: str = ""
    picture: str = Field("", pattern=_BASE64, description="a small JPEG, base64")


class Scene(_Frozen):
    """The pairs that all exhibits of a benchmark's data speak of."""

    version: int = EXHIBITS_VERSION
    data: str
    rows: tuple[SceneRow, ...] = ()


_Kind = TypeVar("_Kind", Exhibits, Scene)


def beside(record_file: Path, name: str) -> Path:
    """Where `exhibits.json` or `scene.json` of a record lies: in its run directory, or named after a record file of its own."""
    return record_file.with_name(name if record_file.name == RECORD_FILE else f"{record_file.stem}.{name}")


def write_exhibit(path: Path, content: Exhibits | Scene) -> None:
    """Write atomically, as one line of JSON."""
    sealed = sealed_json(content.model_dump(mode="json", exclude_defaults=True))
    write_text(path, json.dumps(sealed, separators=(",", ":"), ensure_ascii=False) + "\n")


def read_exhibits(path: Path) -> Exhibits | None:
    """A model's exhibits; None where the file is missing.

    Raises:
        BadRecord: the file is damaged, of a newer version or far too large.
    """
    return _read(Exhibits, path)


def read_scene(path: Path) -> Scene | None:
    """The scene beside a record; None where the file is missing.

    Raises:
        BadRecord: the file is damaged, of a newer version or far too large.
    """
    return _read(Scene, path)


def _read(kind: type[_Kind], path: Path) -> _Kind | None:
    try:  # salmu writes none that large; it would make the page unusable
        content = kind.model_validate(read_json(path, 10 * LIMIT_BYTES))
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        raise BadRecord(
            f"{error.message} It is left out of the report.", "Run the run again, or delete the file."
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRecord(f"'{path}' is damaged: {where}: {problem['msg']}.", "Delete it; the report does without.") from None
    if content.version > EXHIBITS_VERSION:
        raise BadRecord(
            f"'{path}' has version {content.version}; this salmu reads up to {EXHIBITS_VERSION}.", "Upgrade salmu."
        )
    return content
