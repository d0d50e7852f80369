"""Numbers are the decimals that were written, and a number that cannot be one of a recipe is refused by its kind."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvec.errors import RecipeError
from taskvec.numbers.rationals import LONGEST_NUMBER, as_float, bounded, exact, number_text


@pytest.mark.parametrize(
    ("number", "value"),
    [(0.1, "1/10"), (-2, "-2"), (1e-3, "1/1000"), (Fraction(1, 3), "1/3"), (np.float32(0.5), "1/2"),
     (np.int8(-7), "-7"), (np.float64(0.3), "3/10"), (0.0, "0"), (-0.0, "0"), (5e-324, "5e-324"), (1e300, "1e300")],
)  # fmt: skip
def test_a_number_is_the_rational_that_its_text_says(number, value):
    rational = exact(number)
    assert type(rational) is Fraction and rational == Fraction(value)


@pytest.mark.parametrize(
    ("number", "says"),
    [(float("nan"), "must be finite, not nan"), (float("-inf"), "must be finite, not -inf"),
     (np.float32("inf"), "must be finite, not inf"), (True, "must be a number, not bool"),
     (np.bool_(True), "must be a number, not bool"), ("0.3", "must be a number, not str"),
     (None, "must be a number, not NoneType"), (1j, "must be a number, not complex")],
)  # fmt: skip
def test_what_is_no_finite_number_is_named(number, says):
    with pytest.raises(RecipeError, match=says):
        exact(number)


@pytest.mark.parametrize("turn", [lambda n: Fraction(n), lambda n: Fraction(1, n), lambda n: Fraction(-n)])
def test_a_numerator_or_a_denominator_has_at_most_so_many_bits(turn):
    assert LONGEST_NUMBER == 8192
    most = turn(2**LONGEST_NUMBER - 1)
    assert bounded(most) is most and exact(most) == most
    for refused in (bounded, exact):
        with pytest.raises(RecipeError, match="a coefficient has more than 8192 bits"):
            refused(turn(2**LONGEST_NUMBER))


def test_a_number_that_no_float_can_hold_is_refused_where_a_float_is_needed():
    assert as_float(Fraction(1, 3)) == 1 / 3 and as_float(Fraction(10**308)) == 1e308
    with pytest.raises(RecipeError, match="too large for a float"):
        as_float(Fraction(10**309))


@pytest.mark.parametrize(
    ("value", "text"),
    [("2/5", "0.4"), ("-2", "-2"), ("1/3", "1/3"), ("0", "0"), ("10", "10"), ("1/10", "0.1"), ("-1/7", "-1/7"),
     ("1e300", "1e+300"), ("1e-9", "1e-09"), (f"{10**400}", f"{10**400}"), (f"{10**400}/3", f"{10**400}/3"),
     ("1/1" + "0" * 400, "1/1" + "0" * 400), ("100000000000000000001", "100000000000000000001")],
)  # fmt: skip
def test_a_number_is_written_as_the_shortest_text_that_says_it_exactly(value, text):
    assert number_text(Fraction(value)) == text


@given(st.one_of(st.fractions(), st.floats(allow_nan=False, allow_infinity=False).map(exact)))
def test_the_text_is_read_back_as_the_same_number(value):
    assert Fraction(number_text(value)) == value
