from typing import Any

OPERATIONS: str
DTYPES: str
TILE: int
MOST_INPUTS: int
NONFINITE: int
OVERFLOWED: int

def run(
    out: Any,
    dtype: int,
    inputs: tuple[Any, ...],
    dtypes: tuple[int, ...],
    ops: tuple[tuple[int, tuple[int, ...], tuple[float, ...], Any], ...],
    start: int,
    n: int,
    scratch: Any,
    /,
) -> int: ...
def lowrank(out: Any, b: Any, a: Any, start: int, n: int, cols: int, rank: int, scale: float, /) -> None: ...
def philox(out: Any, n: int, first: int, stream: int, k0: int, k1: int, /) -> None: ...
def prune(
    out: Any,
    x: Any,
    rows: int,
    width: int,
    start: int,
    stream: int,
    k0: int,
    k1: int,
    density: float,
    epsilon: float,
    scale: float,
    bits: Any,
    sums: Any,
    /,
) -> None: ...
