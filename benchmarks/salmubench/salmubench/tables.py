"""A benchmark's rows and metadata, before they are written in SALMUBench's layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One row of a parquet table.

    Attributes:
        image: encoded bytes.
        text: the caption; None on zero-shot pictures.
        identity_id: None where no known person is shown.
        file_name: unique within its split; keys the metadata.
        label: class of a zero-shot picture.
    """

    image: bytes
    text: str | None
    identity_id: str | None
    file_name: str
    label: int | None = None


@dataclass
class Metadata:
    """The content of the metadata files.

    Attributes:
        identities: `identities_metadata.json`.
        caption_fields: file name -> (caption, data field): `sensitive_set_captions_metadata.json`.
        generic_captions: file name -> caption: `sensitive_set_generic_captions.json`.
        fragile_ids: `fragile_set_ids.json`.
        fragile_similarities: file name -> similarity: `fragile_set_all_similarities.json`.
        prompts: (label, caption) of the zero-shot classifier, several per class.
    """

    identities: dict[str, dict[str, Any]] = field(default_factory=dict)
    caption_fields: dict[str, tuple[str, str]] = field(default_factory=dict)
    generic_captions: dict[str, str] = field(default_factory=dict)
    fragile_ids: list[str] = field(default_factory=list)
    fragile_similarities: dict[str, float] = field(default_factory=dict)
    prompts: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Tables(Metadata):
    """A whole benchmark in memory, for those that are small enough: rows per split, and the metadata files beside them."""

    splits: dict[str, list[Row]] = field(default_factory=dict)
