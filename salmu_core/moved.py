"""Public names that left core for packages of their own: where they are, for code that still imports them from here.

This is the one place in core that names packages of the zoo. Nothing in core uses these names.
"""

from __future__ import annotations

import importlib
from typing import Any

from salmu_core.errors import PluginFailure

#: Name in `salmu_core` -> distribution, and module of it.
MOVED = {
    "audit": ("salmu-audits", "salmu_audits"),
    "push": ("salmu-share", "salmu_share"),
    "testing": ("salmu-authors", "salmu_authors.testing"),
}


def moved(name: str) -> Any:
    """What is now where `MOVED` says.

    Raises:
        PluginFailure: the package is not installed.
    """
    distribution, module = MOVED[name]
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise PluginFailure(
            f"salmu_core.{name} is now in the package {distribution}, which is not installed.",
            f"Install it (pip install {distribution}, or ./plugins/{distribution} of a checkout) and import it from {module}.",
        ) from None
    return home if module.endswith(f".{name}") else getattr(home, name)
