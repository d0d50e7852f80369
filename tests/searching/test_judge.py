"""Which candidate each rule chooses, and the words that say so."""

import numpy as np
import pytest

from searching.near import BASE, GRID, ONE, TARGETS, TWO, Near, recipe
from taskvec.errors import RecipeError
from taskvec.searching.goals import constraint, objective
from taskvec.searching.judge import Judge
from taskvec.searching.search import search


def test_of_equal_candidates_the_smallest_coefficients_are_taken():
    assert search(ONE, Near(), {"lam": "-1:1:0.5"}, objective="0*a", test=False).chosen.knobs == {"lam": 0}


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_that_keeps_a_constraint_and_the_lowest_target_that_does(sign):
    away = recipe("base - lam*(a - base)")
    kept = {"constraints": ["control >= 0.95*base.control"], "test": False}
    largest = search(away, Near(), GRID, rule="largest", **kept)
    assert largest.chosen.knobs == {"lam": 0.25} and "the largest lam of 21 that keeps control >= 0.95" in largest.how
    lowest = search(away, Near(), GRID, objective="a", minimise=True, **kept)
    passing = [k / 20 for k in range(6)]
    target = {lam: np.mean(np.abs(TARGETS["validation"]["a"] + lam) < 0.25) for lam in passing}
    assert lowest.chosen.knobs == {"lam": min(passing, key=lambda lam: (target[lam], lam))}
    assert "lowest a of 21 candidates that keeps" in lowest.how


def test_where_nothing_keeps_the_constraints_the_answer_is_the_base():
    result = search(ONE, Near(), {"lam": "0.5:1:0.25"}, constraints=["control >= 2"])
    assert result.chosen is None and result.weights == BASE and result.test.keys() == {"base"}
    assert all(t.broken["control >= 2"] > 1 for t in result.trials)


def test_the_rule_largest_is_about_one_knob():
    with pytest.raises(RecipeError, match="about one knob, and there are 2: x, y"):
        search(TWO, Near(), {"x": "0:1:0.5", "y": "0:1:0.5"}, rule="largest")


def test_a_line_is_judged_by_all_goals_and_the_first_one_is_turned_where_it_is_to_be_small():
    goals, bounds = [objective("a"), objective("n")], [constraint("n <= base.n")]
    line = {"trial": 4, "knobs": {"x": 1.0}, "scores": {"a": [1, 0], "n": 5.0}, "seconds": 1, "memo": {"k": 1}}
    for minimise, first in ((False, 0.5), (True, -0.5)):
        trial = Judge.of(goals, minimise, bounds, {"base": {"a": [1, 1], "n": 3.0}}).trial(line)
        assert (trial.goods, trial.broken, trial.memo) == ((first, 5.0), {"n <= base.n": 2.0}, {"k": 1})


def test_those_that_were_given_up_are_finished_but_cannot_be_chosen():
    judge = Judge.of([objective("a")], False, [], {})
    about = {"knobs": {"x": 1.0}, "seconds": 1}
    lines = [
        {"trial": 1, **about, "scores": {"a": [1, 0]}}, {"claim": 3}, {"trial": 0, **about, "partial": {"a": [1]}},
        {"trial": 2, **about, "scores": {"a": [0, 0]}},
    ]  # fmt: skip
    assert [t.number for t in judge.finished(lines)] == [1, 0, 2] and [t.number for t in judge.all(lines)] == [1, 2]
    assert judge.chosen(judge.all(lines), "best")[0].number == 1
