"""Files as people really hand them in: read rightly, or refused in one sentence that names the cause."""

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from own_data import make_picture, make_rows, write_csv
from salmu_core.errors import BadData
from salmu_deletion.own_data.benchmark import OwnData
from salmu_deletion.own_data.check import check_pairs
from salmu_deletion.own_data.tables import align, read_table

COLUMNS = {"image": "photo", "caption": "text", "identity": "person_id"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture
def picture(tmp_path):
    return make_picture(tmp_path / "a.png", 1).read_bytes()


@pytest.fixture
def parquet(tmp_path, picture):
    def make(rows=2, name="t", **columns):
        columns = {"image": [picture] * rows, "caption": ["a cat", "a dog"][:rows], **columns}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        return tmp_path / f"{name}.parquet"

    return make


@pytest.fixture
def tar(tmp_path):
    def make(*members, name="t", cut=None):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as file:
            for member, data in members:
                info = tarfile.TarInfo(member)
                data = data if isinstance(data, bytes) else data.encode()
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        (tmp_path / f"{name}.tar").write_bytes(buffer.getvalue()[:cut])
        return tmp_path / f"{name}.tar"

    return make


def _rules(table):
    return {finding.rule: finding for finding in table.findings}


# ------------------------------------------------------------------ parquet


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.float32(), pa.string(), pa.decimal128(9, 0)])
def test_one_person_is_one_person_whatever_the_type_of_the_column(parquet, kind):
    people = pa.array(["1", None]).cast(kind) if kind != pa.string() else pa.array(["1", None])
    assert list(read_table(parquet(identity=people), {}).identities) == ["1", None]


def test_identities_of_two_tables_are_aligned_where_one_has_floating_point_numbers(parquet, tmp_path):
    rows = [{"image": "a.png", "caption": "x", "identity": who} for who in ("1.0", "2.0", "")]
    csv = write_csv(tmp_path / "r.csv", rows, ("image", "caption", "identity"))
    forget, retain = align([read_table(parquet(identity=[1, 3]), {}), read_table(csv, {})])
    assert list(forget.identities) == ["1", "3"]
    assert list(retain.identities) == ["1", "2", None]
    assert _rules(retain)["float identities"].severity == "warning"
    assert not forget.findings
    alone = align([read_table(csv, {})])[0]
    assert list(alone.identities) == ["1.0", "2.0", None]


def test_pairs_to_forget_are_read_and_known_again_where_those_to_keep_are_gone(parquet, tmp_path):
    retain = tmp_path / "retain.csv"
    write_csv(retain, [{"image": "a.png", "caption": "x", "identity": "7"}], ("image", "caption", "identity"))
    forget = write_csv(
        tmp_path / "forget.csv", [{"image": "a.png", "caption": "y", "identity": "7.0"}], ("image", "caption", "identity")
    )

    def made():
        return OwnData(OwnData.Options(forget=forget, retain=retain), tmp_path / "cache")

    make_picture(tmp_path / "a.png", 1)
    before = made()
    assert list(before.forget_table.identities) == ["7"]
    retain.unlink()
    assert made().forget_fingerprint() == before.forget_fingerprint()
    with pytest.raises(BadData, match=r"no table .*retain\.csv"):
        made().retain_table  # noqa: B018


@pytest.mark.parametrize(
    "captions", [[["a"], ["b"]], pa.array([b"a", b"b"], pa.binary()), [{"en": "a"}, {"en": "b"}], [1.0, 2.0]]
)
def test_captions_that_are_no_text_are_errors_and_never_run(parquet, captions):
    table = read_table(parquet(caption=captions), {})
    assert _rules(table)["caption is not text"].severity == "error"
    with pytest.raises(BadData, match="column 'caption'"):
        table.require_good()


def _paths(kind, folder):
    names = pa.array(["photos/0-0.png", "photos/0-1.png"])
    return {
        "text": names,
        "large text": names.cast(pa.large_string()),
        "categories": names.dictionary_encode(),
        "view": names.cast(pa.string_view()),
        "bytes": names.cast(pa.binary()),
        "file addresses": pa.array([f"file://{folder}/{name}" for name in names.to_pylist()]),
        "struct without bytes": pa.array([{"bytes": None, "path": name} for name in names.to_pylist()]),
        "struct of a path": pa.array([{"path": name} for name in names.to_pylist()]),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["text", "large text", "categories", "view", "bytes", "file addresses", "struct without bytes", "struct of a path"],
)
def test_paths_are_found_whatever_the_type_of_the_column(parquet, tmp_path, kind):
    rows = make_rows(tmp_path, 1)
    table = read_table(parquet(image=_paths(kind, tmp_path)), {})
    assert [table.images.read(row) for row in range(2)] == [(tmp_path / row["photo"]).read_bytes() for row in rows]
    assert all(name.endswith(row["photo"]) for name, row in zip(table.file_names, rows, strict=True))
    with pytest.raises(BadData, match="no folder of pictures"):
        read_table(tmp_path / "t.parquet", {}, tmp_path / "nowhere")


def test_structs_may_hold_some_pictures_and_name_others(parquet, tmp_path, picture):
    make_rows(tmp_path, 1)
    table = read_table(parquet(image=[{"bytes": None, "path": "photos/0-1.png"}, {"bytes": picture, "path": "x"}]), {})
    assert [table.images.read(row) for row in range(2)] == [(tmp_path / "photos/0-1.png").read_bytes(), picture]


def test_pictures_of_another_type_are_refused_by_it(parquet):
    with pytest.raises(BadData, match=r"pictures is of type list<element: uint8>|pictures is of type list<item: uint8>"):
        read_table(parquet(image=pa.array([[1, 2], [3]], pa.list_(pa.uint8()))), {})


def test_a_caption_column_that_differs_from_the_one_taken_is_told(parquet):
    table = read_table(parquet(text=["a cat", "A DOG"], note=["x", "y"]), {})
    assert list(table.captions) == ["a cat", "a dog"]
    assert "row 2" in _rules(table)["two columns for caption"].message
    assert list(table.unused) == ["text", "note"]
    assert not read_table(parquet(text=["a cat", "a dog"]), {}).findings
    assert not read_table(parquet(text=["a cat", "A DOG"]), {"caption": "caption"}).findings


# ------------------------------------------------------------------ CSV


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,caption,caption\na.png,x,y\n", "has the column 'caption' 2 times"),
        ("image;caption\na.png;x\n", "is separated by ';'"),
        ("image\tcaption\na.png\tx\n", "is separated by tabs"),
        (POINTER, "is a Git LFS pointer"),
        ("", "is an empty file"),
        ("<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        ("image;caption, if any;identity\na.png;x;p\n", "is separated by ';'"),
        ("sep=,\nimage,caption\na.png,x\n", "begins with a line for Excel"),
        ('image,caption\na.png,"x\nb.png,y\n', r"is not a readable CSV: .*\n.*end with one"),
        ('image,caption\na.png,"x"y\n', r"is not a readable CSV: .*line 2"),
        ("image,caption\na.png," + "x" * 140_000 + "\n", r"a cell of more than 131,072 characters.*\n.*give their paths"),
        ("image,caption\na.png,x\0y\n", "NUL characters, first in line 2"),
        ("PK\x03\x04", "is a zip archive"),
        ("PAR1", "is a parquet file"),
        ("image,caption\n", None),
    ],
)
def test_a_csv_that_is_not_what_it_seems_is_refused_by_its_cause(tmp_path, content, words):
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    if words is None:
        assert [finding.rule for finding in check_pairs(read_table(tmp_path / "t.csv", {}), None)][:1] == ["no rows"]
        return
    with pytest.raises(BadData, match=words):
        read_table(tmp_path / "t.csv", {})


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("utf-16", "it is UTF-16"), ("utf-16-le", "it is UTF-16"), ("utf-16-be", "it is UTF-16"), ("latin-1", "invalid")],
)
def test_a_csv_in_another_encoding_is_refused_by_its_name(tmp_path, encoding, words):
    (tmp_path / "t.csv").write_bytes("image,caption\na.png,caf\xe9\n".encode(encoding))
    with pytest.raises(BadData, match=words) as caught:
        read_table(tmp_path / "t.csv", {})
    assert "Save it as UTF-8" in caught.value.hint


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("begin", ["", "\ufeff", "EMPTY"])
def test_signs_of_other_scripts_and_any_line_end_are_read_as_they_stand(tmp_path, begin, end):
    captions = ["\U0001f469\u200d\U0001f467 a\u200fb", "\u202eabc\u202c", 'say "x"']
    lines = ["image, caption, identity", *(f'a.png," {text.replace(chr(34), chr(34) * 2)}",\U0001f600' for text in captions)]
    (tmp_path / "t.csv").write_bytes((begin.replace("EMPTY", end) + end.join(lines)).encode())
    table = read_table(tmp_path / "t.csv", {})
    assert list(table.captions) == captions
    assert set(table.identities) == {"\U0001f600"}


def test_headings_and_paths_of_other_programs_are_read(tmp_path):
    make_picture(tmp_path / "photos" / "a.png", 1)
    (tmp_path / "t.csv").write_text(
        "\ufeffimage , caption,note,note\r\nphotos\\a.png,x,1,2\r\n\r\n" + "y" * 300 + ",z,1,2\r\n", encoding="utf-8"
    )
    table = read_table(tmp_path / "t.csv", {})
    assert table.images.read(0) == (tmp_path / "photos" / "a.png").read_bytes()
    assert list(table.captions) == ["x", "z"]
    with pytest.raises(BadData, match="There is no image"):  # a name that is too long is not a name
        table.images.read(1)


# ------------------------------------------------------------------ tar


def test_a_member_that_comes_twice_is_refused(tar, picture):
    for second in ("a.png", "a.PNG"):
        with pytest.raises(BadData, match=r"holds a\.png twice"):
            read_table(tar(("a.png", picture), ("a.txt", "x"), (second, picture)), {})
    with pytest.raises(BadData, match=r"several pictures \(png, jpg\)"):
        read_table(tar(("a.png", picture), ("a.txt", "x"), ("a.jpg", picture)), {})
    chosen = read_table(tar(("a.png", b"1"), ("a.txt", "x"), ("a.jpg", b"2")), {"image": "jpg"})
    assert chosen.images.read(0) == b"2"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("ending", ["png", "txt"])
def test_links_and_devices_are_refused_by_name(tmp_path, picture, kind, ending):
    with tarfile.open(tmp_path / "t.tar", "w") as file:
        for name, data in (("a.png", picture), ("a.txt", b"x"), ("b.png", picture), ("b.txt", b"y")):
            info = tarfile.TarInfo(name)
            if name == f"b.{ending}":
                info.type, info.linkname, data = kind, f"a.{ending}", b""
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    with pytest.raises(BadData, match=rf"b\.{ending} is a (link|device) and not a file"):
        read_table(tmp_path / "t.tar", {})


def test_places_in_a_tar_are_names_and_nothing_is_unpacked(tar, picture, tmp_path):
    table = read_table(tar(("/etc/a.png", picture), ("/etc/a.txt", "x"), ("../../b.png", picture), ("../../b.txt", "y")), {})
    assert list(table.captions) == ["x", "y"]
    assert table.images.read(1) == picture
    with pytest.raises(BadData, match=r"holds \./a\.png twice, the second time as a\.png"):
        read_table(tar(("./a.png", picture), ("./a.txt", "x"), ("a.png", picture), ("a.txt", "y")), {})


def test_pictures_that_make_no_row_are_told(tar, picture):
    table = read_table(tar(("a.png", picture), ("a.txt", "x"), ("a.mask.png", picture)), {})
    assert "a.mask.png" in _rules(table)["pictures without a row"].message
    with pytest.raises(BadData, match=r"'img' has no picture\.\n.*image=v1\.png"):
        read_table(tar(("img.v1.png", picture), ("img.v2.png", picture), ("img.txt", "x")), {})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '["x"]', "holds no object"),
        ("a.json", '{"caption": "x", "caption": "y"}', "the key 'caption' more than once"),
        ("a.json", "{", "cannot be read"),
        ("a.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_texts_of_a_sample_that_cannot_be_read_are_refused(tar, picture, name, content, words):
    with pytest.raises(BadData, match=words):
        read_table(tar(("a.png", picture), (name, content)), {})


def test_cells_of_a_tar_are_read_as_those_of_a_parquet_file(tar, picture):
    content = json.dumps({"caption": ["one", "two"], "identity": 1.0, "name": float("nan")})
    table = read_table(tar(("a.png", picture), ("a.json", content)), {})
    assert "hold lists" in _rules(table)["caption is not text"].message
    assert list(table.identities) == ["1"]
    assert list(table.names) == [None]


def test_hidden_members_are_left_out_and_names_may_be_any_bytes(tar, picture):
    table = read_table(tar(("._a.png", b"macOS"), ("b\udce9/a.png", picture), ("b\udce9/a.txt", "\ufeffx\n")), {})
    assert list(table.captions) == ["x"]
    assert list(table.file_names) == [r"b\xe9/a.png"]


def test_a_tar_that_was_cut_between_members_is_told(tar, picture):
    whole = tar(("a.png", picture), ("a.txt", "x"))
    assert not read_table(whole, {}).findings
    with tarfile.open(whole) as file:
        end = file.getmembers()[-1].offset_data + 512
    cut = tar(("a.png", picture), ("a.txt", "x"), cut=end)
    assert _rules(read_table(cut, {}))["tar without end"].severity == "warning"


# ------------------------------------------------------------------ folders


def test_tables_of_img2dataset_beside_tars_are_not_taken_for_data(parquet, tar, picture, tmp_path):
    tar(("0.jpg", picture), ("0.txt", "x"), name="00000")
    pq.write_table(pa.table({"url": ["http://a"], "caption": ["x"], "key": ["0"]}), tmp_path / "00000.parquet")
    (tmp_path / "._00000.tar").write_bytes(b"macOS")
    (tmp_path / ".00001.parquet.part").write_bytes(b"half")
    table = read_table(tmp_path, {})
    assert len(table) == 1
    assert _rules(table)["tables beside tars"].severity == "fact"
    parquet(name="other")
    with pytest.raises(BadData, match=r"\.parquet files \(as other\.parquet\) and \.tar files"):
        read_table(tmp_path, {})


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "test-00000-of-00001"),
        ("laion_train_0001", "laion_val_0001"),
        ("validation", "part-0"),
    ],
)
def test_shards_of_several_sets_are_not_merged(parquet, tmp_path, names):
    (tmp_path / "data").mkdir()
    for name in names:
        parquet(name=f"data/{name}")
    with pytest.raises(BadData, match="shards of several sets"):
        read_table(tmp_path / "data", {})
    with pytest.raises(BadData, match="Its folder 'data' does"):
        read_table(tmp_path, {})


def test_shards_that_are_missing_by_their_names_are_told(parquet, tmp_path):
    (tmp_path / "data").mkdir()
    for number in (0, 2):
        parquet(name=f"data/train-{number:05d}-of-00003-ab12")
    table = read_table(tmp_path / "data", {})
    assert len(table) == 4
    assert "00001 of 00003" in _rules(table)["missing shards"].message
    parquet(name="data/train-00001-of-00003-ab12", text=["b", "c"], caption=[None, None])
    assert "missing shards" not in _rules(read_table(tmp_path / "data", {}))


@pytest.mark.parametrize("name", ["t.parquet", "t.tar", "t.tsv"])
def test_git_lfs_pointers_are_told_from_their_first_bytes(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(BadData, match=r"is a Git LFS pointer.*\n.*git lfs pull"):
        read_table(tmp_path / name, {})
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(BadData, match="is compressed with gzip"):
        read_table(tmp_path / name, {})


def test_a_partitioned_table_is_refused_and_a_part_of_it_told(parquet, tmp_path):
    part = parquet().rename(
        (tmp_path / "whole" / "identity=ann").mkdir(parents=True) or tmp_path / "whole/identity=ann/0.parquet"
    )
    with pytest.raises(BadData, match="'identity=ann' is a column by its name"):
        read_table(tmp_path / "whole", {})
    assert "partitioned table" in _rules(read_table(part, {}))
    assert "partitioned table" in _rules(read_table(part.parent, {}))
