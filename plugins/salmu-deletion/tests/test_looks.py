"""The check sees what the model sees: what comes out of the tokenizer and of the picture pipeline."""

import base64
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from own_data import HEADINGS, make_picture, make_rows, write_csv
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.data.pixels import decode_image
from salmu_core.errors import BadData
from salmu_core.models.processor import Processor
from salmu_deletion.own_data.check import check_pairs
from salmu_deletion.own_data.looks import read_captions
from salmu_deletion.own_data.tables import read_table

COLUMNS = dict(zip(("image", "caption", "identity"), HEADINGS, strict=True))
LONG = "a long and careful description of a person who stands in a garden with many flowers, and whose number is "


@pytest.fixture(scope="module")
def processor():
    return Processor(TOY_MODEL)


@pytest.fixture
def report(tmp_path, processor):
    def make(forget, retain=None):
        tables = [
            None if rows is None else read_table(write_csv(tmp_path / f"{name}.csv", rows), COLUMNS)
            for name, rows in (("f", forget), ("r", retain))
        ]
        return {finding.rule: finding for finding in check_pairs(*tables, processor)}

    return make


def _ramp(kind):
    return np.tile(np.arange(256, dtype=np.uint32)[None] * (1 if kind == "F" else 257), (64, 1))


@pytest.fixture
def row(tmp_path):
    def make(name, image, **how):
        (tmp_path / "photos").mkdir(exist_ok=True)
        image.save(tmp_path / "photos" / name, **how)
        return {"photo": f"photos/{name}", "text": f"the picture {name}", "person_id": name}

    return make


# ------------------------------------------------------------------ captions


def test_captions_that_the_model_never_reads_to_the_end_are_told(report, tmp_path):
    rows = make_rows(tmp_path)
    for number, other in enumerate(rows[:2]):
        other["text"] = LONG + str(number)
    found = report(rows)
    assert found["cut caption"].severity == "warning"
    assert "2 captions" in found["cut caption"].message
    assert "row 1 (" in found["captions alike to the model"].message
    assert "garden" not in found["cut caption"].message


@pytest.mark.parametrize("caption", ["&nbsp;", "\ufeff", "<end_of_text>"])
def test_captions_of_which_nothing_is_left_are_empty(report, tmp_path, caption):
    rows = make_rows(tmp_path)
    rows[3]["text"] = caption
    assert "row 4 (" in report(rows)["empty caption"].message


def test_what_stands_behind_an_end_of_text_is_not_read(processor):
    reading = read_captions(["Ann", "Ann <end_of_text> has a secret", "Ann has a secret"], processor)
    assert reading.cut == [1]
    assert reading.keys[0] == reading.keys[1] != reading.keys[2]


def test_a_caption_that_just_fits_is_not_cut(processor):
    words = ["word"] * (processor.context_length - 2)
    reading = read_captions([" ".join(words), " ".join([*words, "more"])], processor)
    assert reading.cut == [1]


def test_pairs_that_are_one_to_the_model_are_one_to_the_check(report, tmp_path):
    rows = make_rows(tmp_path)
    noted = PngImagePlugin.PngInfo()
    noted.add_text("Comment", "the same pixels in another file")
    with Image.open(tmp_path / rows[0]["photo"]) as image:
        image.save(tmp_path / "photos" / "copy.png", pnginfo=noted)
    copy = {**rows[0], "photo": "photos/copy.png"}
    assert "1 rows repeat" in report([*rows, copy])["duplicate"].message
    found = report(rows, [{**copy, "text": rows[0]["text"].upper() + " "}, {**copy, "text": "another caption"}])
    assert found["overlap"].severity == "error"
    assert "written differently" in found["overlap"].message
    assert "row 2 (photos/copy.png)" in found["shared picture"].message


def test_pictures_that_differ_only_where_they_are_cropped_are_one(report, tmp_path):
    rows = make_rows(tmp_path)
    wide = np.random.default_rng(5).integers(0, 256, (16, 64, 3), dtype=np.uint8)
    other = wide.copy()
    other[:, :8] = 0  # far from the middle
    for name, pixels in (("wide", wide), ("other", other)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    pair = {**rows[0], "photo": "photos/wide.png"}
    found = report([*rows, pair], [{**pair, "photo": "photos/other.png"}])
    assert "row 1 (photos/other.png)" in found["overlap"].message


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("i16.png", Image.fromarray((_ramp("I")).astype(np.uint16))),
        ("i32.tiff", Image.fromarray(_ramp("I").astype(np.int32))),
        ("f.tiff", Image.fromarray((_ramp("F") / 255).astype(np.float32))),
        ("negative.tiff", Image.fromarray(_ramp("F").astype(np.float32) - 128)),
        ("nan.tiff", Image.fromarray(np.where(_ramp("F") > 9, _ramp("F"), np.nan).astype(np.float32))),
    ],
)
def test_pictures_of_more_than_8_bits_are_refused_where_they_would_lose_what_they_show(report, row, tmp_path, name, image):
    given = row(name, image)
    assert report([given])["deep picture"].severity == "error"
    images = read_table(write_csv(tmp_path / "t.csv", [given]), COLUMNS).images
    with pytest.raises(BadData, match=r"would not be seen as it is: .*values from"):
        decode_image(images, 0, "forget")


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_deep_pictures_whose_values_fit_are_read(report, row, processor, tmp_path, kind):
    given = row("dark.tiff", Image.fromarray(_ramp("F").astype(kind)))
    assert "deep picture" not in report([given])
    images = read_table(write_csv(tmp_path / "t.csv", [given]), COLUMNS).images
    expected = processor.pixels(Image.fromarray(_ramp("F").astype(np.uint8)).convert("RGB"))
    assert np.array_equal(processor.pixels(decode_image(images, 0, "forget")), expected)


def colours_of_16_bits(values, kind):
    """A PNG whose colours (2: RGB, 6: with opacity) take 16 bits, which Pillow reads and does not write."""
    height, width, _ = values.shape
    opaque = np.full((height, width, 1), 65535)
    whole = np.concatenate([values, opaque], axis=2) if kind == 6 else values
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in whole)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body)) for tag, body in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("kind", [2, 6])
@pytest.mark.parametrize(("bits", "taken"), [(10, False), (12, False), (14, False), (16, True)])
def test_colours_of_a_camera_in_16_bits_are_not_taken_for_black(report, row, tmp_path, bits, taken, kind):
    given = row("camera.png", Image.new("RGB", (4, 4)))
    values = np.random.default_rng(0).integers(0, 2**bits, (8, 8, 3))
    (tmp_path / given["photo"]).write_bytes(colours_of_16_bits(values, kind))
    assert ("deep picture" in report([given])) != taken
    images = read_table(write_csv(tmp_path / "t.csv", [given]), COLUMNS).images
    if taken:
        assert np.abs(np.asarray(decode_image(images, 0, "forget")) - values / 257).max() <= 1
    else:
        with pytest.raises(BadData, match="16 bits whose largest value is below"):
            decode_image(images, 0, "forget")


def test_what_a_picture_holds_and_the_model_is_not_shown_is_told(report, row, tmp_path):
    noise = Image.open(make_picture(tmp_path / "noise.png", 3))
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    clear = noise.convert("RGBA")
    clear.putalpha(0)
    found = report(
        [
            row("grey.png", Image.new("RGB", (20, 20), (7, 8, 9))),
            row("turned.jpg", noise, exif=turned),
            row("upright.jpg", noise, exif=upright),
            row("film.gif", noise, save_all=True, append_images=[noise.rotate(90)]),
            row("pages.tiff", noise, save_all=True, append_images=[noise.rotate(90)]),
            row("clear.png", clear),
            row("palette.png", clear.quantize(8)),
            row("whole.png", noise.convert("RGBA")),
            row("lab.tiff", Image.merge("LAB", noise.convert("RGB").split())),
        ]
    )
    named = {rule: found[rule].message.partition(": ")[2] for rule in ("one colour", "turned", "frames", "transparent")}
    assert "row 1 (" in named["one colour"]
    assert "row 2 (" in named["turned"]
    assert "row 3" not in named["turned"]
    assert "row 4 (" in named["frames"]
    assert "row 5 (" in named["frames"]
    assert "2 pictures have transparent parts" in named["transparent"]


def test_pictures_that_cannot_be_used_are_told_by_their_cause(report, row, tmp_path):
    rows = make_rows(tmp_path)
    (tmp_path / rows[0]["photo"]).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    found = report([*rows, row("thread.png", Image.new("RGB", (1, 600))), row("banner.png", Image.new("RGB", (400, 1)))])
    assert "row 1 (" in found["pointer picture"].message
    assert found["long picture"].severity == "error"
    assert "thread.png" in found["long picture"].message
    assert "banner.png" not in found["long picture"].message


def test_a_picture_of_too_many_pixels_is_not_called_cut_short(report, tmp_path, monkeypatch):
    rows = make_rows(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # those of the rows have 320
    assert list(report(rows)["huge picture"].message.split())[:3] == ["forget:", "6", "pictures"]


# ------------------------------------------------------------------ people


@pytest.mark.parametrize(
    ("written", "rule", "severity"),
    [
        ("P00", "identities written in two ways", "warning"),
        ("p0", "identities written in two ways", "warning"),
        ("person-0", "nobody in both", "warning"),
        ("q17", "nobody in both", "fact"),
        ("p00", "both", "fact"),
    ],
)
def test_a_person_who_is_written_in_two_ways_is_told(report, tmp_path, written, rule, severity):
    rows = make_rows(tmp_path)
    other = {"photo": rows[0]["photo"], "text": "at home", "person_id": written}
    found = report(rows[:2], [other])
    assert found[rule].severity == severity


def test_a_person_who_is_written_in_two_ways_is_told_without_retain_too(report, tmp_path):
    rows = make_rows(tmp_path)
    found = report([rows[0], {**rows[1], "person_id": rows[0]["person_id"] + "\u200f"}])  # a mark nobody sees
    assert found["identities written in two ways"].severity == "warning"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("https://example.org/a.png", "fetch them first"),
        ("s3://bucket/a.png", "fetch them first"),
        ("file:///nowhere/a.png", "--images"),
        ("photos/9j/iVBORw0KGgo.png", "--images"),
        ("data:image/png;base64,iVBORw0KGgo=", "base64"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(900)).decode(), "base64"),
        (base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(900)).decode(), "base64"),
    ],
)
def test_what_stands_in_the_place_of_a_path_is_told_as_such(report, tmp_path, place, words):
    rows = make_rows(tmp_path)
    rows[0]["photo"] = place
    found = report(rows)["missing picture"]
    assert words in found.hint
    assert (place in found.message) is (len(place) <= 300)
    assert len(found.message) < 400
