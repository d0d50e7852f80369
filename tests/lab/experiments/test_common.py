"""From scores to means and paired comparisons."""

from types import SimpleNamespace

import numpy as np
import pytest

from taskvec.lab.experiments.common import (
    averaged,
    compared,
    control_kept,
    correlated,
    correlation,
    line_of,
    over_seeds,
    too_few,
    values_of,
)
from taskvec.lab.results import FAILS, HOLDS, UNTESTED, WEAKLY, Estimate
from taskvec.searching.evidence import difference
from taskvec.searching.goals import constraint

SCORES = {"a": [1, 0, 1, 1], "b": [0.5, 0.0], "c": 0.25}


def test_a_mean_over_tasks_is_of_the_means_over_their_examples():
    assert averaged(SCORES, ["a"]) == 0.75 and averaged(SCORES, ["a", "b"]) == 0.5
    assert averaged(SCORES, ["a", "c"]) == 0.5, "a task may have one number in all"
    assert values_of(SCORES, "a") == [1, 0, 1, 1] and values_of(SCORES, "c") == [0.25]


def test_seeds_are_averaged_example_by_example():
    assert over_seeds([[1, 0, 1], [0, 0, 1]]) == [0.5, 0, 1]
    with pytest.raises(ValueError, match="zip"):
        over_seeds([[1, 0], [1]])


def test_a_comparison_is_the_second_minus_the_first_on_the_same_examples():
    first, second = [[0, 0, 1, 0] * 5, [1, 0, 1, 0] * 5], [[1, 1, 1, 0] * 5, [1, 0, 1, 0] * 5]
    one = compared([first], [second])
    assert one.interval.mean == pytest.approx(0.25)
    wanted = difference([over_seeds(first)], [over_seeds(second)])
    assert (one.p, one.interval) == (wanted.p, wanted.interval)
    assert compared([second], [first]).interval.mean == pytest.approx(-0.25)
    assert compared([first, second], [first, second]).interval.mean == 0


def test_pearson_s_correlation_and_what_it_says():
    xs, ys = [0.1, 0.4, 0.2, 0.9], [1.0, 2.0, 2.5, 4.0]
    assert correlation([*zip(xs, ys, strict=True)]) == pytest.approx(np.corrcoef(xs, ys)[0, 1])
    assert np.isnan(correlation([(0.1, 1.0), (0.1, 2.0)])), "one of the two never varies"
    assert [correlated(r) for r in (0.6, 0.5, 0.0, -1.0, float("nan"))] == [HOLDS, WEAKLY, FAILS, FAILS, UNTESTED]


@pytest.mark.parametrize(("count", "said"), [(1, "1 seed of"), (2, "2 seeds of"), (3, None)])
def test_too_few_seeds_are_a_limit(count, said):
    limits = too_few(SimpleNamespace(seeds=range(count)))
    assert [limit.startswith(said) for limit in limits] == ([True] if said else [])


def test_a_line_has_for_each_x_the_estimate_over_seeds():
    curves = [[(0.0, 0.5), (1.0, 0.9)], [(0.0, 0.5), (1.0, 0.7)], [(0.0, 0.5), (1.0, 0.8)]]
    there = Estimate.over([0.9, 0.7, 0.8])
    assert line_of(curves) == ((0.0, 0.5, None, None), (1.0, there.mean, there.low, there.high))
    with pytest.raises(ValueError, match="zip"):
        line_of([curves[0], curves[1][:1]])


def test_the_constraint_on_controls_is_one_that_a_search_reads():
    goal = constraint(control_kept(["a", "b"], 0.95))
    assert goal.holds({"": {"a": 0.95, "b": 0.95}, "base": {"a": 1.0, "b": 1.0}})
    assert not goal.holds({"": {"a": 0.95, "b": 0.94}, "base": {"a": 1.0, "b": 1.0}})
