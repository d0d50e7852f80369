"""Polynomials over knobs, filters, tables and gradients: exact, printable, and refused in words where they have no
value."""

import copy
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra import coefficients
from taskvec.algebra.coefficients import (
    DEEPEST,
    MOST_TERMS,
    ONE,
    ZERO,
    Coefficient,
    Inverse,
    Knob,
    Layers,
    Only,
    Per,
    joined,
    knob,
    layers,
    monomial,
    monomial_text,
    only,
    per,
    without,
)
from taskvec.errors import RecipeError, UnboundKnob
from taskvec.sources.positions import Place

X, Y = knob("x"), knob("y")
HERE = Place("a.0.w", Fraction(1, 2))
NOWHERE = Place("norm")


# ---- values ---------------------------------------------------------------------------------------
def test_a_filter_is_one_where_a_pattern_fits_and_zero_elsewhere():
    assert only("b", "a.*").at(HERE) == 1 and only("b", "c").at(HERE) == 0
    assert without("b", "a.*").at(HERE) == 0 and without("b").at(HERE) == 1


def test_a_table_has_the_value_of_the_first_pattern_that_fits():
    table = per({"a.1.*": 1, "a.*": 2, "*.w": 3})
    assert table.at(HERE) == 2 and table.at(Place("b.w")) == 3
    with pytest.raises(RecipeError, match=r'no pattern of per\(.*\) fits tensor norm: add "\*": a number for the rest'):
        table.at(NOWHERE)


@pytest.mark.parametrize(
    ("points", "depth", "value"),
    [((0, 1), "0", 0), ((0, 1), "1", 1), ((0, 1), "1/4", "1/4"), ((0, 1, 5), "1/2", 1), ((0, 1, 5), "3/4", 3),
     ((0, 1, 5), "1", 5), ((0, 1, 5), "1/8", "1/4"), ((7,), "1/3", 7), ((7,), "1", 7), ((2, 2), "1/3", 2)],
)  # fmt: skip
def test_a_gradient_is_linear_between_its_points(points, depth, value):
    assert layers(*points).at(Place("h.1.w", Fraction(depth))) == Fraction(value)


def test_a_tensor_of_no_layer_has_the_value_outside_or_is_refused():
    assert layers(1, 2, outside=5).at(NOWHERE) == 5 and layers(1, 2, outside=0).at(NOWHERE) == 0
    with pytest.raises(
        RecipeError, match=r"tensor norm belongs to no layer: give its coefficient, as in layers\(1, 2, outside=0\)"
    ):
        layers(1, 2).at(NOWHERE)


def test_an_inverse_has_a_value_where_its_divisor_is_not_zero():
    half = 1 / (1 + only("a.*"))
    assert half.at(HERE) == Fraction(1, 2) and half.at(NOWHERE) == 1
    with pytest.raises(RecipeError, match=r'division by zero at norm: only\("a\.\*"\) is 0 there'):
        (1 / only("a.*")).at(NOWHERE)


def test_a_knob_without_a_value_is_named_wherever_it_stands():
    for c in (X * Y, per({"*": X + Y}), layers(X, Y), 1 / (X + Y), layers(1, outside=X * Y)):
        assert c.knobs == {"x", "y"}
    with pytest.raises(UnboundKnob, match=r"knobs without a value: x, y$"):
        (Y * X).at(HERE)
    assert (X - X).at(HERE) == 0 and (0 * X).knobs == frozenset()


def test_what_is_left_at_a_tensor_is_a_polynomial_in_knobs():
    nested = per({"a.*": per({"*.w": X * only("a.*"), "*": 1}), "*": 2})
    assert nested.reduced(HERE) == X and nested.reduced(NOWHERE) == 2
    assert (layers(0, X) * 3).reduced(HERE) == Fraction(3, 2) * X
    divided = (1 / (X * layers(2, 4))).reduced(HERE)
    assert divided.bind({"x": 2}) == Fraction(1, 6)


# ---- arithmetic ---------------------------------------------------------------------------------------
def test_a_plain_number_is_a_constant_and_nothing_else_is():
    assert ZERO.constant == 0 and ONE.constant == 1 and Coefficient.of(0.3).constant == Fraction(3, 10)
    assert X.constant is None and (X + 1).constant is None and (X * X).constant is None
    assert Coefficient.of(X) is X and Coefficient({(): Fraction(0)}) == ZERO and not ZERO and ONE


def test_division_is_exact_by_numbers_and_kept_by_the_rest():
    assert (X / 3) * 3 == X and 1 / Coefficient.of(4) == Fraction(1, 4) and X / X != 1
    assert (X / X).bind({"x": 5}) == 1 and str(1 / (X + 1)) == "1/(1 + x)"
    for divisor in (0, X - X):
        with pytest.raises(RecipeError, match=r"^division by zero$"):
            X / divisor


def test_with_what_is_no_number_there_is_no_arithmetic():
    for wrong in ("a", None, [1]):
        for call in (lambda w: X + w, lambda w: X * w, lambda w: X / w):
            with pytest.raises(TypeError):
                call(wrong)
        assert wrong != X
    assert (Coefficient.of(2) == float("nan")) is False and Coefficient.of(2) != True  # noqa: E712


def test_differences_and_opposites_have_their_signs():
    assert X - Y == -(Y - X) == X + -1 * Y and 2 - X == -X + 2 and X - 2 == -2 + X


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_numbers_of_numpy_leave_it_to_the_coefficient(kind):
    assert kind(2) * X == 2 * X and type(kind(2) + X) is Coefficient and kind(2) - X == 2 - X and kind(1) / X == 1 / X


def test_factors_have_one_order_and_a_filter_twice_is_that_filter_once():
    a, b = Only(("a",)), Only(("b",))
    assert monomial([b, Knob("y"), a, Knob("x"), a]) == (Knob("x"), Knob("y"), a, b)
    assert monomial([Knob("x"), Knob("x")]) == (Knob("x"), Knob("x"))
    assert only("a") * only("a") == only("a") and X * X != X and only("a", "b") == only("b", "a")
    assert hash(X * only("a")) == hash(only("a") * X)


def test_equal_numbers_and_constants_have_one_hash():
    assert hash(Coefficient.of(2)) == hash(Coefficient.of(2.0)) and len({X + Y, Y + X}) == 1


def test_a_product_has_at_most_so_many_terms(monkeypatch):
    assert MOST_TERMS == 4096
    monkeypatch.setattr(coefficients, "MOST_TERMS", 6)
    two, three = X + Y, X + 1 + only("a")
    assert len((two * three).terms) == 6
    with pytest.raises(RecipeError, match="a product of coefficients has more than 6 terms"):
        two * three * two
    wide, made = sum((knob(f"k{k}") for k in range(48)), ZERO), []
    monkeypatch.setattr(coefficients, "bounded", lambda value: made.append(value) or value)
    some = sum((knob(f"k{k}") for k in range(33)), ZERO)
    for one, other, products in ((wide, X + Y, 96), (some, X + Y + 1, 0)):  # of more than 96 products none is made
        with pytest.raises(RecipeError, match="more than 6 terms"):
            one * other
        assert len(made) == products
        made.clear()


def test_coefficients_nest_to_a_bound():
    assert DEEPEST == 15
    nested = X
    for _ in range(DEEPEST):
        nested = 1 / (nested + 1)
    for deeper in (
        lambda c: 1 / (c + 1),
        lambda c: per({"*": c}),
        lambda c: layers(1, c),
        lambda c: layers(1, outside=c),
    ):
        with pytest.raises(RecipeError, match=rf"stand within one another .* more than {DEEPEST} deep"):
            deeper(nested)
    ((inverse,),) = nested.terms
    assert inverse.depth == DEEPEST and Per((("*", X),)).depth == Layers((ONE,)).depth == Inverse(X).depth == 1


# ---- binding and walking ------------------------------------------------------------------------------
def test_a_value_is_bound_wherever_the_knob_stands_and_other_names_are_let_alone():
    whole = X * per({"a.*": X, "*": Y}) + layers(X, Y, outside=X) + 1 / (X + Y)
    bound = whole.bind({"x": 2, "z": 9})
    assert bound == 2 * per({"a.*": 2, "*": Y}) + layers(2, Y, outside=2) + 1 / (2 + Y)
    assert bound.knobs == {"y"} and whole.bind({}) == whole and whole.bind({"x": Y}).knobs == {"y"}
    assert layers(X, 1).bind({"x": 0}) == layers(0, 1)


def test_a_walk_sees_every_factor_within_others():
    whole = per({"*": layers(X, outside=1 / Y)})
    assert [type(f) for f in whole.walk()] == [Per, Layers, Knob, Inverse, Knob]


def test_a_gradient_needs_to_know_how_many_layers_there_are_unless_it_is_flat():
    layers(2, 2, outside=5).require_layers("adapter")
    per({"*": 3}).require_layers("adapter")
    for c in (layers(1, 2), per({"*": layers(1, 2)}), 1 / layers(1, 2)):
        with pytest.raises(RecipeError, match=r"layers\(1, 2\) runs from .* adapter does not say how many there are"):
            c.require_layers("adapter")


@pytest.mark.parametrize(
    "c",
    [tv.knob("x"), tv.layers(1, 2, outside=tv.knob("y")), 1 - tv.only("a*", "b"),
     tv.per({"a*": tv.only("*b"), "*": 1 / (tv.knob("z") + 1)})],
    ids=str,
)  # fmt: skip
def test_coefficients_are_copied_and_pickled(c):
    for copied in (copy.copy(c), copy.deepcopy(c), pickle.loads(pickle.dumps(c))):
        assert copied == c and hash(copied) == hash(c) and str(copied) == str(c) and copied.knobs == c.knobs
        assert copied.reduced(Place("ab", Fraction(1, 3))) == c.reduced(Place("ab", Fraction(1, 3)))


# ---- texts --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("c", "text"),
    [
        (ZERO, "0"), (ONE, "1"), (-X, "-x"), (0.4 * X * only("a"), '0.4*x*only("a")'), (X - 0.5, "-0.5 + x"),
        (-X - Y / 3, "-x - 1/3*y"), (X + Y, "x + y"), (without("a"), '1 - only("a")'), (X * X, "x*x"),
        (per({"a": 0.5, "*": X}), 'per({"a": 0.5, "*": x})'), (layers(0, X), "layers(0, x)"),
        (layers(1, outside=-X), "layers(1, outside=-x)"), (2 / (X + 1), "2*1/(1 + x)"),
        (only("b", "a"), 'only("a", "b")'),
    ],
    ids=str,
)  # fmt: skip
def test_a_coefficient_is_written_as_a_recipe_reads_it(c, text):
    assert str(c) == text
    source = tv.from_arrays({"w": np.ones(1, np.float32)}, "s")
    assert not c or tv.parse(f"({text})*s", s=source) == c * source


def test_the_repr_says_the_text():
    assert repr(X + 1) == str(X + 1) == "1 + x"


def test_summands_are_joined_by_their_signs():
    assert (
        monomial_text((Knob("x"), Knob("y")), Fraction(-1, 2)) == "-0.5*x*y" and monomial_text((), ONE.constant) == "1"
    )
    assert joined(["a"]) == "a" and joined(["-a", "-b", "c"]) == "-a - b + c"


# ---- what a recipe calls -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["for", "lambda", "a b", "1", "", "a.b"])
def test_a_knob_has_the_name_of_a_variable(name):
    with pytest.raises(RecipeError, match=f"must be an identifier, and no keyword of Python, not {name!r}"):
        knob(name)
    assert knob("\ufb01x") == knob("fix") and str(knob("λ")) == "λ"


@pytest.mark.parametrize("patterns", [(), ("",), ("a", 1), (None,)])
def test_a_filter_needs_patterns(patterns):
    for call in (only, without):
        with pytest.raises(RecipeError, match='patterns are texts such as "model'):
            call(*patterns)


@pytest.mark.parametrize(
    ("table", "says"),
    [({}, "per needs a table"), (5, "per needs a table"), ([("a", 1)], "per needs a table"), ({"": 1}, "patterns are"),
     ({1: 1}, "patterns are"), ({"a": "1"}, "must be a number, not str"), ({"a": None}, "must be a number")],
)  # fmt: skip
def test_a_table_needs_patterns_and_numbers(table, says):
    with pytest.raises(RecipeError, match=says):
        per(table)


def test_a_gradient_needs_points():
    with pytest.raises(RecipeError, match=r"layers needs points: layers\(0.2, 0.8\)"):
        layers()
    with pytest.raises(RecipeError, match="must be a number"):
        layers("a")
    with pytest.raises(RecipeError, match="must be a number"):
        layers(1, outside="a")


def test_a_factor_shows_what_it_was_given_and_nothing_that_is_worked_out_from_it():
    for factor, members in ((Per((("a", X),)), "table"), (Layers((X, Y)), "points, outside"), (Inverse(X), "divisor")):
        assert re.findall(r"(\w+)=", repr(factor)) == members.split(", ")


def test_a_table_within_what_divides_in_a_table_has_its_value():
    two, place = per({"a*": 2, "*": 5}), Place("ab")
    assert per({"a*": 1 / two, "*": 0}).at(place) == Fraction(1, 2)
    assert per({"a*": 1 / (X + two), "*": 0}).reduced(place) == 1 / (X + 2)
    assert layers(3 / (X * two), outside=1 / (1 / (two + Y))).reduced(place) == 1 / (1 / (2 + Y))
