"""The zero-shot classifier, GenKnow and IdZSC."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from salmu_core import NotMeasurable, View
from salmu_core.errors import BadData
from salmu_metrics import GenKnow, IdZSC, class_vectors, nearest_class


def plain_classifier(prompts, labels) -> dict[int, list[float]]:
    """Normalised mean of normalised prompts per class, number by number."""
    result = {}
    for label in sorted(set(labels)):
        members = [[float(x) for x in p] for p, other in zip(prompts, labels, strict=True) if other == label]
        members = [[x / math.sqrt(sum(y * y for y in p)) for x in p] for p in members]
        mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
        result[label] = [x / math.sqrt(sum(y * y for y in mean)) for x in mean]
    return result


def plain_prediction(image, classifier: dict[int, list[float]]) -> int:
    def similarity(label: int) -> float:
        return sum(float(x) * y for x, y in zip(image, classifier[label], strict=True))

    return max(classifier, key=similarity)


def test_a_class_is_the_normalised_mean_of_its_prompts() -> None:
    prompts = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    vectors = class_vectors(prompts, torch.tensor([1, 0, 1]), 2)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors, torch.tensor([[0.6, 0.8], [0.5**0.5, 0.5**0.5]]))


def test_the_order_of_prompts_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = torch.nn.functional.normalize(torch.randn(80, 64, generator=generator), dim=-1)
    classes = torch.arange(80) % 4
    order = torch.randperm(80, generator=generator)
    assert torch.equal(class_vectors(prompts, classes, 4), class_vectors(prompts[order], classes[order], 4))


def test_prompts_that_cancel_out_give_zeros() -> None:
    vectors = class_vectors(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]), 2)
    assert vectors.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_of_equal_classes_the_first_is_nearest() -> None:
    assert nearest_class(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.8, 0.6], [0.8, 0.6]])).tolist() == [1]


@pytest.mark.parametrize("rows", [1, 1024, 2500])
def test_chunks_change_nothing(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    images, classes = torch.randn(rows, 8, generator=generator), torch.randn(5, 8, generator=generator)
    assert torch.equal(nearest_class(images, classes), (images.double() @ classes.double().T).argmax(dim=1))


def test_genknow_by_hand(embed) -> None:
    """Two prompts of class 3 stand far apart: only a mean that is normalised again wins the first picture for it."""
    prompts = embed([[1, 0], [0, 1], [4, 3], [4, 3]], texts=list("abcd"), columns={"label": [3, 3, 10, 10]})
    image = embed([[3, 4], [1, 0], [1, 0], [3, 4]], columns={"label": [3, 10, 3, 10]})
    score = GenKnow().compute(image=image, prompts=prompts)
    assert score.rows.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert score.value == 0.5
    assert score.chance == 0.5
    assert list(score.clusters) == [3, 10, 3, 10]
    assert score.details["predicted"].tolist() == [3, 10, 10, 3]


def test_genknow_agrees_with_plain_loops(embed) -> None:
    generator = np.random.default_rng(1)
    labels = generator.permutation(np.repeat(np.arange(100, 113), 3)).tolist()
    prompts = generator.normal(size=(39, 20))
    pictures = generator.normal(size=(150, 20))
    truth = generator.integers(100, 113, 150).tolist()
    score = GenKnow().compute(
        image=embed(pictures, columns={"label": truth}),
        prompts=embed(prompts, texts=["p"] * 39, columns={"label": labels}),
    )
    classifier = plain_classifier(prompts, labels)
    predicted = [plain_prediction(picture, classifier) for picture in pictures]
    assert score.details["predicted"].tolist() == predicted
    assert score.value == pytest.approx(sum(p == t for p, t in zip(predicted, truth, strict=True)) / 150)
    assert score.value == float(score.rows.mean())
    assert score.chance == pytest.approx(1 / 13)


def test_genknow_is_one_for_a_perfect_and_chance_for_an_uninformative_model(embed) -> None:
    classes = np.eye(8)
    labels = list(range(8)) * 500
    prompts = embed(classes, texts=list("abcdefgh"), columns={"label": list(range(8))})
    assert GenKnow().compute(image=embed(classes[labels], columns={"label": labels}), prompts=prompts).value == 1.0
    noise = embed(np.random.default_rng(2).normal(size=(4000, 8)), columns={"label": labels})
    assert GenKnow().compute(image=noise, prompts=prompts).value == pytest.approx(1 / 8, abs=0.02)


def test_genknow_refuses_what_it_cannot_score(embed, nothing) -> None:
    prompts = embed([[1, 0], [0, 1]], texts=["a", "b"], columns={"label": [0, 1]})
    with pytest.raises(BadData, match="classes without a prompt: labels 7"):
        GenKnow().compute(image=embed([[1, 0]], columns={"label": [7]}), prompts=prompts)
    with pytest.raises(BadData, match="needs the column 'label'"):
        GenKnow().compute(image=embed([[1, 0]]), prompts=prompts)
    picture = embed([[1, 0]], columns={"label": [0]})
    with pytest.raises(NotMeasurable, match="1 zero-shot classes"):
        GenKnow().compute(image=picture, prompts=embed([[1, 0]], texts=["a"], columns={"label": [0]}))
    with pytest.raises(NotMeasurable, match="0 zero-shot classes"):
        GenKnow().compute(image=picture, prompts=nothing(2))


def test_idzsc_by_hand(embed) -> None:
    people = {"identity_id": ["q", "p", "p", "q"]}
    image = embed([[1, 0], [1, 0], [0, 1], [3, 4]], columns=people)
    names = embed([[1, 0], [0, 1], [0, 1], [1, 0]], texts=["Quinn", "Pat", "Pat", "Quinn"], columns=people)
    score = IdZSC().compute(image=image, text=names)
    assert score.rows.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert score.value == 0.5
    assert score.chance == 0.5
    assert score.details["predicted"].tolist() == [0, 0, 1, 1]  # Quinn appears first
    assert score.clusters == ["identity q", "identity p", "identity p", "identity q"]


def test_idzsc_agrees_with_plain_loops(embed) -> None:
    generator = np.random.default_rng(3)
    people = generator.integers(0, 17, 120).tolist()
    directions = generator.normal(size=(17, 12))
    pictures = directions[people] + 2.0 * generator.normal(size=(120, 12))
    columns = {"identity_id": [f"id{person}" for person in people]}
    score = IdZSC().compute(
        image=embed(pictures, columns=columns),
        text=embed(directions[people], texts=[f"Person {person}" for person in people], columns=columns),
    )
    classifier = plain_classifier(directions, list(range(17)))
    correct = [plain_prediction(picture, classifier) == person for picture, person in zip(pictures, people, strict=True)]
    assert score.rows.tolist() == [float(c) for c in correct]
    assert 0.2 < score.value < 0.95  # neither trivial nor hopeless, so that the comparison says something
    assert score.chance == pytest.approx(1 / len(set(people)))


def test_idzsc_counts_namesakes_as_one_candidate(embed) -> None:
    people = {"identity_id": ["p", "q", "r"]}
    image = embed([[1, 0], [1, 0], [0, 1]], columns=people)
    names = embed([[1, 0], [1, 0], [0, 1]], texts=["Pat", "Pat", "Robin"], columns=people)
    score = IdZSC().compute(image=image, text=names)
    assert score.value == 1.0
    assert score.chance == pytest.approx(1 / 3)


def test_idzsc_can_compare_with_the_names_of_everybody_in_forget(embed) -> None:
    """Robin, who is in forget only, is nearer to the second portrait than its own Pat is."""
    metric = IdZSC(IdZSC.Options(candidates="forget"))
    assert metric.needs()["others"] == View("forget", "text", "{name}")
    everybody = {"identity_id": ["r", "p", "q", "r"]}
    image = embed([[1, 0], [3, 4]], columns={"identity_id": ["q", "p"]})
    names = embed([[1, 0], [0, 1]], texts=["Quinn", "Pat"], columns={"identity_id": ["q", "p"]})
    others = embed([[3, 4], [0, 1], [1, 0], [3, 4]], texts=["Robin", "Pat", "Quinn", "Robin"], columns=everybody)
    assert IdZSC().compute(image=image, text=names).value == 1.0
    score = metric.compute(image=image, text=names, others=others)
    assert score.rows.tolist() == [1.0, 0.0]
    assert score.details["predicted"].tolist() == [0, 2]
    assert score.chance == pytest.approx(1 / 3)


def test_idzsc_is_chance_for_an_uninformative_model(embed) -> None:
    generator = np.random.default_rng(4)
    people = [row % 20 for row in range(4000)]
    names = generator.normal(size=(20, 32))
    columns = {"identity_id": people}
    image = embed(generator.normal(size=(4000, 32)), columns=columns)
    score = IdZSC().compute(image=image, text=embed(names[people], texts=[f"n{p}" for p in people], columns=columns))
    assert score.value == pytest.approx(0.05, abs=0.015)


def test_idzsc_takes_its_prompt_from_the_options() -> None:
    assert IdZSC().needs()["text"] == View("forget_identity", "text", "{name}")
    prompt = IdZSC(IdZSC.Options(prompt="a photo of {name}"))
    assert prompt.needs()["text"] == View("forget_identity", "text", "a photo of {name}")
    assert prompt.needs()["image"] == View("forget_identity", "image")


def test_idzsc_refuses_what_it_cannot_score(embed) -> None:
    rows = [[1, 0], [0, 1]]

    def compute(people: list[str | None], texts: list[str]):
        columns = {"identity_id": people}
        return IdZSC().compute(image=embed(rows, columns=columns), text=embed(rows, texts=texts, columns=columns))

    with pytest.raises(NotMeasurable, match="a single identity"):
        compute(["p", "p"], ["Pat", "Pat"])
    with pytest.raises(BadData, match="row 1 has none"):
        compute(["p", None], ["Pat", "Robin"])
    with pytest.raises(BadData, match="gives identity p several texts: 'Pat 1' and 'Pat 2'"):
        compute(["p", "p"], ["Pat 1", "Pat 2"])
