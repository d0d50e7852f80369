"""The kernels in C (`_kernels.c`): dtypes get their codes, operations become plain tuples, and memory is handed over.

When taskvec was installed without a C compiler there is no `_kernels`, and AVAILABLE is False.
"""

from collections.abc import Sequence
from typing import Any

from taskvec.numbers.dtypes import CODES
from taskvec.numbers.operations import MOST_INPUTS, NAMES, NONFINITE, OVERFLOWED, RESULT, TILE, Buffer, Input, Op

try:
    from taskvec.numbers import _kernels
except ImportError:  # there was no compiler when this was installed
    _kernels = None  # type: ignore[assignment]

AVAILABLE = _kernels is not None


def layout() -> dict[str, Any]:
    """What the compiled kernels and this package must agree on: the codes of operations and dtypes, and sizes."""
    return {
        "OPERATIONS": " ".join(NAMES), "DTYPES": " ".join(CODES), "TILE": TILE, "MOST_INPUTS": MOST_INPUTS,
        "NONFINITE": NONFINITE, "OVERFLOWED": OVERFLOWED,
    }  # fmt: skip


def require_same_layout(module: object) -> None:
    """Raise ImportError for kernels that were built from another version: they would take one operation for another."""
    built = {key: getattr(module, key, None) for key in layout()}
    built = {key: value.strip() if isinstance(value, str) else value for key, value in built.items()}
    if built != layout():
        different = [key for key, value in layout().items() if built[key] != value]
        raise ImportError(
            f"taskvec's compiled kernels ({getattr(module, '__file__', '?')}) were built from another version "
            f"({', '.join(different)}): install taskvec again (pip install --force-reinstall taskvec, or -e . in a "
            "clone)"
        )


if AVAILABLE:
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
    """`Kernels.run` in C."""
    codes = tuple(CODES[d] for d in dtypes)
    memory = scratch or bytearray(RESULT * len(ops))
    return _kernels.run(out, CODES[dtype], tuple(inputs), codes, tuple(map(tuple, ops)), start, n, memory)


def lowrank(out: Buffer, b: Buffer, a: Buffer, start: int, n: int, cols: int, rank: int, scale: float) -> None:
    """`Kernels.lowrank` in C."""
    _kernels.lowrank(out, b, a, start, n, cols, rank, scale)


def philox(out: Buffer, n: int, first: int, stream: int, key: tuple[int, int]) -> None:
    """`Kernels.philox` in C."""
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
    """`Kernels.prune` in C."""
    _kernels.prune(out, x, rows, width, start, stream, *key, density, epsilon, scale, bits, sums)
