"""The source `hf-hub:` of `salmu_core.load_model`: open_clip's names of models on the hub."""

from __future__ import annotations

from pathlib import Path


def fetch_named(name: str) -> tuple[Path, Path]:
    """Fetch and check the configuration and the weights of a model.

    Args:
        name: OWNER/NAME, perhaps @REVISION.

    Returns:
        Paths of the configuration and of the weights.

    Raises:
        HubError: it is not there, not for this user, or out of reach.
    """
    from salmu_hub.fetching import fetch_model

    repository, _, revision = name.partition("@")
    return fetch_model(repository, revision or None)
