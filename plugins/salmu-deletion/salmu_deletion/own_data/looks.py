"""Show what the model sees of a user's rows: the output of the picture pipeline and of the tokenizer, not the bytes of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, UnidentifiedImageError

from salmu_core.data.cache import decode_pool
from salmu_core.data.images import content_key
from salmu_core.data.pixels import UnfitPicture, open_picture
from salmu_core.data.splits import Split
from salmu_core.errors import BadData
from salmu_core.files.writing import LFS_POINTER
from salmu_core.models.processor import Processor
from salmu_deletion.own_data.tables import Table

_ORIENTATION = 0x0112  # of EXIF; 1 is upright


@dataclass(frozen=True)
class Look:
    """What was seen of one picture.

    Attributes:
        key: of the pixels that the model is given, or of the file where it was not decoded; None where there is nothing.
        problem: "missing", "unreadable", "pointer" (of Git LFS), "huge", "deep" or "long".
        traits: "one colour", "turned", "frames", "transparent".
    """

    key: bytes | None
    problem: str | None = None
    traits: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """What the model reads of the captions.

    Attributes:
        keys: equal where captions are one to the model; None where nothing is left of a caption.
        cut: rows whose captions lose their end.
        context: tokens that the model reads; None where captions were only compared.
    """

    keys: Sequence[bytes | None]
    cut: Sequence[int] = ()
    context: int | None = None


def look_at_pictures(
    table: Table | Split,
    decode: bool,
    processor: Processor | None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[Look]:
    """Read, and decode, every picture of some rows.

    Args:
        processor: the model's; None: only whether pictures can be decoded is seen.
    """
    looks: list[Look] = [Look(None)] * len(table)
    done = 0

    def look(start: int, end: int) -> None:
        nonlocal done
        for row in range(start, end):
            looks[row] = _look(table, row, decode, processor)
        done += end - start
        tell(done, len(table))

    decode_pool.in_blocks(look, len(table), block=32)
    return looks


def read_captions(captions: Sequence[str], processor: Processor | None) -> Reading:
    """What is left of captions.

    Args:
        processor: the model's; None: captions count as they stand.
    """
    if processor is None:
        return Reading([caption.encode() if caption else None for caption in captions])
    tokens, cut = processor.what_is_read(captions)
    nothing, _ = processor.what_is_read([""])
    empty = nothing[0].tobytes()
    keys = [row.tobytes() for row in tokens]
    return Reading([None if key == empty else key for key in keys], np.flatnonzero(cut).tolist(), processor.context_length)


def _look(table: Table | Split, row: int, decode: bool, processor: Processor | None) -> Look:
    try:
        assert table.images is not None
        encoded = table.images.read(row)
    except (BadData, OSError):
        return Look(None, "missing")
    key = partial(content_key, encoded)
    if not decode:
        return Look(key())
    try:
        image = open_picture(encoded)
        traits = _traits(image)
        if processor is None:
            return Look(key(), None, frozenset(traits))
        pixels = processor.pixels(image.convert("RGB"))
    except UnfitPicture as unfit:
        return Look(key(), unfit.kind)
    except Image.DecompressionBombError:
        return Look(key(), "huge")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return Look(key(), "pointer" if encoded.startswith(LFS_POINTER) else "unreadable")
    if (pixels == pixels[:, :1, :1]).all():
        traits.add("one colour")
    return Look(content_key(pixels.tobytes()), None, frozenset(traits))


def _traits(image: Image.Image) -> set[str]:
    """What a picture holds and the model is not shown."""
    traits = set()
    try:
        if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
            traits.add("turned")
    except Exception:  # damaged metadata of a picture that can be decoded: Pillow raises many kinds
        pass
    # Phones put a preview behind a JPEG and call it MPO: no second picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        traits.add("frames")
    if "A" in image.getbands() and image.mode != "LAB" and image.getextrema()[-1][0] < 255:  # type: ignore[index]
        traits.add("transparent")
    if "transparency" in image.info and image.mode in ("P", "L", "RGB"):
        traits.add("transparent")
    return traits
