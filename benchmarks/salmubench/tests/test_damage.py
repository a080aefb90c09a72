"""Everything that can be wrong with a snapshot, one thing at a time: what a run says of it, and what `salmu data check` says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salmu_core.errors import BadData
from salmu_core.evaluation.evaluate import evaluate_model
from salmubench import Salmubench, SalmubenchLayout, Snapshot
from salmubench.check import SHOWN

Damage = Callable[[Path], object]


def _shard(folder: Path, split: str) -> Path:
    [shard] = Snapshot(folder).shards(split)
    return shard


def _rewrite(folder: Path, split: str, change: Callable[[dict[str, list[Any]]], object]) -> None:
    """Change a table's columns in place."""
    shard = _shard(folder, split)
    table = pq.read_table(shard)
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), shard, row_group_size=5)


def _set(split: str, column: str, row: int, value: Any) -> Damage:
    return lambda folder: _rewrite(folder, split, lambda columns: columns[column].__setitem__(row, value))


def _same_as(split: str, column: str, row: int, other: int) -> Damage:
    return lambda folder: _rewrite(folder, split, lambda columns: columns[column].__setitem__(row, columns[column][other]))


def _json(name: str, change: Callable[[Any], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


def _cut(folder: Path) -> None:
    def change(columns: dict[str, list[Any]]) -> None:
        columns["image"][7] = {**columns["image"][7], "bytes": columns["image"][7]["bytes"][:60]}

    _rewrite(folder, "forget", change)


def _no_bytes(folder: Path) -> None:
    _rewrite(folder, "forget", lambda columns: columns["image"].__setitem__(7, {"bytes": None, "path": "x.png"}))


def _more_shards(folder: Path) -> None:
    shard = _shard(folder, "forget")
    shard.rename(shard.with_name("forget-00000-of-00003.parquet"))


_FORGET_0 = r"split 'forget', row 0 \(00000000_name_0.png\)"
#: What is damaged; the split whose loading must fail; and words of the one error that both a run and a check give.
_ERRORS: list[tuple[str, Damage, str, str]] = [
    (
        "column",
        lambda folder: _rewrite(folder, "forget", lambda columns: columns.pop("identity_id")),
        "forget",
        "'.*forget-00000-of-00001.parquet' of split 'forget' lacks the column identity_id",
    ),
    (
        "metadata file",
        lambda folder: (folder / "sensitive_set_captions_metadata.json").unlink(),
        "forget",
        "metadata file '.*sensitive_set_captions_metadata.json' is missing",
    ),
    (
        "JSON",
        lambda folder: (folder / "identities_metadata.json").write_text("{"),
        "forget",
        "identities_metadata.json' is not JSON",
    ),
    (
        "shape of the JSON",
        lambda folder: (folder / "fragile_set_ids.json").write_text('{"a": 1}'),
        "fragile_set",
        "fragile_set_ids.json' is not what it should be: a list of file names is expected",
    ),
    (
        "table",
        lambda folder: _shard(folder, "holdout_identity").unlink(),
        "holdout_identity",
        "split 'holdout_identity' has no file",
    ),
    ("shard", _more_shards, "forget", "split 'forget' lacks 2 of its shards: forget-00001-of-00003.parquet"),
    ("parquet", lambda folder: _shard(folder, "forget").write_bytes(b"PAR1"), "forget", "is not a readable parquet file"),
    ("null identity", _set("forget", "identity_id", 0, None), "forget", f"{_FORGET_0}: identity_id is null"),
    ("null caption", _set("forget", "text", 0, None), "forget", f"{_FORGET_0}: text is None, and every row needs a caption"),
    (
        "null caption of retain",
        _set("retain_synth", "text", 4, None),
        "retain",
        r"split 'retain_synth', row 4 \(retain_0004.png\): text is None",
    ),
    ("file name", _set("forget", "file_name", 0, None), "forget", r"split 'forget', row 0 \(None\): file_name is None"),
    (
        "file name twice",
        _same_as("forget", "file_name", 1, 0),
        "forget",
        r"split 'forget', row 1 \(00000000_name_0.png\): row 0 has the same file_name",
    ),
    (
        "caption entry",
        _json("sensitive_set_captions_metadata.json", lambda content: content.pop("00000000_name_0.png")),
        "forget",
        f"{_FORGET_0}: sensitive_set_captions_metadata.json has no entry",
    ),
    (
        "identity entry",
        _json("identities_metadata.json", lambda content: content.pop("00000000")),
        "forget",
        f"{_FORGET_0}: identities_metadata.json has no entry for identity 00000000",
    ),
    (
        "data field",
        _json(
            "sensitive_set_captions_metadata.json",
            lambda content: content["00000000_name_0.png"].update(data_field="shoe_size"),
        ),
        "forget",
        f"{_FORGET_0}: unknown data_field 'shoe_size'",
    ),
    (
        "person's name",
        _json("identities_metadata.json", lambda content: content["00000000"].pop("name")),
        "forget",
        f"{_FORGET_0}: identities_metadata.json has no 'name' for identity 00000000",
    ),
    (
        "person's value",
        _json("identities_metadata.json", lambda content: content["00000000"].update(city=None)),
        "forget",
        r"split 'forget', row 2 \(00000000_city_0.png\): identities_metadata.json has no 'city' for identity 00000000",
    ),
    (
        "fragile id",
        _json("fragile_set_ids.json", lambda content: content.append("00000000_name_0.png")),
        "fragile_set",
        "fragile_set_ids.json names '00000000_name_0.png', which is not a row of split 'retain_disjoint'",
    ),
]


@pytest.mark.parametrize(("damage", "split", "words"), [item[1:] for item in _ERRORS], ids=[item[0] for item in _ERRORS])
def test_a_run_and_a_check_say_the_same(snapshot: Path, damage: Damage, split: str, words: str) -> None:
    damage(snapshot)
    with pytest.raises(BadData, match=words):
        Salmubench(Salmubench.Options(data_dir=snapshot)).load_split(split)
    errors = [finding for finding in SalmubenchLayout().check(snapshot, decode=False) if finding.severity == "error"]
    assert len([error for error in errors if _matches(words, error.message)]) == 1


def _matches(words: str, message: str) -> bool:
    return re.search(words, message) is not None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            _cut,
            r"split 'forget', row 7 \(00000001_name_1.png\) in .*forget-.*: the image cannot be decoded",
        ),
        (_no_bytes, r"split 'forget', row 7 \(.*\) in .*forget-.*parquet: there are no image bytes"),
    ],
    ids=["cut", "no bytes"],
)
def test_pictures_that_cannot_be_decoded_are_named(snapshot: Path, damage: Damage, words: str) -> None:
    salmu_metrics = pytest.importorskip("salmu_metrics")
    damage(snapshot)
    errors = [finding for finding in SalmubenchLayout().check(snapshot) if finding.severity == "error"]
    assert len(errors) == 1
    assert _matches(words, errors[0].message)
    benchmark = Salmubench(Salmubench.Options(data_dir=snapshot))
    [metric] = [cls() for cls in salmu_metrics.register_metrics() if cls.name == "AssocStr"]
    with pytest.raises(BadData, match=r"forget-00000-of-00001.parquet, row 7 \("):
        evaluate_model(benchmark.load_model("clean"), benchmark, [metric])


def _copy_row(source: str, row: int, target: str, *, caption: bool) -> Damage:
    """The picture (and caption) of one split's row in place of another's."""

    def damage(folder: Path) -> None:
        copied = pq.read_table(_shard(folder, source)).to_pydict()
        names = ("image", "text") if caption else ("image",)

        def change(columns: dict[str, list[Any]]) -> None:
            for name in names:
                columns[name][0] = copied[name][row]

        _rewrite(folder, target, change)

    return damage


@pytest.mark.parametrize(
    ("damage", "severity", "words"),
    [
        (
            _set("holdout_identity", "identity_id", 0, "00000001"),
            "error",
            r"split 'holdout_identity', row 0 \(.*identity 00000001 is in forget too",
        ),
        (
            _set("holdout_association", "identity_id", 0, "00000007"),
            "error",
            r"split 'holdout_association', row 0 \(.*identity 00000007 is not in forget",
        ),
        (
            _set("retain_synth", "identity_id", 0, "00000007"),
            "fact",  # as on the published table: such portraits are in no evaluation split, and nothing is wrong with them
            r"retain_synth: 1 rows show 1 people who are not in forget",
        ),
        (
            _copy_row("forget", 3, "retain_synth", caption=True),
            "error",
            r"split 'forget', row 3 \(.*\) and split 'retain_synth', row 0 \(.*\) hold the same picture and caption",
        ),
        (
            _copy_row("forget", 3, "retain_synth", caption=False),
            "warning",
            r"split 'forget', row 3 \(.*\) and split 'retain_synth', row 0 \(.*\) hold the same picture\.",
        ),
        (
            _copy_row("retain_synth", 5, "retain_synth", caption=True),
            "warning",
            r"split 'retain_synth', row 0 \(.*\) and split 'retain_synth', row 5 \(.*\) hold the same picture and caption",
        ),
        (
            _set("forget", "text", 2, "Person 0 lives somewhere"),
            "warning",
            r"split 'forget', row 2 \(.*the caption differs from the one in sensitive_set_captions_metadata.json",
        ),
        (
            _set("forget", "text", 2, "Person 0 lives somewhere"),
            "warning",
            r"split 'forget', row 2 \(.*the caption does not mention the city",
        ),
        (
            _set("forget", "text", 2, "Somebody lives in c000"),
            "warning",
            r"split 'forget', row 2 \(.*the caption does not mention the name",
        ),
        (
            _json("sensitive_set_generic_captions.json", lambda content: content.pop("00000000_name_0.png")),
            "warning",
            f"{_FORGET_0}: sensitive_set_generic_captions.json has no entry",
        ),
        (
            _json("fragile_set_ids.json", lambda content: content.append(content[0])),
            "warning",
            "fragile_set_ids.json names 'retain_0003.png' more than once",
        ),
        (
            _json("genknow_prompts.json", lambda content: content.__delitem__(slice(0, 2))),
            "error",
            r"split 'genknow', row 0 \(.*genknow_prompts.json has no caption for label 0",
        ),
        (
            lambda folder: (folder / "clean" / "open_clip_model.safetensors").write_bytes(b"no weights"),
            "error",
            "not a checkpoint that can be read safely",
        ),
    ],
)
def test_a_check_finds_what_a_run_would_not_notice(snapshot: Path, damage: Damage, severity: str, words: str) -> None:
    damage(snapshot)
    found = [finding for finding in SalmubenchLayout().check(snapshot) if _matches(words, finding.message)]
    assert [finding.severity for finding in found][:1] == [severity]


def test_a_whole_snapshot_gives_facts_only(exported: Path) -> None:
    steps = []
    findings = SalmubenchLayout().check(exported, steps.append)
    assert {finding.severity for finding in findings} == {"fact"}
    [forget] = [
        finding.message for finding in findings if finding.message.startswith("forget: ") and "rows" in finding.message
    ]
    assert forget.startswith("forget: 42 rows (published: 30,468), 7 identities (published: 580)")
    decoded = [step for step in steps if step.stage == "decode pictures"]
    assert decoded[-1].done == decoded[-1].total == 42 + 18 + 6 + 28 + 16


def test_everything_wrong_is_told_at_once_and_alike_things_are_counted(snapshot: Path) -> None:
    def nothing_known(columns: dict[str, list[Any]]) -> None:
        columns["identity_id"] = [None] * 41 + ["00000000"]

    _rewrite(snapshot, "forget", nothing_known)
    (snapshot / "fragile_set_ids.json").unlink()
    errors = [finding for finding in SalmubenchLayout().check(snapshot, decode=False) if finding.severity == "error"]
    null = [error for error in errors if "identity_id is null" in error.message]
    assert len(null) == SHOWN
    assert f"{41 - SHOWN} more like these: identities." in [error.message for error in errors]
    assert any("fragile_set_ids.json' is missing" in error.message for error in errors)


@pytest.mark.parametrize(
    "how", ["large strings", "other row groups", "bytes without struct", "numbers", "numbers with gaps"]
)
def test_tables_as_other_writers_leave_them_are_read(how: str, snapshot: Path, exported: Path) -> None:
    for split in ("forget", "holdout_association", "holdout_identity", "retain_synth"):
        shard = _shard(snapshot, split)
        table = pq.read_table(shard)
        columns = {name: table.column(name) for name in table.column_names}
        if how == "large strings":
            columns = {k: v.cast(pa.large_string()) if k != "image" else v for k, v in columns.items()}
        if how == "bytes without struct":
            columns["image"] = pa.array([item["bytes"] for item in columns["image"].to_pylist()], pa.large_binary())
        if how.startswith("numbers"):
            kind = pa.float64() if how.endswith("gaps") else pa.int64()
            columns["identity_id"] = columns["identity_id"].cast(pa.int64()).cast(kind)
        pq.write_table(pa.table(columns), shard, row_group_size=3, compression="zstd")
    if how.startswith("numbers"):  # whoever makes numbers of identities loses the zeros in the metadata as well
        path = snapshot / "identities_metadata.json"
        path.write_text(json.dumps({str(int(key)): value for key, value in json.loads(path.read_text()).items()}))
    wanted, found = (Salmubench(Salmubench.Options(data_dir=folder)) for folder in (exported, snapshot))
    for split in ("forget", "forget_identity", "holdout_association", "retain_joint", "retain_disjoint", "fragile_set"):
        one, two = wanted.split(split), found.split(split)
        assert one.columns == two.columns
        assert one.texts == two.texts
        assert one.image_keys == two.image_keys
    assert {finding.severity for finding in SalmubenchLayout().check(snapshot)} == {"fact"}
