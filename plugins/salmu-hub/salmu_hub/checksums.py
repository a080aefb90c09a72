"""Whether a file of this machine has the content that the hub states."""

from __future__ import annotations

import hashlib
from pathlib import Path

from salmu_hub.repository import HubFile


def is_whole(content: Path | bytes, file: HubFile) -> bool:
    """Has a file of this machine (or its content) the content that the hub states? SHA-256 in large file storage, git's
    blob id otherwise."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    if isinstance(content, bytes):
        if len(content) != file.size:
            return False
        digest.update(content)
    else:
        if not content.is_file() or content.stat().st_size != file.size:
            return False
        with content.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.blob_id)
