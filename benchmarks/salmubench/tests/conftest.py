"""A small snapshot in the official layout, exported from the toy benchmark, and ways to damage a copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from salmu_core.builtin.toy import Toy
from salmubench import SalmubenchLayout


@pytest.fixture(scope="session")
def toy() -> Toy:
    return Toy(Toy.Options(identities=7))  # odd: one person of forget has no row in holdout_association


@pytest.fixture(scope="session")
def exported(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "snapshot"
    SalmubenchLayout().export(toy, folder)
    return folder


@pytest.fixture
def snapshot(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "snapshot"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


Damage = Callable[[Path], object]
