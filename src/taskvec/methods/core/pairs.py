"""Sums over pairs of vectors: dot products, and how many entries are nonzero in both and differ in sign.

Methods (passes.py) and `compare` add them up part by part.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.algebra.program import Linear, Program
from taskvec.numbers.operations import PAIR

if TYPE_CHECKING:
    from numpy.typing import NDArray

Pair = tuple[int, int]  # the numbers of two vectors, i <= j
MOST_AT_ONCE = 8192  # pairs that a kernel multiplies in one run


class PairSum(NamedTuple):
    """Sums over some of the entries of two vectors, x and y."""

    dot: float  # sum x_i y_i, in float64
    both: int  # entries that are nonzero in both
    against: int  # entries that are nonzero in both and differ in sign


PairSums = dict[Pair, PairSum]


def pairs_of(n: int) -> list[Pair]:
    """Every pair i <= j of n vectors."""
    return [(i, j) for i in range(n) for j in range(i, n)]


def square(upper: Mapping[Pair, Any], n: int) -> list[list[Any]]:
    """The symmetric n x n table with the values of the pairs i <= j."""
    return [[upper[min(i, j), max(i, j)] for j in range(n)] for i in range(n)]


def products(
    code: int, wanted: Sequence[Pair], vectors: Sequence[Linear], start: int, count: int, scratch: memoryview
) -> "NDArray[Any]":
    """What the operation DOT or PAIR measures of these pairs of vectors over a range of elements of one tensor:
    (pairs, 1 or 3) float64. scratch: memory for the vectors in a program."""
    import numpy as np

    sums = np.zeros((len(wanted), 3 if code == PAIR else 1))
    for at in range(0, len(wanted), MOST_AT_ONCE):
        program = Program(start, count, scratch)
        refs = [program.sum(linear) for linear in vectors]
        for sink, (i, j) in zip(sums[at : at + MOST_AT_ONCE], wanted[at : at + MOST_AT_ONCE], strict=True):
            program.add(code, (refs[i], refs[j]), sink=sink)
        program.run()
    return sums


def pair_sums(
    wanted: Sequence[Pair], vectors: Sequence[Linear], start: int, count: int, scratch: memoryview
) -> PairSums:
    """The sums of these pairs of vectors over a range of elements of one tensor."""
    rows = products(PAIR, wanted, vectors, start, count, scratch).tolist()
    return {
        pair: PairSum(dot, int(both), int(against)) for pair, (dot, both, against) in zip(wanted, rows, strict=True)
    }
