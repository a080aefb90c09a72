"""Tables of pairs in webdataset tar files."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from salmu_core.errors import BadData
from salmu_core.files.first_bytes import refuse_other_content
from salmu_core.layout import Finding
from salmu_deletion.own_data.columns import match_columns
from salmu_deletion.own_data.images import TarImages
from salmu_deletion.own_data.raw import RawTable, rivals, usual_names

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
_Samples = Mapping[str, Mapping[str, tarfile.TarInfo]]


def read_tar(path: Path, columns: Mapping[str, str], optional: frozenset[str]) -> RawTable:
    """A webdataset shard: members that share a name up to its first dot are one sample.

    Args:
        columns: `image` is the ending of the pictures to take, the others are keys of each sample's `.json` (or `txt`).

    Raises:
        BadData: compressed, cut short, or no tar; a member that comes twice, a sample without or with several pictures, a `.json` or
            `.txt` that cannot be read; file and member are named.
    """
    refuse_other_content(path)
    try:
        with tarfile.open(path, "r:") as tar:  # no compression: rows are read by where they begin
            samples = _samples(path, tar)
            facts = [_facts(tar, path, key, sample) for key, sample in samples.items()]
            whole = _has_end(path, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise BadData(f"'{path}' is not a readable tar file: {error}.", "Fetch it again.") from None
    chosen, unused = _pictures(path, samples, columns.get("image"))
    keys = list(dict.fromkeys(name for fact in facts for name in fact))
    found = match_columns(
        ["image", *(key for key in keys if key != "image")], {**columns, "image": "image"}, str(path), optional
    )
    used = [name for part, name in found.of.items() if part != "image"]
    values = {name: [fact.get(name) for fact in facts] for name in {*used, *(usual_names() & set(keys))}}
    names = [_shown(member.name) for member in chosen]
    findings = rivals(values, found, columns, f"'{path.name}'")
    if unused:
        findings.append(
            Finding(
                "warning",
                f"'{path.name}' holds {len(unused)} pictures that are not taken: {', '.join(unused[:3])}.",
                "A sample is what shares a name up to its first dot; give each picture such a name and a caption of its own.",
                "pictures without a row",
            )
        )
    if not whole:
        findings.append(
            Finding(
                "warning",
                f"'{path.name}' lacks the end that a tar file has: it may be cut short.",
                "Compare its size with that of where it came from.",
                "tar without end",
            )
        )
    return RawTable(
        path,
        found,
        {name: values[name] for name in used},
        TarImages(path, [(member.offset_data, member.size) for member in chosen], names),
        names,
        unused=[key for key in keys if key not in used],
        findings=findings,
    )


def _samples(path: Path, tar: tarfile.TarFile) -> _Samples:
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        key, dot, ending = name.partition(".")
        if member.isdir() or not dot or not key:  # no key: hidden files, such as the ._x of macOS
            continue
        if not member.isfile():
            what, how = (
                ("link", " with --dereference --hard-dereference") if member.islnk() or member.issym() else ("device", "")
            )
            raise BadData(f"'{path}': {_shown(member.name)} is a {what} and not a file.", f"Pack the files anew{how}.")
        if member.issparse():
            raise BadData(f"'{path}': {_shown(member.name)} is a sparse member.", "Pack the files anew without --sparse.")
        folder = posixpath.normpath(folder) if folder else ""  # ./a.png and a.png are one file
        sample = samples.setdefault(key if folder in ("", ".") else f"{folder}/{key}", {})
        if ending.lower() in sample:
            raise BadData(
                f"'{path}' holds {_shown(sample[ending.lower()].name)} twice"
                + ("." if sample[ending.lower()].name == member.name else f", the second time as {_shown(member.name)}."),
                "Which of them counts cannot be told: take one out.",
            )
        sample[ending.lower()] = member
    if not samples:
        raise BadData(
            f"'{path}' is no webdataset shard: it holds no samples.", f"Endings of pictures: {', '.join(PICTURES)}."
        )
    return samples


def _pictures(path: Path, samples: _Samples, wanted: str | None) -> tuple[list[tarfile.TarInfo], list[str]]:
    """The picture of every sample, and names of pictures that are not taken."""
    chosen: list[tarfile.TarInfo] = []
    unused: list[str] = []
    for key, sample in samples.items():
        endings = [ending for ending in sample if ending.rpartition(".")[2] in PICTURES]
        if wanted is not None and wanted.lower() in sample:
            take = wanted.lower()
        else:
            plain = [ending for ending in endings if ending in PICTURES]
            if not plain:
                raise BadData(
                    f"'{path}' is no webdataset shard: the sample '{_shown(key)}' has no picture.",
                    f"Endings of pictures: {', '.join(PICTURES)}."
                    + (f" It has {endings[0]}: name it with --columns image={endings[0]}." if endings else ""),
                )
            if len(plain) > 1:
                raise BadData(
                    f"'{path}': the sample '{_shown(key)}' has several pictures ({', '.join(plain)}).",
                    f"Say which with --columns image={plain[0]}.",
                )
            take = plain[0]
        chosen.append(sample[take])
        unused += [_shown(sample[ending].name) for ending in endings if ending != take and wanted is None]
    return chosen, unused


def _facts(tar: tarfile.TarFile, path: Path, key: str, sample: Mapping[str, tarfile.TarInfo]) -> dict[str, Any]:
    """Texts of one sample: its .txt as caption, and what its .json says."""
    facts: dict[str, Any] = {}
    for ending in ("json", "txt"):
        if ending not in sample:
            continue
        stream = tar.extractfile(sample[ending])
        assert stream is not None
        where = f"'{path}': {_shown(key)}.{ending}"
        try:
            text = stream.read().decode("utf-8-sig")
            content = json.loads(text, object_pairs_hook=_once) if ending == "json" else text
        except (ValueError, RecursionError) as error:
            hint = "Save it as UTF-8." if isinstance(error, UnicodeDecodeError) else None
            raise BadData(f"{where} cannot be read: {error}.", hint) from None
        if ending == "txt":
            facts["txt"] = content.strip()
        elif isinstance(content, dict):
            facts |= content
        else:
            raise BadData(f"{where} holds no object, so nothing in it has a name.", 'It should read {"caption": ...}.')
    return facts


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys may come once."""
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"it has the key '{twice[0]}' more than once")
    return dict(pairs)


def _has_end(path: Path, end: int) -> bool:
    """Does a block of zeros follow the last member, as it must? A copy that was cut between members lacks it."""
    with path.open("rb") as file:
        file.seek(end)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _shown(name: str) -> str:
    """A member's name that can be written down, also where it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
