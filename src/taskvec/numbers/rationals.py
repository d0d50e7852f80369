"""Exact rational numbers: coefficients are the decimals that were written, so that 0.1 is 1/10."""

import math
from fractions import Fraction
from numbers import Rational, Real

from taskvec.errors import RecipeError

Number = int | float | Fraction
LONGEST_NUMBER = 8192  # bits of a numerator or denominator


def exact(number: Number | Real) -> Fraction:
    """The rational number that was written: 0.1 gives 1/10. Raises RecipeError for NaN, infinities and anything that
    is not a number."""
    if isinstance(number, Rational) and not isinstance(number, bool):
        return bounded(Fraction(int(number.numerator), int(number.denominator)))  # numpy has integers of its own
    if not isinstance(number, Real) or isinstance(number, bool):
        raise RecipeError(f"a coefficient must be a number, not {type(number).__name__}")
    if not math.isfinite(number):
        raise RecipeError(f"a coefficient must be finite, not {float(number)}")
    return Fraction(repr(float(number)))


def bounded(value: Fraction) -> Fraction:
    """The value itself. Raises RecipeError if its numerator or denominator is too long to compute with."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > LONGEST_NUMBER:
        raise RecipeError(f"a coefficient has more than {LONGEST_NUMBER} bits")
    return value


def as_float(value: Fraction) -> float:
    """The nearest float. Raises RecipeError if the value is too large for one."""
    try:
        return float(value)
    except OverflowError:
        raise RecipeError("a coefficient is too large for a float") from None


def number_text(value: Fraction) -> str:
    """The shortest text that is exactly this number: `0.4`, `-2`, `1/3`."""
    fraction = f"{value.numerator}/{value.denominator}".removesuffix("/1")
    try:
        decimal = repr(float(value))
    except OverflowError:
        return fraction
    return decimal.removesuffix(".0") if Fraction(decimal) == value else fraction
