"""What rows and metadata must be like. Loading a split raises the first error; `salmu data check` lists all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from salmu_core.errors import BadData
from salmu_core.layout import Finding
from salmubench import layout


def where(split: str, row: int, file_name: object) -> str:
    """A row in words."""
    return f"split '{split}', row {row} ({file_name})"


def raise_first_error(findings: Iterator[Finding]) -> None:
    """Raise the first error as BadData."""
    for finding in findings:
        if finding.severity == "error":
            raise BadData(finding.message, finding.hint)


def table_findings(split: str, texts: Sequence[Any], columns: Mapping[str, Sequence[Any]]) -> Iterator[Finding]:
    """A table on its own: every row has a name of its own, a caption, and an identity where one is needed."""
    seen: dict[str, int] = {}
    rows = zip(columns["file_name"], texts, columns["identity_id"], strict=True)
    for row, (file_name, text, identity) in enumerate(rows):
        place = where(split, row, file_name)
        if not isinstance(file_name, str) or not file_name:
            yield _error(f"{place}: file_name is {file_name!r}, and must be a text.", rule="file names")
        elif file_name in seen:
            yield _error(
                f"{place}: row {seen[file_name]} has the same file_name; a split has each once.",
                rule="file names",
            )
        else:
            seen[file_name] = row
        if split != layout.GENKNOW and not (isinstance(text, str) and text.strip()):
            yield _error(f"{place}: text is {text!r}, and every row needs a caption.", rule="captions")
        if split in layout.SENSITIVE_SPLITS and identity is None:
            yield _error(f"{place}: identity_id is null, and a sensitive row must have one.", rule="identities")
        elif identity is not None and not isinstance(identity, str):
            yield _error(f"{place}: identity_id is {identity!r}, and must be a text.", rule="identities")


def sensitive_findings(
    split: str, texts: Sequence[Any], columns: Mapping[str, Sequence[Any]], metadata: Mapping[str, Any]
) -> Iterator[Finding]:
    """A sensitive table beside its metadata files.

    Args:
        metadata: content of the metadata files, by file name; that of generic captions may be missing.
    """
    captions, identities = metadata[layout.CAPTIONS], metadata[layout.IDENTITIES]
    generic = metadata.get(layout.GENERIC_CAPTIONS)
    rows = zip(columns["file_name"], texts, columns["identity_id"], strict=True)
    for row, (file_name, text, identity) in enumerate(rows):
        place = where(split, row, file_name)
        if generic is not None and file_name not in generic:
            yield Finding(
                "warning", f"{place}: {layout.GENERIC_CAPTIONS} has no entry for this file.", rule="generic captions"
            )
        entry, person = captions.get(file_name), identities.get(identity)
        if not isinstance(entry, Mapping):
            yield _error(f"{place}: {layout.CAPTIONS} has no entry for this file.", rule="captions metadata")
        elif entry.get("caption") != text:
            yield Finding(
                "warning", f"{place}: the caption differs from the one in {layout.CAPTIONS}.", rule="captions that differ"
            )
        if identity is not None and not isinstance(person, Mapping):
            yield _error(f"{place}: {layout.IDENTITIES} has no entry for identity {identity}.", rule="identities metadata")
        if not isinstance(entry, Mapping):
            continue
        chosen = entry.get("data_field")
        if chosen not in layout.FIELDS:
            yield _error(
                f"{place}: unknown data_field {chosen!r}.", f"Known: {', '.join(layout.FIELDS)}.", rule="data fields"
            )
        elif isinstance(person, Mapping):
            yield from _value_findings(place, text, str(identity), person, chosen)


def _value_findings(place: str, text: Any, identity: str, person: Mapping[str, Any], chosen: str) -> Iterator[Finding]:
    absent = [name for name in dict.fromkeys(("name", chosen)) if not values_of(person, name)]
    if absent:
        listed = " and no ".join(f"'{name}'" for name in absent)
        yield _error(f"{place}: {layout.IDENTITIES} has no {listed} for identity {identity}.", rule="identities metadata")
    elif isinstance(text, str):
        for name in dict.fromkeys(("name", chosen)):
            if not any(value.casefold() in text.casefold() for value in values_of(person, name)):
                yield Finding(
                    "warning", f"{place}: the caption does not mention the {name}.", rule=f"captions without {name}"
                )


def fragile_findings(fragile: Sequence[str], disjoint: Sequence[str]) -> Iterator[Finding]:
    """Every fragile id names a row of `retain_disjoint`."""
    known = set(disjoint)
    for file_name in fragile:
        if file_name not in known:
            yield _error(
                f"{layout.FRAGILE_IDS} names '{file_name}', which is not a row of split 'retain_disjoint' (the rows of"
                " retain_synth without identity_id).",
                rule="fragile ids",
            )


def values_of(person: Mapping[str, Any], name: str) -> list[str]:
    """What is known of one attribute of a person: several values where it is a list, none where it is missing or null."""
    value = person.get(name)
    values = value if isinstance(value, list) else [value]
    return [text for item in values if (text := _text(item))]


def _text(item: Any) -> str:
    """A value as captions have it: telephone numbers may have become floating point numbers on the way."""
    if item is None or item != item:  # NaN
        return ""
    return str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)


def metadata_fault(name: str, content: Any) -> str | None:
    """Why the content of a metadata file has the wrong shape; None when it has the right one."""
    if name == layout.FRAGILE_IDS:
        right = isinstance(content, list) and all(isinstance(item, str) for item in content)
        return None if right else "a list of file names is expected"
    if name == layout.PROMPTS:
        right = isinstance(content, list) and all(
            isinstance(item, Mapping) and isinstance(item.get("label"), int) and isinstance(item.get("text"), str)
            for item in content
        )
        return None if right else 'a list of {"label": number, "text": caption} is expected'
    return None if isinstance(content, Mapping) else "an object is expected"


def _error(message: str, hint: str | None = None, *, rule: str) -> Finding:
    return Finding("error", message, hint, rule)
