"""A split: encoded pictures, captions and metadata columns, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from salmu_core.data.images import WHERE_IT_LIES, ImageRows, TakenImages, content_key, join_images, read_encoded
from salmu_core.errors import BadData
from salmu_core.seeding import numpy_generator


@dataclass(frozen=True)
class Split:
    """Rows of a benchmark. A split may have images, texts, or both, and any number of columns of the same length.

    Columns every SALMU-style split carries: `identity_id` (None where the person is unknown), `file_name`; on sensitive splits also
    `data_field`, `name`, `value`. An association is the pair (identity_id, data_field).

    Args:
        name: of the split.
        images: encoded pictures, read row by row; None where it has none.
        texts: captions; None where it has none.
        columns: metadata by name, a value for each row.
    """

    name: str
    images: ImageRows | None = None
    texts: Sequence[str] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {"images": self.images, "texts": self.texts, **self.columns}
        lengths = {key: len(value) for key, value in sizes.items() if value is not None}
        if len(set(lengths.values())) > 1:
            raise BadData(f"Split '{self.name}' has columns of different lengths: {lengths}.")

    def __len__(self) -> int:
        if self.images is not None:
            return len(self.images)
        if self.texts is not None:
            return len(self.texts)
        return next((len(values) for values in self.columns.values()), 0)

    @property
    def identities(self) -> int:
        """How many different ones there are; a row without one is its own."""
        found = self.columns.get("identity_id", [None] * len(self))
        return len({person for person in found if person is not None}) + sum(person is None for person in found)

    def frozen(self) -> Split:
        """The same rows, with captions and columns that nobody can change: they are shared by all runs of a process."""
        texts = tuple(self.texts) if isinstance(self.texts, list) else self.texts
        columns = {name: tuple(values) if isinstance(values, list) else values for name, values in self.columns.items()}
        return replace(self, texts=texts, columns=MappingProxyType(columns))

    @cached_property
    def image_keys(self) -> list[str]:
        """Content hash (BLAKE2b, 128 bits, hex) of every encoded image: equal bytes are encoded once."""
        if self.images is None:
            raise BadData(f"Split '{self.name}' has no images.")
        return [content_key(read_encoded(self.images, row, self.name)).hex() for row in range(len(self))]

    def render(self, template: str | None) -> list[str]:
        """The split's captions, or `template` filled from its columns, one text per row.

        Raises:
            BadData: no captions, or a column that the template names is missing.
        """
        if template is None:
            if self.texts is None:
                raise BadData(f"Split '{self.name}' has no captions.")
            texts = list(self.texts)
            if len(texts) != len(self):
                raise BadData(
                    f"Split '{self.name}' says that it has {len(self)} captions and gives {len(texts)}.", WHERE_IT_LIES
                )
            return texts
        try:
            return [
                template.format(**{name: values[row] for name, values in self.columns.items()}) for row in range(len(self))
            ]
        except KeyError as missing:
            raise BadData(
                f"Split '{self.name}' has no column {missing} for the text template '{template}'.",
                f"Its columns: {', '.join(self.columns) or 'none'}.",
            ) from None

    def take(self, rows: Sequence[int], name: str | None = None) -> Split:
        """A split of the given rows, in that order."""
        chosen = list(rows)
        return Split(
            name=name or self.name,
            images=None if self.images is None else TakenImages(self.images, chosen),
            texts=None if self.texts is None else [self.texts[row] for row in chosen],
            columns={key: [values[row] for row in chosen] for key, values in self.columns.items()},
        )


#: Share of rows that are measured and not seen by a method; at least so many where they are no more than half: fewer measure nothing.
SET_ASIDE, FEWEST_ASIDE = 0.1, 8


def set_aside(rows: Sequence[int], seed: int, *purpose: object, most: int | None = None) -> list[int]:
    """Draw some of the rows, which are then only measured, in order.

    Args:
        seed, purpose: what they are drawn from.
        most: no more than so many.
    """
    wanted = min(len(rows) // 2, max(FEWEST_ASIDE, round(SET_ASIDE * len(rows))), len(rows) if most is None else most)
    order = numpy_generator(seed, *purpose).permutation(len(rows))
    return sorted(rows[place] for place in order[:wanted])


def join_splits(name: str, splits: Sequence[Split]) -> Split:
    """Rows of several splits one after another. Columns that one of them lacks are filled with None."""
    columns: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for split in splits for key in split.columns):
        columns[key] = [value for split in splits for value in split.columns.get(key, [None] * len(split))]
    images = [split.images for split in splits if split.images is not None]
    texts = [split.texts for split in splits if split.texts is not None]
    if len(images) not in (0, len(splits)) or len(texts) not in (0, len(splits)):
        raise BadData(f"Cannot join {[split.name for split in splits]}: some have images or captions and some have not.")
    return Split(
        name=name,
        images=join_images(images) if images else None,
        texts=[text for part in texts for text in part] if texts else None,
        columns=columns,
    )
