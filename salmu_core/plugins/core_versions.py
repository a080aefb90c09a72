"""Which versions of salmu a plugin works with: what its package requires, read before it is imported."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CORE = "salmu"


def core_requirements(requires: Iterable[str] | None) -> list[Requirement]:
    """What a distribution requires of salmu here and now; requirements of extras and of other systems are left out.

    Args:
        requires: as `importlib.metadata` gives them, e.g. ["salmu>=0.1,<0.3", "pytest; extra == 'test'"].
    """
    found = []
    for text in requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # an old package's own way of writing; none of ours
            continue
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and canonicalize_name(requirement.name) == CORE:
            found.append(requirement)
    return found


def unsupported(requires: Iterable[str] | None, core: str) -> str | None:
    """Why a plugin does not work with this version of salmu, in words; None when it says that it does, or says nothing.

    Args:
        requires: what its distribution requires.
        core: the version of salmu that is installed.
    """
    for requirement in core_requirements(requires):
        if not requirement.specifier.contains(Version(core), prereleases=True):
            return (
                f"it works with salmu {requirement.specifier}, and salmu {core} is installed; install a version of it for this"
                f" salmu, or a salmu that fits (pip install 'salmu{requirement.specifier}')"
            )
    return None
