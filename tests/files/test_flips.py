"""Files that numbers come from, damaged at random: each trial ends in the same value or in one error, never in another value.

`SALMU_FLIPS=500 uv run pytest -n0 tests/files/test_flips.py` makes 500 trials; a few dozen run by themselves. A trial is told by its number.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from records import record, scores
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.data.cache import DataCache
from salmu_core.data.pixels import PixelTable
from salmu_core.data.splits import Split
from salmu_core.errors import BadCheckpoint, BadRecord, DamagedFile, OutputError
from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.files.seals import check_folder, check_tensors, folder_checksums, read_json
from salmu_core.files.writing import write_sealed_json, write_tensors
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.models.processor import Processor
from salmu_core.records.attacks import AUDITS_FILE, AuditResult, read_attacks, write_attacks
from salmu_core.records.report_data import Exhibits, Similarities, read_exhibits, write_exhibit
from salmu_core.records.rows import check_rows, read_cluster_sums
from salmu_core.records.store import read_record, write_record
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.unlearning import read_object

TRIALS = int(os.environ.get("SALMU_FLIPS", "60"))

#: Kinds that a run may not have: no exhibits, no rows, no attacks, no checkpoint yet.
ABSENT = ("exhibits", "rows", "attacks", "checkpoint")


class Folder:
    """Images in files of their own."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self._files)

    def read(self, row: int) -> bytes:
        return self._files[row].read_bytes()

    def where(self, row: int) -> str:
        return str(self._files[row])

    def files(self) -> list[Path]:
        return self._files


@dataclass
class Kind:
    """A kind of file, and what is read of it in a form that can be compared.

    Attributes:
        file: the one that is damaged.
        refused: errors that may tell of the damage; without, it has to be made again.
    """

    name: str
    file: Path
    read: Callable[[], Any]
    refused: tuple[type[Exception], ...] = ()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Kind]:
    root = tmp_path_factory.mktemp("flips")
    return [*_caches(root), *_results(root / "run"), *_weights(root)]


def _one(folder: Path, pattern: str) -> Path:
    [found] = folder.rglob(pattern)
    return found


def _caches(root: Path) -> list[Kind]:
    place, pictures = root / "cache", root / "pictures"
    pictures.mkdir()
    for number in range(4):
        data = io.BytesIO()
        noise = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data, "PNG")
        (pictures / f"{number}.png").write_bytes(data.getvalue())
        os.utime(pictures / f"{number}.png", ns=(0, 0))
    processor = Processor(TOY_MODEL)
    split = Split("forget", Folder(pictures))
    vectors = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))

    def keys() -> Any:
        return DataCache(place).image_keys([Split("forget", Folder(pictures))])

    def pixels() -> Any:
        return PixelTable([(split, range(4))], processor, DataCache(place)).read(np.arange(4)).numpy().tobytes()

    def tokens() -> Any:
        return DataCache(place).tokens(["a cat", "a dog called Rex"], processor).tolist()

    def embedding() -> Any:
        found = EmbeddingCache(place / "embeddings").read("key")
        return vectors.tolist() if found is None else found.tolist()  # computed again

    EmbeddingCache(place / "embeddings").write("key", vectors)
    for make in (keys, pixels, tokens):
        make()
    found = [
        Kind("keys", _one(place / "keys", "*.safetensors"), keys),
        Kind("pixels", _one(place / "pixels", "*.pixels"), pixels),
        Kind("tokens", _one(place / "tokens", "*.safetensors"), tokens),
        Kind("embeddings", _one(place / "embeddings", "*.safetensors"), embedding),
    ]
    remembered = list((place / "digests").glob("*.json"))
    return [*found, *(Kind("digests", file, keys) for file in remembered)]


def _results(folder: Path) -> list[Kind]:
    rows = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score = scores({"RetFail": 0.5})["RetFail"].model_copy(
        update={"value": float(rows.mean()), "n": 12, "low": 0.1, "high": 0.9}
    )
    run = record("m", {}, scores={"RetFail": score}, rows_file="rows.safetensors")
    run = run.model_copy(
        update={"provenance": run.provenance.model_copy(update={"model_fingerprint": {"image": "a", "text": "b"}})}
    )
    write_record(folder, run)
    write_tensors(folder / "rows.safetensors", {"RetFail/rows": rows, "RetFail/cluster": torch.arange(12) % 3})
    counted = Similarities(split="forget", aspect="forgetting", n=5, mean=0.25, first=7, counts=(1, 4))
    write_exhibit(folder / "exhibits.json", Exhibits(data="d", similarities=(counted,)))
    tried = AuditResult(audit="a", summary="", package="p 1", options={}, value=0.5, clean=0.125, compromised=1.0)
    write_attacks(folder, run.provenance.model_fingerprint, [tried], {"seed": 0})

    def sums() -> Any:
        check_rows(run, folder)
        found = read_cluster_sums(run, folder).get("RetFail")
        if found is None:
            return None
        assert found.label is not None
        return found.sums.tolist(), found.sizes.tolist(), found.label.tolist()

    def attacks() -> Any:
        found = read_attacks(run, folder)
        if found.problem:
            raise BadRecord(found.problem)
        return found.results

    write_sealed_json(folder / "spec.json", {"id": "i", "options": {"lr": 1e-4, "epochs": 3}})
    write_sealed_json(folder / "unlearned.json", {"status": "ok", "seconds": 1.5, "fingerprint": {"image": "a"}})
    return [
        Kind("spec", folder / "spec.json", lambda: read_object(folder / "spec.json"), (OutputError,)),
        Kind("unlearned", folder / "unlearned.json", lambda: read_object(folder / "unlearned.json"), (OutputError,)),
        Kind("record", folder / "record.json", lambda: read_record(folder), (BadRecord,)),
        Kind("rows", folder / "rows.safetensors", sums, (BadRecord,)),
        Kind("exhibits", folder / "exhibits.json", lambda: read_exhibits(folder / "exhibits.json"), (BadRecord,)),
        Kind("attacks", folder / AUDITS_FILE, attacks, (BadRecord,)),
    ]


def _weights(root: Path) -> list[Kind]:
    model = root / "model"
    DualEncoder.create(TOY_MODEL, seed=0).save(model)
    Checkpoints(root / "checkpoints").write(0, {"w": torch.arange(50.0)}, {"step": 3, "loss": 0.25})
    (root / "pair" / "snapshot").mkdir(parents=True)
    (root / "pair" / "snapshot" / "captions.json").write_text(json.dumps({"a": "I am Rex"}))
    checksums = folder_checksums(root / "pair")

    def loaded() -> Any:
        found = load_model(model)
        return found.fingerprint(), found.processor.image_fingerprint, found.processor.text_fingerprint

    def checkpoint() -> Any:
        found = Checkpoints(root / "checkpoints").read(0)
        return found and (found.tensors["w"].tolist(), dict(found.facts))

    def pair() -> Any:
        check_folder(root / "pair", checksums)
        return (root / "pair" / "snapshot" / "captions.json").read_bytes()

    return [
        Kind("weights", model / "model.safetensors", loaded, (BadCheckpoint,)),
        Kind("configuration", model / "open_clip_config.json", loaded, (BadCheckpoint,)),
        Kind("checkpoint", root / "checkpoints" / "fit-000.safetensors", checkpoint, (OutputError,)),
        Kind("pair", root / "pair" / "snapshot" / "captions.json", pair, (DamagedFile,)),
    ]


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit turned, cut short, bytes lost or added, or a block of zeros, as a disk leaves it."""
    data = bytearray(content)
    # Half of all damage in the first part: headers and marks are small, and a large file has little else than numbers.
    end = len(data) if rng.random() < 0.5 else min(len(data), 400)
    place = int(rng.integers(end))
    what = rng.choice(["bit", "bit", "bit", "digit", "cut", "lost", "added", "zeros"])
    if what == "bit":
        data[place] ^= 1 << int(rng.integers(8))
    elif what == "digit":
        digits = [number for number, byte in enumerate(data[:100_000]) if chr(byte).isdigit()]
        place = int(rng.choice(digits)) if digits else place
        data[place] = ord("0") + (data[place] - ord("0") + 1) % 10
    elif what == "cut":
        del data[place:]
    elif what == "lost":
        del data[place : place + 1 + int(rng.integers(8))]
    elif what == "added":
        data[place:place] = rng.bytes(1 + int(rng.integers(8)))
    else:
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    return bytes(data)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, None])
def test_files_that_are_cut_or_gone_change_no_number(kinds: list[Kind], share: float | None) -> None:
    for kind in kinds:
        content, value = kind.file.read_bytes(), kind.read()
        if share is None:
            kind.file.unlink()
        else:
            kind.file.write_bytes(content[: int(share * len(content))])
        try:
            found = kind.read()
        except kind.refused:
            assert kind.refused
        else:
            # A file that is gone may be nobody's any more: then there is nothing to read, and nothing else than that.
            assert found == value or (share is None and kind.name in ABSENT and not found), f"{kind.name} gave another value"
        kind.file.write_bytes(content)


def test_no_damage_changes_a_number_silently(kinds: list[Kind]) -> None:
    sound = {kind.name: (kind.file.read_bytes(), kind.read()) for kind in kinds}
    assert len(sound) == len({kind.name for kind in kinds}) >= 12
    noticed = 0
    for trial in range(TRIALS):
        kind = kinds[trial % len(kinds)]
        content, value = sound[kind.name]
        kind.file.write_bytes(_damaged(content, np.random.default_rng([trial, 15])))
        try:
            found = kind.read()
        except kind.refused:
            noticed += 1
        else:
            assert found == value, f"trial {trial}: damage to {kind.file.name} ({kind.name}) gave another value"
        kind.file.write_bytes(content)
    assert noticed > TRIALS / 4  # the trials do damage something


@pytest.mark.parametrize("name", ["xxh3_129", "xh3_128", "xxh3__128", "hh3_1"])
def test_a_checksum_that_lost_its_name_is_damage(name: str, tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", {"value": 1})
    write_tensors(tmp_path / "a.safetensors", {"w": torch.zeros(2)})
    for file, read in ((tmp_path / "a.json", read_json), (tmp_path / "a.safetensors", check_tensors)):
        content = file.read_bytes()
        damaged = content.replace(b"xxh3_128", name.encode())
        damaged = (len(damaged) - 16).to_bytes(8, "little") + damaged[8:] if file.suffix == ".safetensors" else damaged
        file.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="checksum"):
            read(file)
    (tmp_path / "a.json").write_text(
        '{"value": 1, "md5": "0123456789abcdef0123456789abcdef"}'
    )  # another's checksum says nothing
    assert read_json(tmp_path / "a.json")["value"] == 1
