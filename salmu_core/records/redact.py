"""Taking this machine's paths out of what is published: they name users and projects, and help nobody elsewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from salmu_core.records.schema import RunRecord

# A path inside a sentence or a traceback: from the root, the home folder or a drive on. An address (https://...) is not a path.
_INSIDE = re.compile(r"""(?:(?<=[\s'"=(])|^)(?:~|[A-Za-z]:[\\/]|/)[^\s'"<>|]*[\\/][^\s'"<>|\\/]+""")


def public_record(record: RunRecord) -> RunRecord:
    """The record with every path of this machine cut down to its last part; nothing else changes."""
    content = record.model_dump()
    command = content["provenance"]["command"]
    redacted: dict[str, Any] = _redact(content)
    if command:
        words = [name + sign + _redact(value) for name, sign, value in (_split(word) for word in shlex.split(command))]
        redacted["provenance"]["command"] = shlex.join(words)
    return RunRecord(**redacted)


def _split(word: str) -> tuple[str, str, str]:
    name, sign, value = word.partition("=")
    return (name, sign, value) if sign else ("", "", word)


def _redact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redact(item) for item in value)
    if not isinstance(value, str):
        return value
    if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or value.startswith("~"):
        return _last_part(value) if "\n" not in value else _INSIDE.sub(lambda found: _last_part(found[0]), value)
    return _INSIDE.sub(lambda found: _last_part(found[0]), value)


def _last_part(path: str) -> str:
    parts = re.split(r"[\\/]", path.rstrip("/\\"))
    return f"…/{parts[-1]}"
