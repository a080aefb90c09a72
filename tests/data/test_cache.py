"""Pixels, tokens, keys and digests that are kept: nothing is read twice, and nothing old is ever taken for something new."""

import gc
import io
import os
import threading
import time
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from salmu_core import EncodedImages, Split
from salmu_core.builtin.toy import TOY_MODEL, Toy
from salmu_core.data.cache import DataCache
from salmu_core.data.images import ImagePlaces
from salmu_core.data.pixel_file import PixelFile, stride_bytes
from salmu_core.data.pixels import PairStore, PixelTable, decode_image, read_ahead
from salmu_core.data.splits import join_splits
from salmu_core.errors import BadData, OutputError
from salmu_core.files.digests import FileDigests, file_stamp
from salmu_core.files.writing import folder_bytes
from salmu_core.models.processor import Processor

SHAPE = (3, 16, 16)


def _png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _expected(*numbers: int) -> torch.Tensor:
    rows = [np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8).transpose(2, 0, 1) for n in numbers]
    return torch.from_numpy(np.stack(rows))


@dataclass(eq=False)
class Folder:
    """Images that lie in files of a folder, one each; counts what is read."""

    folder: Path
    reads: int = 0

    def __post_init__(self):
        self._paths = sorted(self.folder.glob("*.png"))
        self._stamps = [file_stamp(path) for path in self._paths]

    def __len__(self):
        return len(self._paths)

    def files(self):
        return self._paths

    def read(self, row):
        self.reads += 1
        if file_stamp(self._paths[row]) != self._stamps[row]:
            raise BadData(f"{self._paths[row]} has changed.")
        return self._paths[row].read_bytes()

    def where(self, row):
        return str(self._paths[row])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six pictures that are old enough to be trusted."""
    monkeypatch.setattr("salmu_core.files.digests.SETTLED_NS", -(10**12))
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(6):
        (place / f"{number}.png").write_bytes(_png(number))
    return place


@pytest.fixture
def processor():
    return Processor(TOY_MODEL)


def _read(images, rows, processor, data, **more):
    return PixelTable([(Split("forget", images), range(len(images)))], processor, data, **more).read(np.array(rows))


def test_only_rows_that_were_asked_for_are_decoded_and_each_only_once(folder, processor, tmp_path):
    images = Folder(folder)
    assert torch.equal(_read(images, [4, 1, 4], processor, DataCache(tmp_path / "cache")), _expected(4, 1, 4))
    again = Folder(folder)
    assert torch.equal(_read(again, [1, 4], processor, DataCache(tmp_path / "cache")), _expected(1, 4))
    assert again.reads == 0
    assert torch.equal(_read(again, [0, 1, 5], processor, DataCache(tmp_path / "cache")), _expected(0, 1, 5))
    assert again.reads == 2


def test_rows_of_several_sources_come_in_the_order_asked_for(folder, processor, tmp_path):
    memory = EncodedImages([_png(10), _png(11)], ["a", "b"])
    whole = join_splits("all", [Split("x", Folder(folder)), Split("y", memory)]).take([7, 0, 6, 3])
    for _ in range(2):  # decoded, then kept
        table = PixelTable([(whole, [0, 1, 2, 3]), (Split("y", memory), [0])], processor, DataCache(tmp_path / "cache"))
        assert torch.equal(table.read(np.array([4, 1, 0, 3, 2])), _expected(10, 0, 11, 3, 10))


@pytest.mark.parametrize("keep", [True, False])
def test_a_warm_start_reads_no_image_for_keys_and_a_changed_file_is_noticed(folder, processor, tmp_path, keep):
    first = Folder(folder)
    [keys] = DataCache(tmp_path / "cache", keep).image_keys([Split("forget", first)])
    assert keys == Split("forget", first).image_keys
    again = Folder(folder)
    assert DataCache(tmp_path / "cache", keep).image_keys([Split("forget", again)]) == [keys]
    assert again.reads == 0
    (folder / "3.png").write_bytes(_png(99))
    changed = Folder(folder)
    data = DataCache(tmp_path / "cache", keep)
    [other] = data.image_keys([Split("forget", changed)])
    assert [row for row in range(6) if keys[row] != other[row]] == [3]
    assert torch.equal(_read(changed, range(6), processor, data), _expected(0, 1, 2, 99, 4, 5))


def test_a_file_that_changes_while_it_is_in_use_is_never_kept_under_another_files_digest(folder, processor, tmp_path):
    images = Folder(folder)
    data = DataCache(tmp_path / "cache")
    _read(images, [0], processor, data)
    (folder / "3.png").write_bytes(_png(99))
    with pytest.raises(BadData, match="changed"):
        _read(images, [3], processor, data)


def test_a_change_of_equal_length_and_time_is_noticed(folder):
    path = folder / "0.png"
    digests = FileDigests(folder.parent / "digests")
    [before] = digests.of([path])
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert FileDigests(folder.parent / "digests").of([path]) != [before]
    assert digests.of([path]) != [before]


def test_a_file_written_a_moment_ago_is_not_trusted_yet(folder, monkeypatch):
    monkeypatch.setattr("salmu_core.files.digests.SETTLED_NS", 10**12)
    FileDigests(folder.parent / "digests").of([folder / "0.png"])
    assert not (folder.parent / "digests").exists()


def test_damaged_files_of_the_cache_count_as_missing(folder, processor, tmp_path):
    place = tmp_path / "cache"
    texts = ["a cat", "a dog"]
    tokens = DataCache(place).tokens(texts, processor)
    _read(Folder(folder), range(6), processor, DataCache(place))
    DataCache(place).image_keys([Split("forget", Folder(folder))])
    kept = [path for path in place.rglob("*") if path.is_file()]
    assert {path.relative_to(place).parts[0] for path in kept} == {"digests", "keys", "tokens", "pixels"}
    for path in kept:
        path.write_bytes(path.read_bytes()[:30])
    data = DataCache(place)
    assert torch.equal(data.tokens(texts, processor), tokens)
    assert data.image_keys([Split("forget", Folder(folder))]) == [Split("forget", Folder(folder)).image_keys]
    assert torch.equal(_read(Folder(folder), range(6), processor, data), _expected(*range(6)))


def test_another_preprocessing_has_its_own_pixels(folder, tmp_path):
    config = TOY_MODEL.as_json()
    config["model_cfg"]["vision_cfg"] = {**config["model_cfg"]["vision_cfg"], "image_size": 8}
    small = Processor(type(TOY_MODEL)(**config))
    data = DataCache(tmp_path / "cache")
    for processor, side in ((Processor(TOY_MODEL), 16), (small, 8)):
        assert _read(Folder(folder), range(6), processor, data).shape == (6, 3, side, side)
    assert len(list((tmp_path / "cache" / "pixels").iterdir())) == 2


def test_a_row_is_marked_only_after_its_pixels_are_written(tmp_path, monkeypatch):
    file = PixelFile(tmp_path / "x.pixels", 3, SHAPE)

    def killed(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fdatasync", killed)
    with pytest.raises(KeyboardInterrupt):
        file.write(np.array([1]), np.full((1, *SHAPE), 7, dtype=np.uint8))
    assert not PixelFile(tmp_path / "x.pixels", 3, SHAPE).has(np.arange(3)).any()


def test_two_holders_of_a_file_see_each_others_rows(tmp_path):
    one, two = (PixelFile(tmp_path / "x.pixels", 5, SHAPE) for _ in range(2))
    one.write(np.array([4, 0]), np.stack([np.full(SHAPE, 4), np.full(SHAPE, 9)]).astype(np.uint8))
    assert two.has(np.arange(5)).tolist() == [True, False, False, False, True]
    out = np.empty((2, *SHAPE), dtype=np.uint8)
    two.read(np.array([0, 4]), out)
    assert (out[0] == 9).all()
    assert (out[1] == 4).all()


def test_a_file_is_closed_with_its_last_holder(tmp_path, recwarn):
    warnings.simplefilter("always")
    PixelFile(tmp_path / "x.pixels", 5, SHAPE)
    gc.collect()
    assert not [str(told.message) for told in recwarn if "unclosed" in str(told.message)]


def test_the_size_is_announced_before_and_only_rows_that_are_there_take_space(folder, processor, tmp_path):
    said = []
    data = DataCache(tmp_path / "cache", announce=said.append)
    table = PixelTable([(Split("forget", Folder(folder)), [0, 1, 2])], processor, data)
    assert table.prepare() == 3
    assert said == [f"3 decoded images are going to be kept: 0.00 GB in {tmp_path / 'cache' / 'pixels'}"]
    table.read(np.array([0, 1, 2]))
    assert folder_bytes(tmp_path / "cache" / "pixels") == 3 * stride_bytes(SHAPE) + 4096  # three rows and the marks
    PixelTable([(Split("forget", Folder(folder)), [0, 1, 2])], processor, data).read(np.array([0]))
    assert len(said) == 1


def test_a_disk_without_room_is_one_clear_error_before_anything_is_decoded(folder, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    images = Folder(folder)
    with pytest.raises(OutputError, match=r"(?s)6 decoded images take 0\.0 MB.*has 0\.0 MB free.*--no-cache"):
        _read(images, [0], processor, DataCache(tmp_path / "cache"))
    assert torch.equal(_read(Folder(folder), [0], processor, DataCache(tmp_path / "cache", keep_pixels=False)), _expected(0))


def test_a_disk_that_fills_up_meanwhile_is_an_error_too(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    file = PixelFile(tmp_path / "x.pixels", 3, SHAPE)
    monkeypatch.setattr("os.fdatasync", full)
    with pytest.raises(OutputError, match=r"(?s)No space left.*--no-cache"):
        file.write(np.array([1]), np.zeros((1, *SHAPE), dtype=np.uint8))


def test_without_the_cache_nothing_is_written(folder, processor, tmp_path):
    data = DataCache(tmp_path / "cache", keep_pixels=False)
    images = Folder(folder)
    table = PixelTable([(Split("forget", images), range(6))], processor, data)
    for _ in range(2):
        assert torch.equal(table.read(np.array([2, 5])), _expected(2, 5))
    assert images.reads == 4  # on the fly, each time
    assert not (tmp_path / "cache" / "pixels").exists()


def test_tokens_are_those_of_the_tokenizer_and_read_back(processor, tmp_path, monkeypatch):
    texts = ["a cat", "a dog called Rex", "a cat"]
    expected = processor.tokenize(texts)
    assert torch.equal(DataCache(tmp_path).tokens(texts, processor).long(), expected)
    monkeypatch.setattr(Processor, "tokenize", lambda self, texts: pytest.fail("tokenized again"))
    assert torch.equal(DataCache(tmp_path).tokens(texts, processor).long(), expected)


@pytest.fixture
def store(tmp_path):
    benchmark = Toy()
    model = benchmark.load_model("compromised")
    return PairStore(benchmark.split("forget"), model.processor, data=DataCache(tmp_path / "cache"))


def test_prefetched_rows_are_the_rows_and_are_read_once(store, monkeypatch):
    plain = store.pixels(torch.arange(36))
    reads = []
    read = PixelTable.read
    monkeypatch.setattr(
        PixelTable, "read", lambda self, rows, pinned=False: (reads.append(len(rows)), read(self, rows, pinned))[1]
    )
    index = torch.tensor([9, 3, 30, 7])
    store.prefetch(index)
    assert torch.equal(store.pixels(index), plain[index])
    assert torch.equal(store.pixels(index[1:3]), plain[index[1:3]])  # a micro-batch of it
    store.prefetch(torch.tensor([1, 2]))
    assert torch.equal(store.pixels(torch.tensor([2])), plain[[2]])
    assert torch.equal(store.pixels(torch.tensor([5, 9])), plain[[5, 9]])  # not announced: read now
    assert reads == [4, 2, 2]


def test_a_prefetched_image_that_cannot_be_decoded_is_named_when_it_is_asked_for(processor):
    images = EncodedImages([_png(0), _png(1)[:-30]], ["a.png", "b.png"], "data/x.parquet")
    store = PairStore(Split("forget", images, ["a", "b"]), processor)
    store.prefetch(torch.tensor([0, 1]))
    with pytest.raises(BadData, match=r"split 'forget'.*data/x\.parquet, row 1 \(b\.png\)"):
        store.pixels(torch.tensor([0, 1]))


def test_several_threads_may_read_one_table(folder, processor, tmp_path):
    table = PixelTable([(Split("forget", Folder(folder)), range(6))], processor, DataCache(tmp_path / "cache"))
    wrong = []

    def work(seed):
        for _ in range(5):
            rows = np.random.default_rng(seed).integers(0, 6, 4)
            if not torch.equal(table.read(rows), _expected(*rows.tolist())):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reading_ahead_keeps_the_order_and_hands_on_errors():
    def read(number):
        time.sleep(0.002 * (3 - number % 4))
        if number == 6:
            raise ValueError("six")
        return number

    assert list(read_ahead(read, 5)) == [0, 1, 2, 3, 4]
    seen = []
    with pytest.raises(ValueError, match="six"):
        seen.extend(read_ahead(read, 9))
    assert list(read_ahead(read, 0)) == []


def test_places_see_through_taken_and_joined_rows():
    one, two = EncodedImages([b"a", b"b", b"c"], list("abc")), EncodedImages([b"d", b"e"], list("de"))
    split = join_splits("j", [Split("x", one).take([2, 0]), Split("y", two), Split("z", one)]).take([4, 1, 2, 0])
    places = ImagePlaces.of(split.images)
    assert [places.sources[s].read(r) for s, r in zip(places.source, places.row, strict=True)] == [b"a", b"a", b"d", b"c"]
    assert len(places.sources) == 2


class Lying:
    """Says that it has more rows than it has, or gives what is no image."""

    def __init__(self, rows: list[object], said: int) -> None:
        self._rows, self._said = rows, said

    def __len__(self) -> int:
        return self._said

    def read(self, row: int) -> bytes:
        return self._rows[row]

    def where(self, row: int) -> str:
        return f"row {row}"


@pytest.mark.parametrize(
    ("rows", "words"),
    [([_png(0)], "Row 1 of .*there are said to be 2: IndexError"), ([_png(0), "text"], "Row 1 of .* but a str")],
)
def test_a_split_that_lies_about_its_images_is_one_error(rows, words, processor, tmp_path):
    split = Split("forget", Lying(rows, 2))
    with pytest.raises(BadData, match=words):
        DataCache(tmp_path).image_keys([split])
    with pytest.raises(BadData, match=words):
        PixelTable([(split, range(2))], processor, DataCache()).read(np.arange(2))


def test_a_split_that_lies_about_its_captions_is_one_error():
    class Short(list):
        def __len__(self):
            return 3

    with pytest.raises(BadData, match="says that it has 3 captions and gives 1"):
        Split("forget", texts=Short(["a"])).render(None)


def test_a_picture_that_would_fill_the_memory_is_one_error_and_reads_no_pixel(processor):
    header = bytearray(_png(0))
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, as IHDR states them
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    with pytest.raises(BadData, match="exceeds limit"):
        decode_image(EncodedImages([bytes(header)], ["bomb.png"]), 0, "forget")


def test_a_clock_that_was_moved_costs_reading_again_and_trusts_nothing(folder, tmp_path, monkeypatch):
    files = sorted(folder.iterdir())
    sound = FileDigests(tmp_path / "digests").of(files)
    os.utime(files[0], ns=(time.time_ns() + 10**15,) * 2)  # written in the future
    assert FileDigests(tmp_path / "digests").of(files) == sound
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # 1970: everything lies in the future
    changed = files[1].read_bytes()
    files[1].write_bytes(changed[:-1] + b"x")
    found = FileDigests(tmp_path / "digests").of(files)
    assert [a == b for a, b in zip(found, sound, strict=True)] == [True, False, *[True] * (len(files) - 2)]
