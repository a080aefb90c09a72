"""Labels of the chart of many methods lie on no other label, whatever the width of the page."""

import itertools

import numpy as np
import pytest

from salmu_core.report.charts import _HIGH, LOWEST, _label_positions

LETTER, LINE = 5.2, 12  # a little less than is reckoned with


def boxes(points, positions, width, height, low):
    """Each label's box in pixels."""
    scale = width / (_HIGH[0] - low[0]), height / (_HIGH[1] - low[1])
    for title, x, y in points:
        if title in positions:
            where, side = positions[title].split()
            middle = (max(x, LOWEST) - low[0]) * scale[0], (max(y, LOWEST) - low[1]) * scale[1]
            up = {"middle": 0, "top": 1, "bottom": -1}[where] * 13
            left = middle[0] + 10 if side == "right" else middle[0] - 10 - LETTER * len(title)
            yield left, middle[1] + up - LINE / 2, left + LETTER * len(title), middle[1] + up + LINE / 2


@pytest.mark.parametrize("width", [270, 620, 1240])
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_no_label_lies_on_another_or_leaves_the_plot(width, spread):
    generator = np.random.default_rng(0)
    low = (-0.1, -0.43)
    points = [("Clean", 1.0, 0.0), ("Compromised", 0.0, 1.0)]
    points += [
        (f"method-{n} lr=1e-05", float(x), float(1 - y)) for n, (x, y) in enumerate(generator.random((40, 2)) * spread)
    ]
    positions = _label_positions(points, low)
    assert {"Clean", "Compromised"} <= positions.keys()
    assert len(positions) >= (6 if spread > 0.1 else 3)
    drawn = list(boxes(points, positions, width, 360, low))
    for one, other in itertools.combinations(drawn, 2):
        assert not (one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3])
    assert all(box[0] >= 0 and box[2] <= width for box in drawn)
