from collections.abc import Sequence
from typing import Any

Buffer = Any  # anything with the buffer protocol, contiguous

OPERATIONS: str
DTYPES: str
TILE: int
MOST_INPUTS: int
NONFINITE: int
OVERFLOWED: int

def run(
    out: Buffer,
    dtype: int,
    inputs: tuple[Any, ...],
    dtypes: tuple[int, ...],
    ops: tuple[Sequence[Any], ...],
    start: int,
    n: int,
    scratch: Buffer,
    /,
) -> int: ...
def lowrank(out: Buffer, b: Buffer, a: Buffer, start: int, n: int, cols: int, rank: int, scale: float, /) -> None: ...
def philox(out: Buffer, n: int, first: int, stream: int, key0: int, key1: int, /) -> None: ...
def prune(
    out: Buffer | None,
    x: Buffer,
    rows: int,
    width: int,
    start: int,
    stream: int,
    key0: int,
    key1: int,
    density: float,
    epsilon: float,
    scale: float,
    bits: Buffer | None,
    sums: Buffer | None,
    /,
) -> None: ...
