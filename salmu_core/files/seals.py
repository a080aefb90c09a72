"""Checksums within the files that numbers come from, so that a byte that changed on a disk is noticed and changes no score.

A safetensors file holds the xxh3 of all its other bytes in its metadata, a JSON file that of its content. They find damage and
careless edits. They are not signatures: whoever wants to deceive can make a new one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
from collections.abc import Collection, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import IO, Any

import xxhash

from salmu_core.errors import DamagedFile

#: Name of the checksum in a safetensors file's metadata and in a JSON object.
SEAL = "xxh3_128"
BLANK = "0" * 32  # what stands in its place while it is computed
LARGEST_JSON = 64_000_000  # bytes; a record has thousands
_LARGEST_HEADER = 100_000_000  # as in safetensors itself
_DEEPEST = 200  # lists and objects within each other


# ------------------------------------------------------------------ any file


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, and nothing else: a pipe would wait for a writer, a device has no end.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: it is not a regular file, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a name with a null byte
        raise DamagedFile(f"'{path}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DamagedFile(f"'{path}' is not a file.")
    return io.BufferedReader(io.FileIO(handle, "rb"))


def file_checksum(path: Path) -> str:
    """xxh3 of a file's bytes, in hex.

    Raises:
        DamagedFile: it is not there, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except FileNotFoundError:
        raise DamagedFile(f"'{path}' is not there.") from None
    except OSError as error:
        raise DamagedFile(f"'{path}' cannot be read: {error.strerror or error}.") from error


def folder_checksums(folder: Path) -> dict[str, str]:
    """Checksum of every file below a folder, by its path from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_checksum(path) for path in files}


def check_folder(folder: Path, checksums: Mapping[str, str]) -> None:
    """Compare files below a folder with what `folder_checksums` said of them.

    Raises:
        DamagedFile: one is not there or is not what it was; it is named.
    """
    for name, checksum in checksums.items():
        if file_checksum(folder / name) != checksum:
            raise DamagedFile(f"'{folder / name}' is damaged: its content does not agree with its checksum.")


# ------------------------------------------------------------------ safetensors


def seal_tensors(path: Path) -> None:
    """Put the checksum of a safetensors file where `BLANK` stands in its metadata, and the metadata in order of name: the library
    writes them in any order, and equal tensors shall give equal bytes."""
    with path.open("r+b") as file:
        header = _in_order(_header(file, path))
        file.seek(8)
        file.write(header)
        place = _place_of_seal(header)
        assert place is not None, "written without a place for the checksum"
        file.seek(0)
        digest = hashlib.file_digest(file, xxhash.xxh3_128)
        file.seek(8 + place)
        file.write(digest.hexdigest().encode())


def check_tensors(path: Path, *, required: bool = False) -> None:
    """Compare a safetensors file with the checksum that it holds. One without is taken as it is, unless `required`.

    Raises:
        DamagedFile: it is not there, cannot be read, is not a safetensors file, or is not what was written.
    """
    try:
        with open_regular(path) as file:
            header = _header(file, path)
            place = _place_of_seal(header)
            if place is None:
                if required:
                    raise DamagedFile(f"'{path}' holds no checksum.")
                _refuse_damaged_name(_metadata(header), str(path))
                return
            found = header[place : place + len(BLANK)].decode()
            digest = xxhash.xxh3_128(len(header).to_bytes(8, "little"))
            digest.update(header[:place] + BLANK.encode() + header[place + len(BLANK) :])
            hashlib.file_digest(file, lambda: digest)
    except FileNotFoundError:
        raise DamagedFile(f"'{path}' is not there.") from None
    except OSError as error:
        raise DamagedFile(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if digest.hexdigest() != found:
        raise DamagedFile(f"'{path}' is damaged: its content does not agree with its checksum.")


def _header(file: IO[bytes], path: Path) -> bytes:
    size = int.from_bytes(file.read(8), "little")
    header = file.read(size) if size <= _LARGEST_HEADER else b""
    if not size or len(header) != size:
        raise DamagedFile(f"'{path}' is not a whole safetensors file.")
    return header


def _metadata(header: bytes) -> Mapping[str, Any]:
    """The metadata in a header; empty where it cannot be read, which the library refuses in its own words."""
    try:
        found = json.loads(header).get("__metadata__")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _place_of_seal(header: bytes) -> int | None:
    """Where the checksum's digits are in a header."""
    key = f'"{SEAL}":"'.encode()
    start = header.find(key)
    digits = header[start + len(key) : start + len(key) + len(BLANK)]
    whole = start >= 0 and len(digits) == len(BLANK) and all(byte in b"0123456789abcdef" for byte in digits)
    return start + len(key) if whole else None


def _in_order(header: bytes) -> bytes:
    content = json.loads(header)
    content["__metadata__"] = dict(sorted(content["__metadata__"].items()))
    ordered = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return ordered.ljust(len(header)) if len(ordered) <= len(header) else header


# ------------------------------------------------------------------ JSON


def json_checksum(content: Any) -> str:
    """xxh3 of a JSON value, however it is laid out: order of names, indentation and line ends do not count."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())


def sealed_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum."""
    # As it will be read: names that are numbers become texts, tuples lists.
    plain = json.loads(json.dumps({name: value for name, value in content.items() if name != SEAL}, default=list))
    return {**plain, SEAL: json_checksum(plain)}


def read_json(path: Path, largest: int = LARGEST_JSON, *, finite: bool = True, sealed_with: Collection[str] = ()) -> Any:
    """The JSON value in a file that anybody may have put there; a checksum that it holds is compared and taken out.

    Args:
        largest: bytes, beyond which nothing is read.
        finite: refuse Python's NaN and Infinity, which JSON does not know.
        sealed_with: names that salmu 0.1 did not write: an object with one of them has a checksum, or lost it.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFile: a pipe, a device or a folder; too large; not UTF-8 or not JSON (halves of characters are not); too
            deep; or not what was written.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size > largest:
                raise DamagedFile(f"'{path}' is too large to be read: {size / 1e6:,.0f} MB.")
            text = file.read(largest + 1).decode("utf-8")
        except OSError as error:
            raise DamagedFile(f"'{path}' cannot be read: {error.strerror or error}.") from error
        except UnicodeDecodeError as error:
            raise DamagedFile(f"'{path}' is not UTF-8: {error}.") from error
    return parse_json(text, str(path), finite=finite, sealed_with=sealed_with)


def parse_json(text: str, named: str, *, finite: bool = True, sealed_with: Collection[str] = ()) -> Any:
    """`read_json` of a text, which its errors call `named`.

    Raises:
        DamagedFile: see `read_json`.
    """
    try:
        refusing: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _finite} if finite else {}
        content = json.loads(text, **refusing)
        _check_depth(content, named)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DamagedFile(f"'{named}' holds half a character, which is not text.") from error
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DamagedFile(f"'{named}' is not JSON: {said}.") from error
    if isinstance(content, dict):
        found = content.pop(SEAL, None)
        if found is None:
            _refuse_damaged_name(content, named)
            if not content.keys().isdisjoint(sealed_with):
                raise DamagedFile(f"'{named}' was changed after it was written: its checksum is gone.")
        elif found != json_checksum(content):
            raise DamagedFile(f"'{named}' was changed after it was written: its content does not agree with its checksum.")
    return content


def _refuse_damaged_name(content: Mapping[str, Any], named: str) -> None:
    """A file without a checksum is taken as it is, but one whose checksum has lost its name was damaged."""
    for name, value in content.items():
        if (
            isinstance(value, str)
            and re.fullmatch("[0-9a-f]{32}", value)
            and SequenceMatcher(None, SEAL, name).ratio() > 0.5
        ):
            raise DamagedFile(f"'{named}' is damaged: its checksum stands under '{name}'.")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e999
        _refuse(text)
    return number


def _check_depth(content: Any, named: str) -> None:
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise DamagedFile(f"'{named}' is nested too deeply.")
