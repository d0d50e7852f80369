"""A trial knows the name of its candidate, how good it is, and by how much it breaks constraints."""

import pytest

from taskvec.searching.trial import Trial, in_words

TRIAL = Trial(
    3, {"x": 0.25, "y": -1.0}, {"a": [1, 0, 0, 1], "n": 7.0}, 2.0, (0.5, -7.0), {"n <= 5": 2.0, "a >= 1": 0.5}
)


def test_a_candidate_is_named_by_its_knobs():
    assert TRIAL.told() == in_words(TRIAL.knobs) == "x = 0.25, y = -1" and in_words({"x": 1 / 3}) == "x = 0.3333"


def test_the_first_objective_decides_and_breaches_add_up():
    assert TRIAL.goodness == 0.5 and TRIAL.breach == 2.5 and TRIAL.metrics == pytest.approx({"a": 0.5, "n": 7})
