"""The arithmetic of a block, on raw buffers: `run`, `lowrank`, `philox` and `prune`, and short forms of `run`.

The functions are those of compiled.py, or of in_numpy.py where there are no compiled ones; both give the same bits.
What they compute is said in operations.py, at `Kernels`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskvec.numbers import compiled
from taskvec.numbers.dtypes import BITS
from taskvec.numbers.operations import PAIR, SUM, Buffer, Input, Kernels, Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

COMPILED = compiled.AVAILABLE


def _implementation() -> Kernels:
    """The compiled kernels, or those of numpy. Their module is imported only where there are no compiled ones."""
    if COMPILED:
        return compiled
    from taskvec.numbers import in_numpy

    return in_numpy


_kernels = _implementation()
run, lowrank, philox, prune = _kernels.run, _kernels.lowrank, _kernels.philox, _kernels.prune


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

    inputs, count = [np.asarray(a, np.float32, order="C") for a in arrays], len(arrays)
    out = np.empty(inputs[0].shape, np.float32)
    sums = [Op(SUM, (k,), (1.0,)) for k in range(count)]
    ops = [*sums, Op(code, tuple(~k for k in range(count)), tuple(numbers)), Op(SUM, (~count,), (1.0,))]
    run(out, "F32", inputs, ["F32"] * count, ops, out.size, start)
    return out


def pair(x: Buffer, y: Buffer, n: int) -> tuple[float, int, int]:
    """(dot product in float64, entries nonzero in both, those of them with opposite signs) of two float32 buffers."""
    sink = memoryview(bytearray(24)).cast("d")
    run(None, "F32", (x, y), ("F32", "F32"), (Op(PAIR, (0, 1), (), sink),), n)
    return sink[0], int(sink[1]), int(sink[2])


def itemsize(dtype: str) -> int:
    """Bytes of an element of an arithmetic dtype."""
    return BITS[dtype] // 8
