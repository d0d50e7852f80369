"""Shapes on axes: ticks are round numbers within the range."""

import numpy as np
import pytest

from taskvec.report.svg import ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.2), (19.9, 26.1), (1e-7, 3e-7), (0, 1.2), (5, 123456)])
def test_ticks_are_round_and_within(low, high):
    places = ticks(low, high, 6)
    assert 3 <= len(places) <= 9 and all(low - 1e-12 <= v <= high + 1e-12 for v in places)
    steps = np.diff(places)
    assert np.allclose(steps, steps[0])
