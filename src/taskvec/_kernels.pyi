from typing import Any

def combine(
    out: Any,
    dtype: int,
    inputs: tuple[Any, ...],
    dtypes: tuple[int, ...],
    scales: tuple[float, ...],
    n: int,
    scratch: Any,
) -> int: ...
def lowrank(out: Any, b: Any, a: Any, start: int, n: int, cols: int, rank: int, scale: float) -> None: ...
def pair(x: Any, y: Any, n: int) -> tuple[float, int, int]: ...
