"""Sources of models that packages add: a name like `hf-hub:OWNER/NAME` begins with the word under which one is registered.

A package offers a source by an entry point of the group `salmu.sources`: its name is the word, and it leads to a function that takes
the rest of the name and returns the paths of an open_clip configuration and of weights. It is imported when such a name is loaded.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from salmu_core.errors import BadCheckpoint

SOURCE_GROUP = "salmu.sources"
#: Words that mean a source even where no package offers it.
_KNOWN = ("hf-hub",)


def fetched(name: str) -> tuple[Path, Path] | None:
    """The configuration and the weights of a named model, fetched where that is needed; None: the name does not begin with a source.

    Raises:
        BadCheckpoint: no installed package offers this source.
    """
    word, colon, rest = name.partition(":")
    if not colon:
        return None
    for point in importlib.metadata.entry_points(group=SOURCE_GROUP, name=word):
        found: tuple[Path, Path] = point.load()(rest)
        return found
    if word in _KNOWN:
        raise BadCheckpoint(
            f"'{name}' is on the Hugging Face hub, and no installed package fetches from there.",
            f"Install one that offers the source {word} (pip install 'salmu[zoo]' brings salmu's own), or give a folder.",
        )
    return None
