"""The kernels in numpy: the same bits as `_kernels.c`, more slowly, for machines without a compiler.

What each function computes is said in operations.py, at `Kernels`.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from taskvec.numbers.dtypes import BITS
from taskvec.numbers.floats import decode, encode
from taskvec.numbers.operations import (
    AROUND,
    COUNT,
    DOT,
    DROP,
    EQUAL,
    KEEP,
    LANES,
    MASK,
    NONFINITE,
    NONZERO,
    OVERFLOWED,
    PAIR,
    SIZE,
    SUM,
    Buffer,
    Input,
    Op,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

AVAILABLE = True


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
    """`Kernels.run` in numpy, which holds all elements at once and needs no scratch memory."""
    import numpy as np

    sizes = [n * BITS[d] // 8 for d in dtypes]
    buffers = [_in_memory(k, source, size) for k, (source, size) in enumerate(zip(inputs, sizes, strict=True))]
    values = [decode(raw, kind, n) for raw, kind in zip(buffers, dtypes, strict=True)]
    results: list[Any] = []
    with np.errstate(all="ignore"):
        for k, op in enumerate(ops):
            x = [values[at] if at >= 0 else results[~at] for at in op.sources]
            if out is not None and k == len(ops) - 1:
                return _written(out, dtype, _total(op, x, n, wide=dtype == "F64"), n)
            is_sum = op.code in (SUM, AROUND)
            results.append(_total(op, x, n).astype(np.float32) if is_sum else _result(op, x, start))
    return 0


def _total(op: Op, x: "Sequence[NDArray[Any]]", n: int, wide: bool = False) -> "NDArray[Any]":
    """What SUM or AROUND makes, in the accumulator's dtype."""
    import numpy as np

    if op.code == SUM:
        return _sum(x, op.numbers, n, wide)
    points, onto, mass, *scales = op.numbers
    real = _accumulator(x, wide)
    exact = [v.astype(real, copy=False) for v in x]
    terms = [v - exact[0] if k < points else v for k, v in enumerate(exact)]
    end = int(onto) or len(exact)
    total = _sum(terms[1:end], scales[1:end], n, wide)
    if mass:
        last = real(mass) * exact[int(onto)]
        total = np.where(total == 0, last, last + total)
    finite = np.isfinite(total)
    return total if finite.all() else np.where(finite, total, _sum(x, scales, n, wide))


def _accumulator(x: "Sequence[NDArray[Any]]", wide: bool) -> Any:
    import numpy as np

    return np.float64 if wide or any(v.dtype == np.float64 for v in x) else np.float32


def _sum(x: "Sequence[NDArray[Any]]", scales: Sequence[float], n: int, wide: bool = False) -> "NDArray[Any]":
    import numpy as np

    real = _accumulator(x, wide)
    total = None
    for v, scale in zip(x, scales, strict=True):
        term = real(scale) * v.astype(real, copy=False)
        total = term if total is None else total + term
    return np.zeros(n, real) if total is None else total


def _written(out: Buffer, dtype: str, total: "NDArray[Any]", n: int) -> int:
    import numpy as np

    encoded = encode(total, dtype)
    np.frombuffer(out, encoded.dtype)[:n] = encoded
    if not np.isfinite(total).all():
        return NONFINITE
    return 0 if np.isfinite(decode(encoded, dtype, n)).all() else OVERFLOWED


def _result(op: Op, x: "Sequence[NDArray[Any]]", start: int) -> "NDArray[Any] | None":
    """The result of an operation, or None for one that only adds to its sink."""
    import numpy as np

    if measure := MEASURES.get(op.code):
        measure(op, *x)
        return None
    result: NDArray[Any] = (
        _keep(x[0], *op.numbers) if op.code == KEEP else
        _drop(x[0], start, *op.numbers) if op.code == DROP else
        _mask(x[0], op.sink, *op.numbers) if op.code == MASK else _elect(x, *op.numbers)
    )  # fmt: skip
    for v in x:
        result = np.where(np.isfinite(v), result, np.float32("nan"))
    return result


def _in_memory(index: int, source: Input, size: int) -> Buffer:
    if not isinstance(source, tuple):
        return source
    data, (fd, offset) = bytearray(), source
    while len(data) < size:
        try:
            piece = os.pread(fd, size - len(data), offset + len(data))
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"input {index}") from None
        if not piece:
            raise EOFError(f"input {index}")
        data += piece
    return data


def _keep(x: "NDArray[Any]", low: float, high: float, quota: float, spared: float) -> "NDArray[Any]":
    import numpy as np

    size = np.abs(x)
    kept = np.where((size >= np.float32(low)) & (size < np.float32(high)), x, np.float32(0))
    beyond_spared = np.flatnonzero(size == np.float32(high))[int(min(spared, x.size)) :]
    kept[beyond_spared] = x[beyond_spared]
    kept[np.flatnonzero(size == np.float32(low))[int(min(quota, x.size)) :]] = 0
    return kept


def draws(start: int, n: int, stream: int, key: tuple[int, int]) -> "NDArray[Any]":
    """The draws of the entries start .. start+n, uint32, as operations.py says at DROP."""
    import numpy as np

    first, last = start // 8, -(-(start + n) // 8)
    halves = []
    for k in (0, 1):
        words = np.empty(4 * (last - first), np.uint32)
        philox(words, last - first, first, stream + k, key)
        halves.append(words.view(np.uint16)[start - 8 * first :][:n].astype(np.uint32))
    return halves[0] << np.uint32(16) | halves[1]


def _drop(
    x: "NDArray[Any]", start: int, k0: float, k1: float, stream: float, least: float, scale: float
) -> "NDArray[Any]":
    import numpy as np

    stays = draws(start, x.size, int(stream), (int(k0), int(k1))) >= np.uint32(least)
    return np.where(stays, x * np.float32(scale), np.float32(0))


def _mask(x: "NDArray[Any]", bits: Buffer, scale: float) -> "NDArray[Any]":
    import numpy as np

    stays = np.unpackbits(np.frombuffer(bits, np.uint8), count=x.size, bitorder="little")
    return np.where(stays, x * np.float32(scale), np.float32(0))


def _elect(x: "Sequence[NDArray[Any]]", by_count: float, mean: float, plus: float, *weights: float) -> "NDArray[Any]":
    import numpy as np

    total, divisor, elected = (np.zeros(x[0].size, np.float32) for _ in range(3))
    for v in x:
        total += np.sign(v) if by_count else v
    sign = np.where(total >= 0, np.float32(1), np.float32(-1)) if plus else np.sign(total)
    for v, w in zip(x, weights, strict=True):
        agrees = v * sign > 0
        elected += np.where(agrees, v, np.float32(0))
        divisor += np.float32(w) * agrees
    return elected / np.where(divisor == 0, np.float32(1), divisor) if mean else elected


def _count(op: Op, x: "NDArray[Any]") -> None:
    import numpy as np

    first, bins = map(int, op.numbers)
    bits = x.view(np.uint32) & np.uint32(0x7FFFFFFF)
    upper = bits >> np.uint32(16)
    inside = (upper >= first) & (upper < first + bins)
    places = upper if first < 0 else bits[inside] - np.uint32(first << 16)
    size = (1 << 15 if first < 0 else bins << 16) + 1
    table = np.frombuffer(op.sink, np.uint32)[:size]
    table += np.bincount(places, minlength=size).astype(np.uint32)
    table[-1] += 0 if first < 0 else int((upper >= first + bins).sum())


def _equal(op: Op, x: "NDArray[Any]") -> None:
    import numpy as np

    value, span = op.numbers
    equal = np.add.reduceat(np.abs(x) == np.float32(value), np.arange(0, x.size, int(span)), dtype=np.uint32)
    sink = np.frombuffer(op.sink, np.uint32)
    sink[: equal.size] += equal
    sink[equal.size] += np.count_nonzero(np.abs(x) > np.float32(value))


def _in_lanes(terms: "NDArray[Any]") -> float:
    """The sum of float64 terms in LANES parts."""
    import numpy as np

    padded = np.concatenate([terms, np.zeros(-terms.size % LANES)]).reshape(-1, LANES)
    sums = np.add.accumulate(padded, axis=0)[-1] if terms.size else np.zeros(LANES)
    total = 0.0
    for lane in sums.tolist():
        total += lane
    return total


def _size(op: Op, x: "NDArray[Any]") -> None:
    import numpy as np

    np.frombuffer(op.sink, np.float64)[0] = _in_lanes(np.abs(x.astype(np.float64)))


def _dot(op: Op, x: "NDArray[Any]", y: "NDArray[Any]") -> None:
    import numpy as np

    np.frombuffer(op.sink, np.float64)[0] = _in_lanes(x.astype(np.float64) * y.astype(np.float64))


def _pair(op: Op, x: "NDArray[Any]", y: "NDArray[Any]") -> None:
    import numpy as np

    both = (x != 0) & (y != 0) & ~np.isnan(x) & ~np.isnan(y)  # a NaN's sign depends on the order of what made it
    against = both & (np.signbit(x) != np.signbit(y))
    _dot(op, x, y)
    np.frombuffer(op.sink, np.float64)[1:3] = both.sum(), against.sum()


def _nonzero(op: Op, x: "NDArray[Any]") -> None:
    import numpy as np

    packed = np.packbits(x.view(np.uint32) != 0, bitorder="little")
    np.frombuffer(op.sink, np.uint8)[: packed.size] = packed


MEASURES: dict[int, Any] = {COUNT: _count, EQUAL: _equal, SIZE: _size, PAIR: _pair, NONZERO: _nonzero, DOT: _dot}


def lowrank(out: Buffer, b: Buffer, a: Buffer, start: int, n: int, cols: int, rank: int, scale: float) -> None:
    """`Kernels.lowrank` in numpy."""
    import numpy as np

    first, last = start // cols, -(-(start + n) // cols)
    left = np.frombuffer(b, np.float32)[first * rank : last * rank].reshape(-1, rank)
    right = np.frombuffer(a, np.float32)[: rank * cols].reshape(rank, cols)
    rows = np.zeros((last - first, cols), np.float32)
    for k in range(rank):
        rows = rows + left[:, k : k + 1] * right[k]
    np.frombuffer(out, np.float32)[:n] = (np.float32(scale) * rows).ravel()[start - first * cols :][:n]


def philox(out: Buffer, n: int, first: int, stream: int, key: tuple[int, int]) -> None:
    """`Kernels.philox` in numpy."""
    import numpy as np

    index = np.uint64(first) + np.arange(n, dtype=np.uint64)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b = index & mask, index >> half
    c, d = np.full(n, stream & 0xFFFFFFFF, np.uint64), np.full(n, stream >> 32, np.uint64)
    k0, k1 = key
    for _ in range(10):
        p, q = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = q >> half ^ b ^ np.uint64(k0), q & mask, p >> half ^ d ^ np.uint64(k1), p & mask
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    np.frombuffer(out, np.uint32, 4 * n)[:] = np.stack([a, b, c, d], axis=1).astype(np.uint32).ravel()


def _mean_ranks(values: "NDArray[Any]") -> "NDArray[Any]":
    """The place of each value among all, 0 for the smallest; equal values have the mean of their places."""
    import numpy as np

    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1) / 2


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
    """`Kernels.prune` in numpy."""
    import numpy as np

    n = rows * width
    values = np.frombuffer(x, np.float32, n).reshape(rows, width)
    rank = np.array([_mean_ranks(np.abs(row)) for row in values]).reshape(rows, width)
    exact = density - epsilon / 2 + epsilon * rank / max(1, width - 1)
    p = np.clip(exact, np.finfo(np.float32).tiny, 1).astype(np.float32)
    drawn = draws(start, n, stream, key).reshape(rows, width) * 2.0**-32
    with np.errstate(all="ignore"):
        scaled = values / p if scale == 0 else values * np.float32(scale)
    pruned = np.where(drawn < p, scaled, np.float32(0))
    if out is not None:
        np.frombuffer(out, np.float32, n)[:] = pruned.reshape(-1)
    if bits is not None:
        _nonzero(Op(NONZERO, (0,), (), bits), pruned.reshape(-1))
    if sums is not None:
        total = np.frombuffer(sums, np.float64, 2)
        for before, after in zip(values, pruned, strict=True):
            total += _in_lanes(np.abs(before.astype(np.float64))), _in_lanes(np.abs(after.astype(np.float64)))
