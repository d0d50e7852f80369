"""Objectives and constraints are arithmetic on metrics, which is parsed and never executed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvec.errors import RecipeError
from taskvec.searching.goals import constraint, objective

TABLE = {
    "": {"r8": 0.8, "movie": 0.6, "20ng": 0.5, "ppl": 17.0, "tone.polite": 0.25},
    "base": {"r8": 0.4, "movie": 0.8, "20ng": 0.25, "ppl": 16.5, "tone.polite": 1.0},
    "own": {"r8": 1.0, "movie": 0.75, "20ng": 0.5, "ppl": 1.0, "tone.polite": 0.5},
}
VALUES = {
    "r8": 0.8,
    "'20ng'": 0.5,
    "base.r8": 0.4,
    "base['20ng']": 0.25,
    "-r8 + 2*movie/4 - 1": -0.8 + 0.3 - 1,
    "mean(r8, movie)": 0.7,
    "mean(r8/own.r8, movie/0.75)": (0.8 + 0.8) / 2,
    "worst('r8', 'mov*')": 0.6,
    "best('*')": 17.0,
    "mean(base['m*'])": 0.8,
    "mean('tone.*')": 0.25,
    "normalised('[rm]*', own)": (0.8 / 1 + 0.6 / 0.75) / 2,
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_an_objective_is_arithmetic_on_metrics(text, value):
    assert objective(text).value(TABLE) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "holds", "broken"),
    [
        ("ppl <= base.ppl + 0.5", True, 0),
        ("ppl < base.ppl + 0.5", False, math.ulp(0.0)),
        ("r8 >= 0.95*base.r8", True, 0),
        ("movie >= 0.95*base.movie", False, 0.16),
        ("mean(r8, movie) > base.movie", False, 0.1),
    ],
)
def test_a_constraint_holds_or_is_broken_by_some_amount(text, holds, broken):
    goal = constraint(text)
    assert goal.holds(TABLE) is holds
    assert goal.broken(TABLE) == pytest.approx(broken, abs=1e-12)
    assert (goal.broken(TABLE) == 0) is holds


@given(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from(["<=", ">=", "<", ">"]))
def test_a_comparison_is_python_s(a, b, sign):
    goal = constraint(f"a {sign} x.b")
    table = {"": {"a": a}, "x": {"b": b}}
    assert goal.holds(table) is {"<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b}[sign]
    assert (goal.broken(table) > 0) is not goal.holds(table)


def test_references_are_named():
    assert set(objective("mean(own.r8, base['x']) + normalised('*', best_of)").references()) == {
        "own", "base", "best_of",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("r8 >= 0.5", "is a constraint"),
        ("__import__('os').system('x')", "has no place here"),
        ("mean()", "has no place here"),
        ("r8 if 1 else 2", "has no place here"),
        ("r8 ** 2", "has no place here"),
        ("lambda: 1", "has no place here"),
        ("a.b.c", "has no place here"),
        ("mean(x) <= 1 + (2 <= 3)", "has no place here"),
        ("True", "has no place here"),
        ("r8 +", "cannot be read"),
        ("", "cannot be read"),
        ("(" * 300 + "r8" + ")" * 300, "cannot be read"),
    ],
)
def test_what_is_no_objective_is_refused(text, what):
    with pytest.raises(RecipeError, match=what):
        objective(text)


@pytest.mark.parametrize("text", ["mean('*')", "r8 <= 1 <= 2", "r8 == 0.5", "r8 in movie"])
def test_what_is_no_constraint_is_refused(text):
    with pytest.raises(RecipeError):
        constraint(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("r88", r"no metric is called r88 \(did you mean r8\?\)"),
        ("mean('x*')", "no metric fits 'x\\*'; there is r8, movie"),
        ("other.r8", "no model is called other; there is base, own"),
        ("r8/(movie - movie)", "movie - movie is 0"),
        ("normalised('r8', other)", "no model is called other"),
    ],
)
def test_a_metric_that_there_is_not_is_stated(text, what):
    with pytest.raises(RecipeError, match=what):
        objective(text).value(TABLE)
