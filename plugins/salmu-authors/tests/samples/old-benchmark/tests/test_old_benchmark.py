"""old-benchmark: built small, what its models know, and the contract."""

import pytest
from salmu_core import SalmuError
from salmu_core.losses import pair_cosine
from salmu_core.testing import check_benchmark

from salmu_old_benchmark import OldBenchmark, inputs


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two people, a few training steps."""
    benchmark = make(tmp_path_factory.mktemp("cache"))
    benchmark.build()
    return benchmark


def make(cache, **options):
    """A small instance; not built."""
    return OldBenchmark(OldBenchmark.Options(people=2, steps=20, **options), cache)


def test_keeps_the_contract(small):
    check_benchmark(small)


def test_before_it_is_built_it_says_what_to_do(tmp_path):
    with pytest.raises(SalmuError, match="salmu build old-benchmark"):
        make(tmp_path).load_model("clean")


def test_instances_differ_with_the_seed(small, tmp_path):
    other = make(tmp_path, seed=1)
    assert other.fingerprint() != small.fingerprint()
    assert other.split("forget").image_keys != small.split("forget").image_keys


def test_only_the_compromised_model_ties_people_to_their_captions(small):
    similarity = {}
    for which in ("clean", "compromised"):
        model = small.load_model(which)
        images, tokens = inputs(model, small.split("forget"))
        similarity[which] = pair_cosine(model.encode_image(images), model.encode_text(tokens)).mean().item()
    assert similarity["compromised"] > similarity["clean"]
