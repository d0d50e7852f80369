"""The arithmetic of a block, on raw buffers: `run` and its short forms, `lowrank` (rows of B @ A), `philox`, `prune`.

Compiled in `_kernels.c`; where that could not be built, in_numpy.py gives the same bits, slower. Rules: float32
accumulation in the order given (float64 when a source or the output is float64), every operation rounded on its own,
one rounding to nearest even at the end. All functions release the GIL for most of their time.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskvec.numbers.dtypes import BITS, CODES
from taskvec.numbers.operations import (
    MOST_INPUTS,
    NAMES,
    NONFINITE,
    OVERFLOWED,
    PAIR,
    RESULT,
    SUM,
    TILE,
    Buffer,
    Input,
    Op,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

try:
    from taskvec.numbers import _kernels
except ImportError:  # no compiler when this was installed
    _kernels = None  # type: ignore[assignment]

COMPILED = _kernels is not None


def layout() -> dict[str, Any]:
    """What the compiled kernels and this package must agree on: the codes of operations and dtypes, and sizes."""
    return {
        "OPERATIONS": " ".join(NAMES), "DTYPES": " ".join(CODES), "TILE": TILE, "MOST_INPUTS": MOST_INPUTS,
        "NONFINITE": NONFINITE, "OVERFLOWED": OVERFLOWED,
    }  # fmt: skip


def require_same_layout(compiled: object) -> None:
    """Raise ImportError for kernels that were built from another version: they would take one operation for another."""
    theirs = {key: getattr(compiled, key, None) for key in layout()}
    said = {key: value.strip() if isinstance(value, str) else value for key, value in theirs.items()}
    if said != layout():
        apart = [key for key, value in layout().items() if said[key] != value]
        raise ImportError(
            f"taskvec's compiled kernels ({getattr(compiled, '__file__', '?')}) were built from another version "
            f"({', '.join(apart)}): install taskvec again (pip install --force-reinstall taskvec, or -e . in a clone)"
        )


if COMPILED:
    require_same_layout(_kernels)


def run(
    out: Buffer,
    dtype: str,
    inputs: Sequence[Input],
    dtypes: Sequence[str],
    ops: Sequence[Op],
    n: int,
    start: int = 0,
    scratch: Buffer = b"",
) -> int:
    """The operations on elements start .. start+n of a tensor, tile by tile; the last one, a sum, is encoded as `dtype`
    into `out`, unless that is None and all that counts are sinks.

    An input is a buffer, or (file descriptor, offset): then its elements are read through `scratch`, which also holds
    RESULT bytes for each operation; windows of WINDOW bytes stay in the cache. Numbers are rounded to the accumulator's
    dtype first. Where a sum that an operation works on is NaN or Inf, so is, as NaN, what it makes of that. Returns
    flags: NONFINITE if a number written is NaN or Inf, which it is whenever an input is; OVERFLOWED if a finite one has
    no finite value in `dtype`. Both are written as they are. Raises EOFError("input k") at an early end, OSError.
    """
    if _kernels is None:
        from taskvec.numbers.in_numpy import run_numpy

        return run_numpy(out, dtype, inputs, dtypes, ops, n, start)
    codes = tuple(CODES[d] for d in dtypes)
    memory = scratch or bytearray(RESULT * len(ops))
    return _kernels.run(out, CODES[dtype], tuple(inputs), codes, tuple(map(tuple, ops)), start, n, memory)


def combine(
    out: Buffer,
    dtype: str,
    inputs: Sequence[Input],
    dtypes: Sequence[str],
    scales: Sequence[float],
    n: int,
    scratch: Buffer = b"",
) -> int:
    """out[i] = encode(sum_k scales[k] * decode(inputs[k][i])), i < n, summed in order k = 0, 1, ...: one SUM."""
    return run(out, dtype, inputs, dtypes, (Op(SUM, tuple(range(len(inputs))), tuple(scales)),), n, 0, scratch)


def apply(code: int, arrays: "Sequence[NDArray[Any]]", numbers: Sequence[float], start: int = 0) -> "NDArray[Any]":
    """What an operation makes of float32 arrays of one shape; `start`: the position of their first element."""
    import numpy as np

    given, many = [np.asarray(a, np.float32, order="C") for a in arrays], len(arrays)
    found = np.empty(given[0].shape, np.float32)
    sums = [Op(SUM, (k,), (1.0,)) for k in range(many)]
    ops = [*sums, Op(code, tuple(~k for k in range(many)), tuple(numbers)), Op(SUM, (~many,), (1.0,))]
    run(found, "F32", given, ["F32"] * many, ops, found.size, start)
    return found


def pair(x: Buffer, y: Buffer, n: int) -> tuple[float, int, int]:
    """(dot product in float64, entries nonzero in both, those of them with opposite signs) of two float32 buffers."""
    found = memoryview(bytearray(24)).cast("d")
    run(None, "F32", (x, y), ("F32", "F32"), (Op(PAIR, (0, 1), (), found),), n)
    return found[0], int(found[1]), int(found[2])


def lowrank(out: Buffer, b: Buffer, a: Buffer, start: int, n: int, cols: int, rank: int, scale: float) -> None:
    """out = (scale * B @ A).ravel()[start : start + n], all float32; B (rows, rank), A (rank, cols), row-major.

    Every element is summed over k = 0 .. rank-1 in that order, so any split of the rows gives the same bits.
    """
    if _kernels is None:
        from taskvec.numbers.in_numpy import lowrank_numpy

        lowrank_numpy(out, b, a, start, n, cols, rank, scale)
    else:
        _kernels.lowrank(out, b, a, start, n, cols, rank, scale)


def philox(out: Buffer, n: int, first: int, stream: int, key: tuple[int, int]) -> None:
    """Philox4x32-10 under two 32-bit key words: four uint32 for each counter (first + i, stream), i < n."""
    if _kernels is None:
        from taskvec.numbers.in_numpy import philox_numpy

        philox_numpy(out, n, first, stream, key)
    else:
        _kernels.philox(out, n, first, stream, *key)


def prune(
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
    """Row by row p = density - epsilon/2 + epsilon * rank / (width-1), clipped to [tiny, 1], by the rank of |x| from
    the smallest, equal ones with the mean of their ranks; out = x / p, or x * scale if scale is not 0, where
    draw / 2**32 < p, else 0. float32.

    Draws are those of DROP for the positions `start` and on. bits: a bit an entry, the lowest first, 0 where out is +0;
    for more than one row of whole bytes. sums: to two float64 sum |x| and sum |out| are added, row by row."""
    if _kernels is None:
        from taskvec.numbers.in_numpy import prune_numpy

        prune_numpy(out, x, rows, width, start, stream, key, density, epsilon, scale, bits, sums)
    else:
        _kernels.prune(out, x, rows, width, start, stream, *key, density, epsilon, scale, bits, sums)


def itemsize(dtype: str) -> int:
    """Bytes of an element of an arithmetic dtype."""
    return BITS[dtype] // 8
