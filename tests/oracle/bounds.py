"""Values with a bound for each entry: what the exact result is, and how far float32 may be from it.

A value is a pair (v, e): the exact result is v, and what taskvec computes in float32 lies within v - e .. v + e. The
bounds follow from the arithmetic that docs/numbers.md states, step by step (u = 2**-24, or 2**-53 in float64):

1. A sum of n summands c x, each rounded, is off by at most (n + 2) u sum |c x|. Around a pivot the summands are the
   differences, so where nobody moved e = 0 and the bits must be those of the pivot. Any of the pivots that the rules
   allow counts.
2. A single difference of numbers whose exact difference is a float32 has e = 0.
3. A method passes e on. Where it decides (a threshold, a sign, a vote), an entry within e of the decision may go
   either way: its value is the interval from one outcome to the other. With e = 0 there is one outcome, ties included.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

U32, U64 = 2.0**-24, 2.0**-53
SLACK = 1 + 2.0**-8  # for products of several roundings, which the bounds write as sums
LEAST = 2.0**-149


class Undecided(Exception):
    """Directions cancel out, or nearly so: there is no result, or rounding decides it."""


@dataclass(frozen=True)
class Val:
    """The exact values, and how far float32 may be from them."""

    v: np.ndarray
    e: np.ndarray

    @property
    def lo(self):
        return self.v - self.e

    @property
    def hi(self):
        return self.v + self.e

    @property
    def size(self):
        """Bounds of the magnitudes: (at least, at most)."""
        return np.maximum(np.abs(self.v) - self.e, 0), np.abs(self.v) + self.e


def exactly(v):
    v = np.asarray(v, np.float64)
    return Val(v, np.zeros(v.shape))


def between(lo, hi):
    """Everything from lo to hi."""
    return Val((lo + hi) / 2, np.where(lo == hi, 0, (hi - lo) / 2 * SLACK))


def either(sure, maybe, val):
    """val where it is sure, 0 where it may not be, and what lies between them elsewhere."""
    unsure = maybe & ~sure
    v = np.where(sure, val.v, np.where(unsure, val.v / 2, 0))
    return Val(v, np.where(sure, val.e, np.where(unsure, np.abs(val.v) / 2 + val.e, 0)))


def rounded(val):
    """The same once it stands in a float32 array."""
    with np.errstate(over="ignore"):
        inexact = (val.e > 0) | (val.v.astype(np.float32).astype(np.float64) != val.v)
    return Val(val.v, val.e + np.where(inexact, U32 * np.abs(val.v), 0))


def times(val, low, high):
    middle, half = (low + high) / 2, (high - low) / 2
    v = val.v * middle
    return Val(v, (val.e * high + np.abs(val.v) * half + 2 * U32 * np.abs(v)) * SLACK)


# ---- sums ----------------------------------------------------------------------------------------------------------
def as_long(number):
    number = Fraction(number)
    return np.longdouble(number.numerator) / np.longdouble(number.denominator)


def total(terms, wide=False):
    """sum c x around a pivot. terms: (c, Val, whether it is a point). See the top of this file, and docs/numbers.md."""
    u = U64 if wide else U32
    numbers = [(as_long(c) if isinstance(c, Fraction | int) else c, x, point, c) for c, x, point in terms]
    given = sum(abs(float(c)) * x.e for c, x, *_ in numbers)
    points = [t for t in numbers if t[2]]
    vectors = [t for t in numbers if not t[2]]
    v = sum(c * x.v.astype(np.longdouble) for c, x, *_ in vectors)
    if points:
        first = points[0][1].v.astype(np.longdouble)
        v = v + sum(c * (x.v - first) for c, x, *_ in points) + _mass(points) * first
    if len(points) < 2:
        e = small([(c, x.v) for c, x, *_ in numbers], u)
    else:
        e = np.max([_around(p, a, points, vectors, v, u) for p, a in _pivots(points)], axis=0)
    return Val(np.asarray(v, np.float64), e * SLACK + given * SLACK)


def _mass(points):
    """What the numbers of points add up to; of floats, whose sum is rounded, 0 or 1 if it is that."""
    mass = sum(t[3] for t in points)
    if isinstance(mass, Fraction | int):
        return as_long(mass)
    return next((np.longdouble(whole) for whole in (0, 1) if abs(mass - whole) < 2.0**-48), mass)


def _pivots(points):
    """The (pivot, point that is added as it is) that the rules allow."""
    mass = sum(t[3] for t in points)
    near = (lambda c: c == mass) if isinstance(mass, Fraction | int) else (lambda c: abs(c - mass) < 1e-9)
    aparts = [t for t in points if near(t[3])] if len(points) > 2 else []
    floats = not isinstance(mass, Fraction | int)
    for apart in aparts + [None] * (floats or not aparts):
        around = [t for t in points if t is not apart]
        largest = max(abs(t[0]) for t in around)
        for pivot in around:
            if abs(pivot[0]) >= largest * (1 - 1e-9):
                yield pivot, apart


def _around(pivot, apart, points, vectors, v, u):
    around = [t for t in points if t is not apart and t is not pivot]
    base = pivot[1].v.astype(np.longdouble)
    summands = [(c, x.v - base) for c, x, *_ in around] + [(c, x.v) for c, x, *_ in vectors]
    e = small(summands, u)
    moved = sum(abs(c * d) for c, d in summands) > 0
    mass = _mass(points) if apart is None else apart[0]
    last = pivot[1].v if apart is None else apart[1].v
    if not mass:
        return e
    scaled = 0 if abs(mass) == 1 else 2 * u * np.abs(mass * last)
    return np.asarray(e + np.where(moved, u * np.abs(v), 0) + scaled, np.float64)


def small(summands, u):
    """How far a sum of products is off, each product and each addition rounded."""
    whole = np.asarray(sum(abs(c * x) for c, x in summands), np.float64)
    if len(summands) == 1 and abs(summands[0][0]) == 1:
        exact = np.asarray(summands[0][1])
        kind = np.float64 if u == U64 else np.float32
        with np.errstate(over="ignore"):
            return np.where(exact.astype(kind).astype(np.longdouble) == exact, 0, u * whole)
    return np.where(whole > 0, (len(summands) + 2) * (u * whole + LEAST), 0)


# ---- the whole of an output ----------------------------------------------------------------------------------------
PRECISION = {"F64": (53, -1022, 1023), "F32": (24, -126, 127), "F16": (11, -14, 15), "BF16": (8, -126, 127)}


def nearest(x, dtype):
    """Float64 numbers rounded once, to nearest even, to a dtype."""
    bits, low, _ = PRECISION[dtype]
    if dtype == "F64":
        return x
    _, power = np.frexp(x)
    step = np.maximum(power - 1, low) - (bits - 1)
    return np.ldexp(np.rint(np.ldexp(x, -step)), step)
