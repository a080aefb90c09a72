"""Which installed packages are the project's own. Only metadata is read: nothing of them is imported."""

from __future__ import annotations

import importlib.metadata
from functools import lru_cache

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

EXTRA = "zoo"


@lru_cache(maxsize=1)
def own_packages() -> frozenset[str]:
    """salmu itself, and what salmu's own metadata names under the extra `zoo`. A package cannot put itself on this list.

    Empty where the metadata is of a version that had no such extra, as in a checkout that was not synchronised since.
    """
    try:
        salmu = importlib.metadata.metadata("salmu")
    except importlib.metadata.PackageNotFoundError:
        return frozenset()
    if EXTRA not in (salmu.get_all("Provides-Extra") or []):
        return frozenset()
    required = salmu.get_all("Requires-Dist") or []
    found = {"salmu"}
    for line in required:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if marker is not None and marker.evaluate({"extra": EXTRA}) and not marker.evaluate({"extra": ""}):
            found.add(canonicalize_name(requirement.name))
    return frozenset(found)


def is_own(package: str) -> bool:
    """Is a package of that name the project's own? Where nothing says which are, all count as such."""
    return not own_packages() or canonicalize_name(package) in own_packages()
