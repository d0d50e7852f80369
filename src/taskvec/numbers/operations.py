"""What the kernels can do to a tile of numbers, as data, and the protocol that every implementation of them has.

`Op` is one operation with its sources. `Kernels` is the protocol; compiled.py implements it in C, in_numpy.py in numpy.
Numbers follow these rules everywhere, so that all implementations give the same bits. Sums are held in float32, or in
float64 if a source or the output is float64. They are added up in the order given, and every operation is rounded on
its own: there is no fused multiply-add. The end is one rounding to nearest even.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

Buffer = Any  # anything with the buffer protocol, contiguous
Input = Any  # a Buffer, or (file descriptor, offset)
WINDOW = 256 << 10  # bytes of a file that are read at once: few calls, and windows of a few files stay in the cache
TILE = 1024  # elements that go through all operations while they are in the first-level cache
RESULT = 4 * TILE  # bytes of scratch memory for what an operation makes of a tile

MOST_INPUTS = 4096  # of one sum, as in _tiles.h
NONFINITE, OVERFLOWED = 1, 2  # flags of `run`

# Operations on float32 tiles, x_0, x_1, ... their sources. The first six have results. Only SUM and AROUND take inputs
# of any dtype, and the last operation of an output is one of them.
SUM = 0  # sum_k c_k x_k in order; numbers c. The sum of nothing is 0
# AROUND is a sum around the pivot x_0. Its numbers are (points, onto, mass, c). In order it adds c_k (x_k - x_0) for
# 0 < k < points and c_k x_k for k >= points. The last source is left out if its place is `onto`; otherwise onto is 0.
# If mass is not 0, the result is mass * x_onto plus this sum. A sum of 0 is not added, so that -0 stays -0.
# Where the result is not finite it is sum_k c_k x_k instead, in order: the difference of two infinities is NaN, and
# that of two large numbers may overflow where their mean does not.
AROUND = 1
# KEEP is x where low <= |x| < high, else 0. Its numbers are (low, high, quota, spared). Of the entries of this run with
# |x| == low only the first `quota` stay; of those with |x| == high only the first `spared` go. With inf it is all.
KEEP = 2
# DROP is scale x where the entry's 32-bit draw is at least `least`, else 0; numbers (k0, k1, stream, least, scale). The
# upper half of the draw of entry e of a tensor is half word e mod 8 of counter e div 8 of a stream of Philox under the
# key (k0, k1), and its lower half is that of the next stream.
DROP = 3
# MASK is scale x where the entry's bit is set, else 0; numbers (scale). Its sink is read: the bit of the i-th entry of
# this run is bit i mod 8, from the lowest, of byte i div 8.
MASK = 4
# ELECT is the sum of the entries that agree with the sign of the sum of all, or of the sum of their signs (by_count).
# With `mean` it is divided by the sum of the weights of those that agree, or by 1 where that is 0. With `plus` a sum of
# 0 elects plus; otherwise it elects nobody. Its numbers are (by_count, mean, plus, weights).
ELECT = 5
# COUNT has numbers (first, bins). With first < 0: sink[|x|'s bits >> 16] += 1, with 2**15 counts. Otherwise it looks at
# those whose bits >> 16 lie in first .. first + bins - 1: sink[bits - (first << 16)] += 1, with bins << 16 counts. One
# more count at the end is of those that lie above. Counts are uint32.
COUNT = 6
# EQUAL has numbers (value, span), span a multiple of TILE. sink[i] += how many elements of the i-th span have
# |x| == value, and one more count at the end is of all with |x| > value. Counts are uint32.
EQUAL = 7
SIZE = 8  # sink[0] = sum |x|; float64, in LANES
# PAIR fills its sink with (the dot product of two, how many entries are neither 0 nor NaN in both, how many of these
# have opposite signs); float64.
PAIR = 9
NONZERO = 10  # sink: a bit an entry, as MASK reads them, set where x is anything but +0
DOT = 11  # sink[0] = dot product of two; float64, in LANES. The first number of PAIR alone
# The names of these operations, each at the place that is its code.
NAMES = ("SUM", "AROUND", "KEEP", "DROP", "MASK", "ELECT", "COUNT", "EQUAL", "SIZE", "PAIR", "NONZERO", "DOT")

# A sum in float64 over many elements has 16 parts: the k-th element is added to the (k mod 16)-th part, and the parts
# are added up at the end, in order.
LANES = 16


class Op(NamedTuple):
    """One operation. sources: k is the k-th input, ~k the result of the k-th operation, an earlier one."""

    code: int
    sources: tuple[int, ...]
    numbers: tuple[float, ...] = ()
    sink: Buffer = None


class Kernels(Protocol):
    """An implementation of the kernels is a module with these functions. All buffers are contiguous.

    tests/numbers/test_contract.py holds every implementation to the same bits."""

    AVAILABLE: bool  # whether this installation, on this machine, has it

    def run(
        self,
        out: Buffer,
        dtype: str,
        inputs: Sequence[Input],
        dtypes: Sequence[str],
        ops: Sequence[Op],
        n: int,
        start: int = 0,
        scratch: Buffer = b"",
    ) -> int:
        """Carry out operations on the elements start .. start+n of a tensor, tile by tile. The last one is a sum, which
        is encoded as `dtype` into `out`; with out=None all that counts are sinks.

        An input is a buffer with these elements, or (file descriptor, offset). Those of a file are read in pieces
        through `scratch`, which also has RESULT bytes for each operation. The numbers of an operation are rounded to
        the dtype of its sum first. Where a source of KEEP, DROP, MASK or ELECT is NaN or Inf, the result is NaN.

        Returns flags: NONFINITE if a number written is NaN or Inf, which it is whenever an input is; OVERFLOWED if a
        finite one has no finite value in `dtype`. Both are written as they are. Raises EOFError("input k") where a file
        ends early, and OSError with the filename "input k".
        """

    def lowrank(
        self, out: Buffer, b: Buffer, a: Buffer, start: int, n: int, cols: int, rank: int, scale: float
    ) -> None:
        """out = (scale * B @ A).ravel()[start : start + n], all float32; B (rows, rank), A (rank, cols), row-major.

        Every element is summed over k = 0 .. rank-1 in that order, so any split of the rows gives the same bits.
        """

    def philox(self, out: Buffer, n: int, first: int, stream: int, key: tuple[int, int]) -> None:
        """Philox4x32-10 (Salmon et al., SC 2011) under two 32-bit key words: four uint32 for each counter
        (first + i, stream), i < n. Both halves of a counter have 64 bits."""

    def prune(
        self,
        out: Buffer | None,
        x: Buffer,
        rows: int,
        width: int,
        start: int,
        stream: int,
        key: tuple[int, int],
        density: float,
        epsilon: float,
        scale: float,
        bits: Buffer | None = None,
        sums: Buffer | None = None,
    ) -> None:
        """MagPrune of x (rows, width), float32. Each row by itself, in three steps:

        1. An entry's rank is its place among the |x| of its row, 0 the smallest; equal ones have the mean of their
           places.
        2. p = density - epsilon/2 + epsilon * rank / (width-1), in float64, clipped to [FLT_MIN, 1] and rounded to
           float32. In a row of one the divisor is 1.
        3. out = x / p, or x * scale if scale is not 0, where the entry's draw / 2**32 < p; else 0.

        Draws are those of DROP for the positions `start` and on. bits: a bit an entry, the lowest first, 0 where out is
        +0; for one row, or for rows of whole bytes. sums: sum |x| and sum |out| are added to two float64, row by row.
        """
