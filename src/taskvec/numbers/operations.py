"""What the kernels can do to a tile of numbers, as data: the codes, and `Op`, one operation with its sources."""

from typing import Any, NamedTuple

Buffer = Any  # anything with the buffer protocol, contiguous
Input = Any  # a Buffer, or (file descriptor, offset)
WINDOW = 256 << 10  # bytes of a file that are read at once: few calls, and windows of a few files stay in the cache
TILE = 1024  # elements that go through all operations while they are in the first-level cache
RESULT = 4 * TILE  # bytes of scratch memory for what an operation makes of a tile

MOST_INPUTS = 4096  # of one sum, as in _tiles.h
NONFINITE, OVERFLOWED = 1, 2  # flags of `run`

# Operations on float32 tiles, x_0, x_1, ... their sources. The first six have results. Only SUM and AROUND take inputs
# of any dtype, and the last operation of an output is one of them.
SUM = 0  # sum_k c_k x_k in order; numbers c
AROUND = 1  # a sum around the pivot x_0: sum_{0<k<points} c_k (x_k - x_0) + sum_{k>=points} c_k x_k, in order, without
# k = onto; then + mass x_onto, unless mass is 0. numbers (points, onto, mass, c); onto is 0 or the last. What is 0
# is not added: -0 stays -0. Where that is not finite, sum_k c_k x_k in order: the difference of two infinities is NaN,
# and that of two large numbers may overflow where their mean does not
KEEP = 2  # x where low <= |x| < high, else 0; numbers (low, high, quota, spared). Of the entries of this run that have
# |x| == low only the first `quota` stay, of those that have |x| == high only the first `spared` go; inf: all
DROP = 3  # scale x where the entry's 32-bit draw is at least `least`, else 0; numbers (k0, k1, stream, least, scale)
MASK = 4  # scale x where the entry's bit is set, else 0; numbers (scale). Its sink is read: of the i-th entry of this
# run the bit is bit i mod 8, from the lowest, of byte i div 8
ELECT = 5  # the sum of the entries that agree with the sign of the sum (of the signs, by_count), with `mean` divided
# by the sum of their weights, 1 where that is 0; numbers (by_count, mean, plus, weights); plus: a sum of 0 elects plus
COUNT = 6  # sink[|x|'s bits >> 16] += 1, 2**15 counts; with numbers (first, bins), first >= 0, of those whose
# bits >> 16 lie in first .. first + bins, sink[bits - (first << 16)], bins << 16 counts; one more for those above
EQUAL = 7  # sink[i] += how many of the i-th `span` of elements have |x| == value, and at the end of all how many
# have |x| > value; numbers (value, span); uint32
SIZE = 8  # sink[0] = sum |x|; float64, where counts are uint32
PAIR = 9  # sink = dot product of two, entries neither 0 nor NaN in both, those of them of opposite signs; float64
NONZERO = 10  # sink: a bit an entry, as MASK reads them, set where x is anything but +0
DOT = 11  # sink[0] = dot product of two; float64. The first number of PAIR alone
# The names of these operations, each at the place that is its code.
NAMES = ("SUM", "AROUND", "KEEP", "DROP", "MASK", "ELECT", "COUNT", "EQUAL", "SIZE", "PAIR", "NONZERO", "DOT")


class Op(NamedTuple):
    """One operation. sources: k is the k-th input, ~k the result of the k-th operation, an earlier one."""

    code: int
    sources: tuple[int, ...]
    numbers: tuple[float, ...] = ()
    sink: Buffer = None
