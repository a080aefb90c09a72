"""Bad options get one clear error that names the option, the value and the bound."""

from typing import Literal

import pytest

from salmu_core import Field, FitOptions, Options
from salmu_core.errors import BadOptions
from salmu_core.options import describe_options, parse_options


class Sample(Options):
    lr: float = Field(1e-3, gt=0, le=1, description="rate")
    mode: Literal["a", "b"] = "a"
    layers: list[int] = Field(default=[1], description="which")
    floor: float | None = None


def test_text_is_converted_to_the_declared_type():
    options = parse_options(Sample, {"lr": "1e-4", "layers": "[2, 3]", "floor": "none"}, "sample")
    assert options.lr == 1e-4
    assert options.layers == [2, 3]
    assert options.floor is None


def test_an_unknown_option_lists_near_matches():
    with pytest.raises(BadOptions, match="sample has no option 'floot'") as caught:
        parse_options(Sample, {"floot": 1}, "sample")
    assert "floor" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": "-1"}, ("'lr'", "greater than 0", "-1")),
        ({"lr": "2"}, ("'lr'", "less than or equal to 1", "2")),
        ({"lr": "fast"}, ("'lr'", "number", "fast")),
        ({"mode": "c"}, ("'mode'", "'a' or 'b'", "c")),
        ({"lr": "nan"}, ("'lr'", "finite", "nan")),
    ],
)
def test_a_bad_value_names_option_value_and_bound(given, words):
    with pytest.raises(BadOptions) as caught:
        parse_options(Sample, given, "sample")
    for word in words:
        assert word in caught.value.message


def test_descriptions_hold_type_default_and_bounds():
    lr = describe_options(Sample)[0]
    assert (lr.name, lr.type, lr.default, lr.bounds, lr.description) == ("lr", "float", 1e-3, "> 0, <= 1", "rate")


def test_a_list_of_options_is_said_in_words():
    class Lists(Options):
        rates: tuple[float, ...] = Field((0.1,), description="rates")
        towers: tuple[Literal["both", "text"], ...] = Field(("both",), description="towers")

    assert [option.type for option in describe_options(Lists)] == ["list of float", "list of both | text"]


def test_every_option_of_the_loop_is_described():
    assert all(option.description for option in describe_options(FitOptions))


def test_a_search_space_in_words():
    from salmu_core import Between, OneOf
    from salmu_core.options import describe_space

    space = {"lr": Between(1e-5, 3e-3), "share": Between(0.1, 1, log=False), "tower": OneOf(("both", "text"))}
    assert describe_space(space) == {"lr": "1e-05 to 0.003, logarithmic", "share": "0.1 to 1", "tower": "both | text"}


def test_defaults_made_by_a_factory_are_shown():
    from typing import Any

    from salmu_core import Field, Options

    class Made(Options):
        given: dict[str, Any] = Field(default_factory=dict)

    assert describe_options(Made)[0].default == {}
