"""What `salmu tune` searches contains what a method's authors used: otherwise a tuned row would be a strawman."""

import pytest

from salmu_core import Between
from salmu_core.plugins.loading import load_plugins

#: Method and the values that papers or released code give for options that are searched; sources stand in the methods' cards.
PUBLISHED = [
    ("cliperase", {"lr": 1e-6}),
    ("delete", {"lr": 5e-5, "temperature": 1.0, "bank": 0}),
    ("diet", {"lr": 9e-4, "repel_weight": 20, "adapter_rank": 4}),
    ("face-backdoor", {"lr": 1e-4, "weight": 0.8}),
    ("generic-captions", {"lr": 2e-5, "retain_weight": 0.0, "hard_negative": False}),
    ("name-backdoor", {"lr": 1e-4, "weight": 0.6}),
    ("negmerge", {"lr": 1e-5, "strength": 1.0}),
    ("npo", {"lr": 1e-5, "beta": 0.1, "retain_weight": 1.0}),
    ("retain-forget-entanglement", {"lr": 2.5e-6, "mu": 10}),
    ("retain-forget-entanglement", {"lr": 5e-5}),
    ("salun", {"share": 0.5}),
    ("scrub", {"lr": 5e-4, "alpha": 0.5}),
    ("scrub", {"alpha": 0.001}),
    ("selective-synaptic-dampening", {"alpha": 10, "dampening": 1.0}),
    ("selective-synaptic-dampening", {"alpha": 50, "dampening": 0.1}),
    ("simnpo", {"lr": 1e-5, "beta": 1.0, "retain_weight": 1.0}),
    ("simnpo", {"lr": 4e-6, "beta": 5.5, "retain_weight": 5.0, "delta": 0.0}),
    ("simnpo", {"beta": 2.5, "retain_weight": 1 / 0.1375, "delta": 0.0}),  # the code for TOFU weighs the forget term
    ("npo", {"beta": 0.0225}),
    ("task-vector-negation", {"lr": 1e-5, "strength": 0.5}),
    ("text-projection", {"change_weight": 1.0, "forget_weight": 1.1, "preserve_weight": 0.3}),
]


@pytest.fixture(scope="module")
def plugins():
    return load_plugins()


@pytest.mark.parametrize(("method", "published"), PUBLISHED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(PUBLISHED)])
def test_the_search_space_contains_the_published_setting(plugins, method, published):
    search = plugins.get("method", method).cls.search
    for option, value in published.items():
        space = search[option]
        inside = space.low <= value <= space.high if isinstance(space, Between) else value in space.values
        assert inside, f"{method} was published with {option} = {value}, and the search has {space}"
