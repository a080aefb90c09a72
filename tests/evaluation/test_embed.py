"""The one embedding pass: everything is encoded exactly once, and caches answer for equal content only."""

import io

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import embed_toy
import forked
from salmu_core import EncodedImages, Split, View
from salmu_core.builtin.toy import Toy
from salmu_core.data.cache import DataCache
from salmu_core.errors import BadData, Diverged
from salmu_core.evaluation.embed import EmbeddingCache, embed_views
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.processor import Processor
from toy_methods import MeanCosine

VIEWS = [
    View("forget", "image"),
    View("forget_identity", "image"),  # part of forget
    View("forget", "text"),
    View("forget", "text", "{name} {value}"),
    View("forget_identity", "text", "{name}"),
    View("retain_disjoint", "text"),
]


@pytest.fixture
def counted(monkeypatch):
    """Rows that each encoder was given."""
    seen = {"image": 0, "text": 0}
    image, text = DualEncoder.encode_image, DualEncoder.encode_text

    def encode_image(self, pixels):
        seen["image"] += len(pixels)
        return image(self, pixels)

    def encode_text(self, tokens):
        seen["text"] += len(tokens)
        return text(self, tokens)

    monkeypatch.setattr(DualEncoder, "encode_image", encode_image)
    monkeypatch.setattr(DualEncoder, "encode_text", encode_text)
    return seen


def _distinct(benchmark):
    images = {key for view in VIEWS if view.side == "image" for key in benchmark.split(view.split).image_keys}
    texts = {text for view in VIEWS if view.side == "text" for text in benchmark.split(view.split).render(view.template)}
    return len(images), len(texts)


def test_every_image_and_caption_is_encoded_exactly_once(counted):
    benchmark = Toy()
    embed_views(benchmark.load_model("compromised"), benchmark, VIEWS)
    assert (counted["image"], counted["text"]) == _distinct(benchmark)


def test_more_metrics_encode_nothing_more(counted):
    class Again(MeanCosine):
        name = "Again"

    benchmark = Toy()
    evaluate_model(benchmark.load_model("compromised"), benchmark, [MeanCosine()])
    once = dict(counted)
    evaluate_model(benchmark.load_model("compromised"), benchmark, [MeanCosine(), Again()])
    assert counted == {side: 2 * count for side, count in once.items()}


def test_rows_come_back_in_the_splits_order():
    benchmark = Toy()
    model = benchmark.load_model("compromised")
    result = embed_views(model, benchmark, VIEWS)
    split = benchmark.split("forget")
    expected = model.encode_text(model.processor.tokenize(split.render("{name} {value}")))
    torch.testing.assert_close(result[VIEWS[3]].vectors, expected.detach(), atol=2e-6, rtol=0)
    assert result[VIEWS[3]].texts == split.render("{name} {value}")
    inside = [i for i, identity in enumerate(split.columns["identity_id"]) if int(identity) < 3]
    assert torch.equal(result[VIEWS[1]].vectors, result[VIEWS[0]].vectors[inside])


def test_an_unchanged_model_is_read_from_the_cache(counted, tmp_path):
    benchmark = Toy()
    cache = EmbeddingCache(tmp_path)
    first = embed_views(benchmark.load_model("compromised"), benchmark, VIEWS, cache)
    before = dict(counted)
    second = embed_views(benchmark.load_model("compromised"), benchmark, VIEWS, cache)
    assert counted == before
    assert all(torch.equal(first[view].vectors, second[view].vectors) for view in VIEWS)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_changed_weight_misses_in_its_own_tower_only(counted, tmp_path, tower):
    benchmark = Toy()
    cache = EmbeddingCache(tmp_path)
    model = benchmark.load_model("compromised")
    embed_views(model, benchmark, VIEWS, cache)
    before = dict(counted)
    with torch.no_grad():
        model.tower_parameters(tower)[0].view(-1)[0] += 1e-7
    embed_views(model, benchmark, VIEWS, cache)
    other = "text" if tower == "image" else "image"
    assert counted[tower] == 2 * before[tower]
    assert counted[other] == before[other]


def test_another_number_type_or_other_rows_miss(counted, tmp_path):
    cache = EmbeddingCache(tmp_path)
    model = Toy().load_model("compromised")
    embed_views(model, Toy(), VIEWS, cache)
    before = dict(counted)
    model.autocast = torch.bfloat16
    embed_views(model, Toy(), VIEWS, cache)
    assert counted == {side: 2 * count for side, count in before.items()}
    model.autocast = None
    embed_views(model, Toy(Toy.Options(identities=7)), VIEWS, cache)
    assert counted["image"] > 2 * before["image"]


def test_a_damaged_cache_file_counts_as_missing(tmp_path):
    benchmark = Toy()
    cache = EmbeddingCache(tmp_path)
    first = embed_views(benchmark.load_model("compromised"), benchmark, VIEWS, cache)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    second = embed_views(benchmark.load_model("compromised"), benchmark, VIEWS, cache)
    assert torch.equal(first[VIEWS[0]].vectors, second[VIEWS[0]].vectors)


def test_a_truncated_image_names_split_file_and_row():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(buffer, format="PNG")
    good = buffer.getvalue()

    class Damaged(Toy):
        def load_split(self, name):
            return Split(name, EncodedImages([good, good[:-30]], ["a.png", "b.png"], "data/x.parquet"), ["a", "b"])

    benchmark = Damaged()
    with pytest.raises(BadData, match=r"split 'forget'.*data/x\.parquet, row 1 \(b\.png\)"):
        embed_views(benchmark.load_model("clean"), benchmark, [View("forget", "image")])


def test_embeddings_that_are_not_finite_are_a_divergence():
    benchmark = Toy()
    model = benchmark.load_model("clean")
    with torch.no_grad():
        model.clip.visual.proj[0, 0] = float("nan")
    with pytest.raises(Diverged, match="image encoder"):
        embed_views(model, benchmark, [View("forget", "image")])


def test_a_missing_column_of_a_template_is_named():
    benchmark = Toy()
    with pytest.raises(BadData, match="no column 'iban'"):
        embed_views(benchmark.load_model("clean"), benchmark, [View("forget", "text", "{iban}")])


def _rows(result):
    return [result[view].vectors for view in VIEWS]


def test_the_numbers_are_the_same_whatever_the_caches_hold(tmp_path):
    def embed(folder, **more):
        benchmark = Toy(Toy.Options(identities=50))
        data = DataCache(folder, **more)
        return _rows(embed_views(benchmark.load_model("compromised"), benchmark, VIEWS, data=data))

    off = embed(None)
    states = {
        "cold": embed(tmp_path),
        "warm": embed(tmp_path),
        "no pixels kept": embed(tmp_path / "other", keep_pixels=False),
    }
    for name, found in states.items():
        assert all(torch.equal(one, other) for one, other in zip(off, found, strict=True)), name


def test_several_processes_give_the_bits_of_one(tmp_path):
    benchmark = Toy(embed_toy.TOY)
    single = embed_views(benchmark.load_model("compromised"), benchmark, embed_toy.VIEWS)
    other = forked.start(embed_toy.write_as, 1, 2, tmp_path / "meeting", tmp_path / "cache", tmp_path / "out")
    try:
        mine = embed_toy.embed_as(0, 2, tmp_path / "meeting", tmp_path / "cache")
        other.join(120)
        assert other.exitcode == 0
    finally:
        other.kill()
    theirs = load_file(tmp_path / "out")
    for number, view in enumerate(embed_toy.VIEWS):
        assert torch.equal(mine[str(number)], single[view].vectors)
        assert torch.equal(theirs[str(number)], single[view].vectors)


def test_no_single_changed_weight_is_ever_answered_from_the_cache(tmp_path, counted):
    """Every tensor of both towers in turn: one element moves by one unit in the last place."""
    benchmark = Toy()
    model = benchmark.load_model("compromised")
    cache = EmbeddingCache(tmp_path)
    views = [View("forget", "image"), View("forget", "text")]
    embed_views(model, benchmark, views, cache)
    generator = torch.Generator().manual_seed(0)
    parameters = [(tower, p) for tower in ("image", "text") for p in model.tower_parameters(tower)]
    assert len(parameters) > 30
    for tower, parameter in parameters:
        before = dict(counted)
        flat = parameter.data.view(-1)
        element = int(torch.randint(len(flat), (1,), generator=generator))
        flat[element] = torch.nextafter(flat[element], torch.tensor(float("inf")))
        embed_views(model, benchmark, views, cache)
        assert counted[tower] > before[tower]
    before = dict(counted)
    embed_views(model, benchmark, views, cache)
    assert counted == before


def test_embedding_reads_images_and_texts_once_for_all_models(tmp_path, monkeypatch):
    benchmark = Toy()
    embed_views(benchmark.load_model("compromised"), benchmark, VIEWS, data=DataCache(tmp_path))
    monkeypatch.setattr("salmu_core.data.pixels.decode_image", lambda *arguments: pytest.fail("decoded again"))
    monkeypatch.setattr(Processor, "tokenize", lambda *arguments: pytest.fail("tokenized again"))
    embed_views(benchmark.load_model("clean"), benchmark, VIEWS, data=DataCache(tmp_path))
