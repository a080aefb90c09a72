"""RetFail: draws, ranks, ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salmu_core import NotMeasurable
from salmu_metrics import RetFail, draw_distractors, retrieval_ranks


def plain_ranks(images, captions, texts, distractors, distractor_texts) -> list[int]:
    """Rank by rank in double precision; a distractor with the image's own caption never counts."""
    ranks = []
    for image, caption, words in zip(images, captions, texts, strict=True):
        own = sum(float(x) * float(y) for x, y in zip(image, caption, strict=True))
        better = 0
        for other, other_words in zip(distractors, distractor_texts, strict=True):
            similarity = sum(float(x) * float(y) for x, y in zip(image, other, strict=True))
            better += other_words != words and similarity > own
        ranks.append(1 + better)
    return ranks


def official_draw(forget_texts: list[str], retain_texts: list[str], count: int = 1000, seed: int = 42) -> list[str]:
    """The draw as SALMUBench words it: on lists of texts, forget first, one generator."""
    rng = np.random.RandomState(seed)
    first = rng.choice(forget_texts, min(count, len(forget_texts)), replace=False)
    second = rng.choice(retain_texts, min(count, len(retain_texts)), replace=False)
    return [*first.tolist(), *second.tolist()]


@pytest.mark.parametrize(("forget", "retain"), [(1500, 2500), (700, 1200), (1, 3), (1000, 1001)])
def test_rows_are_drawn_as_the_official_evaluator_draws_texts(forget: int, retain: int) -> None:
    forget_texts = [f"forget {row}" for row in range(forget)]
    retain_texts = [f"retain {row}" for row in range(retain)]
    of_forget, of_retain = draw_distractors(forget, retain, 1000, 42)
    drawn = [forget_texts[row] for row in of_forget] + [retain_texts[row] for row in of_retain]
    assert drawn == official_draw(forget_texts, retain_texts)
    assert len(set(drawn)) == len(drawn) == min(1000, forget) + min(1000, retain)


def test_the_draw_is_the_known_one() -> None:
    """Numbers of numpy.random.RandomState(42), which NumPy keeps for ever."""
    of_forget, of_retain = draw_distractors(10, 10, 4, 42)
    assert of_forget.tolist() == [8, 1, 5, 0]
    assert of_retain.tolist() == [0, 1, 8, 5]
    assert draw_distractors(10, 10, 4, 43)[0].tolist() != of_forget.tolist()


def test_hand_computed_ranks(embed) -> None:
    image = embed([[1, 0], [1, 0], [0, 1]], columns={"identity_id": ["p", "p", "q"]})
    text = embed([[1, 0], [0, 1], [3, 4]], texts=["a", "b", "c"])
    retain = embed([[4, 3], [4, 3]], texts=["d", "d"])
    score = RetFail().compute(image=image, text=text, retain_text=retain)
    # Image 2 sees b at 0 and a, c, d, d above it; image 3 sees c at 0.8 and only b above it.
    assert score.details["rank"].tolist() == [1, 5, 2]
    assert score.rows == pytest.approx([1.0, 0.2, 0.5])
    assert score.value == pytest.approx(1.7 / 3)
    assert score.extras == {"R@1": pytest.approx(1 / 3)}
    assert score.clusters == ["identity p", "identity p", "identity q"]
    assert score.chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 6)


@pytest.mark.parametrize("distractors", [7, 50, 1000])
def test_random_embeddings_agree_with_plain_loops(distractors: int, embed) -> None:
    generator = np.random.default_rng(3)
    # Twelve texts for 90 rows: every caption has duplicates, in both splits.
    words = [f"text {number}" for number in generator.integers(0, 12, 90)]
    retain_words = [f"text {number}" for number in generator.integers(6, 30, 70)]
    table = {f"text {number}": generator.normal(size=24) for number in range(30)}
    image = embed(generator.normal(size=(90, 24)))
    text = embed([table[w] for w in words], texts=words)
    retain = embed([table[w] for w in retain_words], texts=retain_words)
    score = RetFail(RetFail.Options(distractors=distractors, seed=5)).compute(image=image, text=text, retain_text=retain)

    drawn = official_draw(words, retain_words, distractors, 5)
    vectors = dict(zip([*words, *retain_words], [*text.vectors, *retain.vectors], strict=True))
    expected = plain_ranks(image.vectors, text.vectors, words, [vectors[w] for w in drawn], drawn)
    assert score.details["rank"].tolist() == expected
    assert score.value == pytest.approx(sum(1 / rank for rank in expected) / 90, rel=1e-12)
    assert score.value == float(score.rows.mean())
    assert score.extras["R@1"] == pytest.approx(sum(rank == 1 for rank in expected) / 90)


def test_a_caption_ties_with_its_duplicates_to_the_last_bit(embed) -> None:
    generator = np.random.default_rng(4)
    caption = generator.normal(size=67)
    image = embed(generator.normal(size=(700, 67)))
    text = embed([caption] * 700, texts=["same"] * 700)
    retain = embed([caption] * 300 + [-caption] * 5, texts=["same"] * 300 + ["opposite"] * 5)
    score = RetFail().compute(image=image, text=text, retain_text=retain)
    opposite = image.vectors @ text.vectors[0] < 0
    assert score.details["rank"].tolist() == [6 if turned else 1 for turned in opposite]


def test_a_distractor_drawn_twice_counts_twice() -> None:
    images = torch.tensor([[1.0, 0.0]])
    captions = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    own = torch.tensor([0])
    assert retrieval_ranks(images, captions, own, torch.tensor([1, 2])).tolist() == [2]
    assert retrieval_ranks(images, captions, own, torch.tensor([1, 1, 2, 1, 0])).tolist() == [4]


@pytest.mark.parametrize("rows", [255, 256, 257, 600])
def test_chunks_change_nothing(rows: int) -> None:
    generator = torch.Generator().manual_seed(6)
    images = torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=-1)
    captions = torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator), dim=-1)
    distractors = torch.randint(0, rows, (40,), generator=generator)
    ranks = retrieval_ranks(images, captions, torch.arange(rows), distractors)
    similarity = images.double() @ captions.double().T
    expected = 1 + (similarity[:, distractors] > similarity.diagonal()[:, None] + 1e-12).sum(dim=1)
    assert torch.equal(ranks, expected)


def test_a_perfect_model_ranks_first_and_an_inverted_one_last(embed) -> None:
    vectors = np.random.default_rng(7).normal(size=(50, 16))
    words = [f"caption {row}" for row in range(50)]
    retain = embed(np.random.default_rng(8).normal(size=(30, 16)), texts=[f"other {row}" for row in range(30)])
    text = embed(vectors, texts=words)
    perfect = RetFail().compute(image=embed(vectors), text=text, retain_text=retain)
    assert perfect.value == 1.0
    assert perfect.extras["R@1"] == 1.0
    inverted = RetFail().compute(image=embed(-vectors), text=text, retain_text=retain)
    assert inverted.details["rank"].tolist() == [80] * 50  # its own caption is one of the 80 distractors, and ties
    assert inverted.value == pytest.approx(1 / 80)


def test_an_uninformative_model_scores_chance(embed) -> None:
    generator = np.random.default_rng(9)
    image = embed(generator.normal(size=(3000, 32)))
    text = embed(generator.normal(size=(3000, 32)), texts=[f"f{row}" for row in range(3000)])
    retain = embed(generator.normal(size=(500, 32)), texts=[f"r{row}" for row in range(500)])
    score = RetFail(RetFail.Options(distractors=100)).compute(image=image, text=text, retain_text=retain)
    assert score.chance == pytest.approx(0.02924, abs=1e-4)  # H(201) / 201
    assert score.value == pytest.approx(score.chance, abs=0.006)


def test_salmubenchs_gallery_has_the_published_chance(embed) -> None:
    generator = np.random.default_rng(10)
    text = embed(generator.normal(size=(1100, 4)), texts=[f"f{row}" for row in range(1100)])
    retain = embed(generator.normal(size=(1100, 4)), texts=[f"r{row}" for row in range(1100)])
    assert RetFail().compute(image=text, text=text, retain_text=retain).chance == pytest.approx(0.0041, abs=5e-5)


def test_another_seed_draws_other_distractors(embed) -> None:
    generator = np.random.default_rng(11)
    image = embed(generator.normal(size=(60, 8)))
    text = embed(generator.normal(size=(60, 8)), texts=[f"f{row}" for row in range(60)])
    retain = embed(generator.normal(size=(60, 8)), texts=[f"r{row}" for row in range(60)])
    views = {"image": image, "text": text, "retain_text": retain}
    first, again, other = (RetFail(RetFail.Options(distractors=9, seed=s)).compute(**views) for s in (42, 42, 43))
    assert np.array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)


def test_without_retain_captions_there_is_no_gallery(embed, nothing) -> None:
    text = embed([[1, 0]], texts=["a"])
    with pytest.raises(NotMeasurable, match="retain_disjoint"):
        RetFail().compute(image=text, text=text, retain_text=nothing(2))
