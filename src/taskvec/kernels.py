"""The arithmetic of a block, on raw buffers: `combine` (decode, scale, sum, encode), `lowrank` (rows of B @ A), `pair`.

Compiled in `_kernels.c`; where that could not be built, the numpy functions below give the same bits, slower.
Rules: float32 accumulation in the order given (float64 when a source or the output is float64), every operation
rounded on its own, one rounding to nearest even at the end. All functions release the GIL for most of their time.
"""

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from taskvec.dtypes import BITS, CODES, accumulator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

try:
    from taskvec import _kernels
except ImportError:  # no compiler when this was installed
    _kernels = None  # type: ignore[assignment]

Buffer = Any  # anything with the buffer protocol, contiguous
Input = Any  # a Buffer, or (file descriptor, offset)
WINDOW = (
    128 << 10
)  # bytes of a file that are read at once: windows of a few files and a block fit the second-level cache

NONFINITE, OVERFLOWED = 1, 2  # flags of `combine`
COMPILED = _kernels is not None


def combine(
    out: Buffer,
    dtype: str,
    inputs: Sequence[Input],
    dtypes: Sequence[str],
    scales: Sequence[float],
    n: int,
    scratch: Buffer = b"",
) -> int:
    """out[i] = encode(sum_k scales[k] * decode(inputs[k][i])), i < n, summed in order k = 0, 1, ...

    An input is a buffer, or (file descriptor, offset): then its elements are read through `scratch`, WINDOW bytes a
    file or what there is, so that they stay in the cache. Each scale is rounded to the accumulator's dtype first.
    Returns flags: NONFINITE if a sum is NaN or Inf, which it is whenever an input is; OVERFLOWED if a finite sum has no
    finite value in `dtype`. Both are written as they are. Raises EOFError("input k") at an early end, OSError.
    """
    if _kernels is None:
        pairs = enumerate(zip(inputs, dtypes, strict=True))
        inputs = [_in_memory(k, given, n * itemsize(kind)) for k, (given, kind) in pairs]
        return combine_numpy(out, dtype, inputs, dtypes, scales, n)
    codes = tuple(CODES[d] for d in dtypes)
    return _kernels.combine(out, CODES[dtype], tuple(inputs), codes, tuple(scales), n, scratch or bytearray())


def _in_memory(index: int, source: Input, size: int) -> Buffer:
    if not isinstance(source, tuple):
        return source
    found, (fd, offset) = bytearray(), source
    while len(found) < size:
        try:
            piece = os.pread(fd, size - len(found), offset + len(found))
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"input {index}") from None
        if not piece:
            raise EOFError(f"input {index}")
        found += piece
    return found


def lowrank(out: Buffer, b: Buffer, a: Buffer, start: int, n: int, cols: int, rank: int, scale: float) -> None:
    """out = (scale * B @ A).ravel()[start : start + n], all float32; B (rows, rank), A (rank, cols), row-major.

    Every element is summed over k = 0 .. rank-1 in that order, so any split of the rows gives the same bits.
    """
    if _kernels is None:
        lowrank_numpy(out, b, a, start, n, cols, rank, scale)
    else:
        _kernels.lowrank(out, b, a, start, n, cols, rank, scale)


def pair(x: Buffer, y: Buffer, n: int) -> tuple[float, int, int]:
    """(dot product in float64, entries nonzero in both, those of them with opposite signs) of two float32 buffers."""
    if _kernels is None:
        return pair_numpy(x, y, n)
    return _kernels.pair(x, y, n)


def count(counts: Buffer, x: Buffer, n: int, first: int = -1, bins: int = 1) -> int:
    """Add to uint32 counts of float32 magnitudes: by their bits >> 16, 2**15 counts; with first >= 0, of those whose
    bits >> 16 lie in first .. first + bins, by their bits - (first << 16), bins << 16 counts. Returns how many lie
    above these bins, 0 without them."""
    if _kernels is None:
        return count_numpy(counts, x, n, first, bins)
    return _kernels.count(counts, x, n, first, bins)


def philox(out: Buffer, n: int, first: int, stream: int, key: tuple[int, int]) -> None:
    """Philox4x32-10 under two 32-bit key words: four uint32 for each counter (first + i, stream), i < n."""
    if _kernels is None:
        philox_numpy(out, n, first, stream, key)
    else:
        _kernels.philox(out, n, first, stream, *key)


def keep(out: Buffer, x: Buffer, n: int, low: float, high: float) -> None:
    """out[i] = x[i] if low <= |x[i]| < high else 0, float32."""
    if _kernels is None:
        keep_numpy(out, x, n, low, high)
    else:
        _kernels.keep(out, x, n, low, high)


def drop(out: Buffer, x: Buffer, words: Buffer, n: int, least: int, scale: float) -> None:
    """out[i] = scale * x[i] if the upper 24 bits of words[i] are at least `least`, else 0; float32, uint32."""
    if _kernels is None:
        drop_numpy(out, x, words, n, least, scale)
    else:
        _kernels.drop(out, x, words, n, least, scale)


def prune(
    out: Buffer, x: Buffer, words: Buffer, rows: int, width: int, density: float, epsilon: float, scale: float
) -> None:
    """Row by row p = density - epsilon/2 + epsilon * rank / (width-1), clipped to [tiny, 1], by the rank of |x| from
    the smallest; out = x / p, or x * scale if scale is not 0, where (words >> 8) / 2**24 < p, else 0. float32."""
    if _kernels is None:
        prune_numpy(out, x, words, rows, width, density, epsilon, scale)
    else:
        _kernels.prune(out, x, words, rows, width, density, epsilon, scale)


def elect(
    out: Buffer,
    inputs: Sequence[Buffer],
    n: int,
    by_count: bool,
    mean: bool,
    plus: bool = False,
    weights: Sequence[float] = (),
) -> None:
    """out = the sum of the entries that agree with the sign of the sum (of the signs), float32; with `mean` divided by
    the sum of the weights of those entries, 1 each unless given. A sum of zero elects nobody, or with `plus` plus."""
    each = tuple(weights) or (1.0,) * len(inputs)
    if _kernels is None:
        elect_numpy(out, inputs, n, by_count, mean, plus, each)
    else:
        _kernels.elect(out, tuple(inputs), n, by_count, mean, plus, each)


# ---- the same in numpy ---------------------------------------------------------------------------
# Each dtype is (mantissa bits, exponent bits, has infinities).
MINIFLOATS = {"F16": (10, 5, True), "F8_E5M2": (2, 5, True), "F8_E4M3": (3, 4, False)}


def combine_numpy(
    out: Buffer, dtype: str, inputs: Sequence[Buffer], dtypes: Sequence[str], scales: Sequence[float], n: int
) -> int:
    """`combine`, without the compiled kernels."""
    import numpy as np

    real: Any = np.float64 if accumulator(dtype, *dtypes) == "F64" else np.float32
    with np.errstate(all="ignore"):
        total = None
        for raw, source, scale in zip(inputs, dtypes, scales, strict=True):
            term = real(scale) * decode(raw, source, n).astype(real, copy=False)
            total = term if total is None else total + term
        assert total is not None
        encoded = encode(total, dtype)
    np.frombuffer(out, encoded.dtype)[:n] = encoded
    if not np.isfinite(total).all():
        return NONFINITE
    return 0 if np.isfinite(decode(encoded, dtype, n)).all() else OVERFLOWED


def decode(raw: Buffer, dtype: str, n: int) -> "NDArray[Any]":
    """n elements of an arithmetic dtype as float32 (float64 for F64); every value is exact."""
    import numpy as np

    if dtype in ("F32", "F64"):
        return np.frombuffer(raw, np.float32 if dtype == "F32" else np.float64, n)
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16, n).astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, np.float16, n).astype(np.float32)
    table: NDArray[np.float32] = minifloat_values(dtype)
    return table[np.frombuffer(raw, np.uint8, n)]


def encode(values: "NDArray[Any]", dtype: str) -> "NDArray[Any]":
    """float32 or float64 values -> words of `dtype`, rounded once to nearest even; overflow: Inf (e4m3: NaN)."""
    import numpy as np

    if dtype in ("F32", "F64"):
        return values.astype(np.float32 if dtype == "F32" else np.float64)
    if values.dtype == np.float64:
        values = to_odd(values)
    bits = values.view(np.uint32)
    nan = np.isnan(values)
    if dtype == "BF16":
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return np.asarray(np.where(nan, (bits >> 16) | 0x40, rounded), np.uint16)
    mantissa, exponent, infinite = MINIFLOATS[dtype]
    bias = 2 ** (exponent - 1) - 1
    magnitude = np.abs(values)
    limit = np.float32(2.0) ** (bias + 1 if infinite else bias + 2)
    small = np.where(magnitude < limit, magnitude, np.float32(0))
    least = np.uint32((1 - bias + 127) << 23)
    power = np.maximum(small.view(np.uint32) & np.uint32(0x7F800000), least) + np.uint32((23 - mantissa) << 23)
    magic = power.view(np.float32)
    rounded = (small + magic) - magic
    words = (rounded * np.float32(2.0) ** (bias - 127)).view(np.uint32) >> (23 - mantissa)
    everything = (1 << (mantissa + exponent)) - 1
    top = everything - ((1 << mantissa) - 1) if infinite else everything
    finite = (magnitude < limit) & (words < (top if infinite else everything))
    quiet = top | (1 << (mantissa - 1)) | ((bits >> (23 - mantissa)) & ((1 << mantissa) - 1)) * (dtype == "F16")
    words = np.where(finite, words, np.where(nan & infinite, quiet, top))
    width = np.uint16 if dtype == "F16" else np.uint8
    sign = (bits >> 31) << (mantissa + exponent)
    return np.asarray(words | sign, width)


def to_odd(values: "NDArray[np.float64]") -> "NDArray[np.float32]":
    """float64 -> float32, towards zero with a sticky last bit, so that a second rounding rounds only once in effect."""
    import numpy as np

    nearest = values.astype(np.float32)
    bits = nearest.view(np.uint32)
    inexact = np.isfinite(nearest) & (nearest.astype(np.float64) != values)
    away = np.abs(nearest.astype(np.float64)) > np.abs(values)
    odd = np.where(inexact, (bits - away.astype(np.uint32)) | np.uint32(1), bits)
    return odd.astype(np.uint32).view(np.float32)


@cache
def minifloat_values(dtype: str) -> "NDArray[np.float32]":
    """The 256 values of an 8-bit float, by their byte."""
    import numpy as np

    byte = np.arange(256)
    if dtype == "F8_E5M2":
        return (byte.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    exponent, mantissa = byte >> 3 & 15, (byte & 7).astype(np.float32)
    value = np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), np.ldexp(mantissa / 8, -6))
    value = np.where(byte & 0x7F == 0x7F, np.nan, value)
    return np.where(byte & 0x80, -value, value).astype(np.float32)


def lowrank_numpy(out: Buffer, b: Buffer, a: Buffer, start: int, n: int, cols: int, rank: int, scale: float) -> None:
    """`lowrank`, without the compiled kernels."""
    import numpy as np

    first, last = start // cols, -(-(start + n) // cols)
    left = np.frombuffer(b, np.float32)[first * rank : last * rank].reshape(-1, rank)
    right = np.frombuffer(a, np.float32)[: rank * cols].reshape(rank, cols)
    rows = np.zeros((last - first, cols), np.float32)
    for k in range(rank):
        rows = rows + left[:, k : k + 1] * right[k]
    np.frombuffer(out, np.float32)[:n] = (np.float32(scale) * rows).ravel()[start - first * cols :][:n]


def pair_numpy(x: Buffer, y: Buffer, n: int) -> tuple[float, int, int]:
    """`pair`, without the compiled kernels (same lanes, same order, same bits)."""
    import numpy as np

    lanes = 16
    u, v = np.frombuffer(x, np.float32, n), np.frombuffer(y, np.float32, n)
    products = u.astype(np.float64) * v.astype(np.float64)
    padded = np.concatenate([products, np.zeros(-n % lanes)]).reshape(-1, lanes)
    sums = np.add.accumulate(padded, axis=0)[-1] if n else np.zeros(lanes)
    dot = 0.0
    for lane in sums.tolist():
        dot += lane
    both = (u != 0) & (v != 0)
    return dot, int(both.sum()), int((both & (np.signbit(u) != np.signbit(v))).sum())


def count_numpy(counts: Buffer, x: Buffer, n: int, first: int = -1, bins: int = 1) -> int:
    """`count`, without the compiled kernels."""
    import numpy as np

    bits = np.frombuffer(x, np.uint32, n) & np.uint32(0x7FFFFFFF)
    table = np.frombuffer(counts, np.uint32)
    upper = bits >> np.uint32(16)
    inside = (upper >= first) & (upper < first + bins)
    found = upper if first < 0 else bits[inside] - np.uint32(first << 16)
    table += np.bincount(found, minlength=table.size).astype(np.uint32)
    return 0 if first < 0 else int((upper >= first + bins).sum())


def philox_numpy(out: Buffer, n: int, first: int, stream: int, key: tuple[int, int]) -> None:
    """`philox`, without the compiled kernels."""
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


def keep_numpy(out: Buffer, x: Buffer, n: int, low: float, high: float) -> None:
    """`keep`, without the compiled kernels."""
    import numpy as np

    given = np.frombuffer(x, np.float32, n)
    size = np.abs(given)
    np.frombuffer(out, np.float32, n)[:] = np.where((size >= np.float32(low)) & (size < np.float32(high)), given, 0)


def drop_numpy(out: Buffer, x: Buffer, words: Buffer, n: int, least: int, scale: float) -> None:
    """`drop`, without the compiled kernels."""
    import numpy as np

    kept = np.frombuffer(words, np.uint32, n) >> np.uint32(8) >= np.uint32(least)
    scaled = np.frombuffer(x, np.float32, n) * np.float32(scale)
    np.frombuffer(out, np.float32, n)[:] = np.where(kept, scaled, np.float32(0))


def elect_numpy(
    out: Buffer,
    inputs: Sequence[Buffer],
    n: int,
    by_count: bool,
    mean: bool,
    plus: bool = False,
    weights: Sequence[float] = (),
) -> None:
    """`elect`, without the compiled kernels."""
    import numpy as np

    x = [np.frombuffer(given, np.float32, n) for given in inputs]
    total, agree = np.zeros(n, np.float32), np.zeros(n, np.float32)
    with np.errstate(all="ignore"):
        for v in x:
            total += np.sign(v) if by_count else v
        sign = np.where(total >= 0, np.float32(1), np.float32(-1)) if plus else np.sign(total)
        found = np.frombuffer(out, np.float32, n)
        found[:] = 0
        for v, w in zip(x, weights or (1.0,) * len(x), strict=True):
            yes = v * sign > 0
            found += np.where(yes, v, np.float32(0))
            agree += np.where(yes, np.float32(w), np.float32(0))
        if mean:
            found /= np.where(agree != 0, agree, np.float32(1))


def itemsize(dtype: str) -> int:
    """Bytes an element of a whole-byte dtype."""
    return BITS[dtype] // 8


def prune_numpy(
    out: Buffer, x: Buffer, words: Buffer, rows: int, width: int, density: float, epsilon: float, scale: float
) -> None:
    """`prune`, without the compiled kernels."""
    import numpy as np

    given = np.frombuffer(x, np.float32, rows * width).reshape(rows, width)
    order = np.argsort(np.abs(given), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(width)[None], axis=1)
    exact = density - epsilon / 2 + epsilon * rank / max(1, width - 1)
    p = np.clip(exact, np.finfo(np.float32).tiny, 1).astype(np.float32)
    drawn = (np.frombuffer(words, np.uint32, rows * width).reshape(rows, width) >> np.uint32(8)) * np.float32(2.0**-24)
    kept = given / p if scale == 0 else given * np.float32(scale)
    np.frombuffer(out, np.float32, rows * width)[:] = np.where(drawn < p, kept, np.float32(0)).reshape(-1)
