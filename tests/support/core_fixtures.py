"""What the tests of core share: a loss-only method, a registry that holds it, and an isolated cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Shape annotations are checked while tests run, before the modules below are imported.
with install_import_hook(
    ["salmu_core.losses", "salmu_core.models.dual_encoder", "salmu_core.data.pixel_file", "salmu_core.data.pixels"],
    "beartype.beartype",
):
    pass

from salmu_core.plugins.loading import Plugins
from toy_methods import toy_plugins


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, and two test processes would fight for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plugins() -> Plugins:
    """Core, a few toy methods and one toy metric; nothing that happens to be installed."""
    return toy_plugins()
