"""Tables of pairs as people have them: one shape from CSV, parquet and tar, and clear refusals."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from own_data import make_picture, make_rows, write_csv
from salmu_core.errors import BadData, BadOptions
from salmu_deletion.own_data.columns import parse_columns
from salmu_deletion.own_data.tables import read_table

COLUMNS = {"image": "photo", "caption": "text", "identity": "person_id"}


def _contents(table):
    return [table.images.read(row) for row in range(len(table))], list(table.captions), list(table.identities)


@pytest.fixture
def rows(tmp_path):
    return make_rows(tmp_path)


@pytest.fixture
def expected(tmp_path, rows):
    return [(tmp_path / r["photo"]).read_bytes() for r in rows], [r["text"] for r in rows], [r["person_id"] for r in rows]


def test_csv_paths_begin_in_its_own_folder_or_in_the_one_that_is_given(tmp_path, rows, expected):
    assert _contents(read_table(write_csv(tmp_path / "t.csv", rows), COLUMNS)) == expected
    (tmp_path / "elsewhere").mkdir()
    moved = write_csv(tmp_path / "elsewhere" / "t.csv", rows)
    assert _contents(read_table(moved, COLUMNS, tmp_path)) == expected


def test_parquet_with_bytes_structs_or_paths(tmp_path, rows, expected):
    pictures, captions, people = expected
    for name, images in (
        ("bytes", pictures),
        ("struct", [{"bytes": picture, "path": None} for picture in pictures]),
        ("path", [row["photo"] for row in rows]),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"photo": images, "text": captions, "person_id": people}), path, row_group_size=2)
        assert _contents(read_table(path, COLUMNS)) == expected, name


def test_a_folder_of_webdataset_shards(tmp_path, rows, expected):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, part in enumerate((rows[:4], rows[4:])):
        with tarfile.open(shards / f"{number:05d}.tar", "w") as tar:
            for key, row in enumerate(part):
                for ending, data in (
                    ("png", (tmp_path / row["photo"]).read_bytes()),
                    ("txt", row["text"].encode()),
                    ("json", json.dumps({"person_id": row["person_id"]}).encode()),
                ):
                    member = tarfile.TarInfo(f"s/{key:06d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    assert _contents(read_table(shards, {"identity": "person_id"})) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image", "PART=COLUMN"),
        ("picture=a", "no part that a column can play"),
        ("image=a,image=b", "names 'image' twice"),
    ],
)
def test_a_wrong_mapping_is_refused(text, words):
    with pytest.raises(BadOptions, match=words):
        parse_columns(text)


def test_a_column_that_plays_another_part_is_named_where_it_is_missed(tmp_path):
    path = write_csv(tmp_path / "t.csv", [{"image": "a.png", "caption": "x"}], ("image", "caption"))
    with pytest.raises(BadData, match=r"no column for caption.\n.*'caption' is taken as identity"):
        read_table(path, {"identity": "caption"})


def test_missing_columns_are_named_with_those_that_are_there(tmp_path, rows):
    path = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(BadData, match=r"no column for image") as caught:
        read_table(path, {})
    assert "photo, text, person_id" in str(caught.value)
    with pytest.raises(BadData, match="no column 'who' for identity"):
        read_table(path, {**COLUMNS, "identity": "who"})


def test_a_caption_with_a_bare_comma_is_found(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,caption\na.png,one, two\n", encoding="utf-8")
    with pytest.raises(BadData, match="near line 2"):
        read_table(path, {})


def test_other_kinds_of_files_say_what_is_read(tmp_path):
    with pytest.raises(BadData, match="There is no table"):
        read_table(tmp_path / "none.csv", {})
    (tmp_path / "t.xlsx").write_bytes(b"x")
    with pytest.raises(BadData, match="kind that is not read"):
        read_table(tmp_path / "t.xlsx", {})


def test_a_picture_that_changes_while_a_run_goes_on_is_refused(tmp_path, rows):
    table = read_table(write_csv(tmp_path / "t.csv", rows), COLUMNS)
    make_picture(tmp_path / rows[0]["photo"], seed=999)
    with pytest.raises(BadData, match="has changed since"):
        table.images.read(0)
