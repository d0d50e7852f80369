"""What the kernels promise (`Kernels` in numbers/operations.py), written a second time to test every implementation.

Each function is the plainest form of its definition, mostly entry by entry. float32 arithmetic is float64 arithmetic
whose every result is rounded to float32: for sums, differences and products of two float32 numbers that is the
correctly rounded result. Numbers are decoded by ml_dtypes; they are encoded by looking for the nearest one in a list
of all.
"""

from functools import cache

import ml_dtypes
import numpy as np
import pytest
from scipy.stats import rankdata

from taskvec.numbers import compiled, in_numpy
from taskvec.numbers.operations import (
    AROUND,
    COUNT,
    DOT,
    DROP,
    ELECT,
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
)

IMPLEMENTATIONS = (compiled, in_numpy)  # a new implementation is one more entry here
each_implementation = pytest.mark.parametrize(
    "kernels",
    [
        pytest.param(
            module,
            id=module.__name__.rpartition(".")[2],
            marks=pytest.mark.skipif(not module.AVAILABLE, reason="this installation or machine does not have it"),
        )
        for module in IMPLEMENTATIONS
    ],
)

NUMPY = {
    "F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
NAME = {np.dtype(kind): name for name, kind in NUMPY.items()}


def words(array):
    """The elements of an array as unsigned integers, with one word for all NaN."""
    array = np.where(np.isnan(array.astype(np.float64)), np.array(np.nan, array.dtype), array)
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def copies(ops):
    """The same operations with sinks of their own."""
    return [op if op.sink is None else op._replace(sink=op.sink.copy()) for op in ops]


# ---- numbers of every dtype ----------------------------------------------------------------------------
def every_number(dtype):
    """All numbers of a dtype of 8 or 16 bits, in the order of their words."""
    size = np.dtype(NUMPY[dtype]).itemsize
    return np.arange(2 ** (8 * size), dtype=np.uint32).astype(f"u{size}").view(NUMPY[dtype])


@cache
def magnitudes(dtype):
    """The finite numbers of a dtype from 0 up, float64, and the one that would follow: the k-th has the word k."""
    numbers = every_number(dtype).astype(np.float64)
    finite = numbers[: int(np.argmin(np.isfinite(numbers)))]
    return np.append(finite, 2 * finite[-1] - finite[-2])


def nearest(values, dtype):
    """float64 values as numbers of `dtype`: the nearest one, and of two equally near ones that with the even word. What
    is nearer to the one that would follow the largest has the next word: Inf, or NaN in e4m3, which has no Inf."""
    if dtype in ("F32", "F64"):
        return values.astype(NUMPY[dtype])
    known, size = magnitudes(dtype), np.abs(values)
    last = known.size - 1
    below = np.clip(np.searchsorted(known, size, "right") - 1, 0, last - 1)
    middle = (known[below] + known[below + 1]) / 2
    up = (size > middle) | ((size == middle) & (below % 2 == 1))
    width = np.dtype(NUMPY[dtype]).itemsize
    word = (below + up) | np.signbit(values).astype(np.int64) << (8 * width - 1)
    return np.where(np.isnan(values), np.array(np.nan, NUMPY[dtype]), word.astype(f"u{width}").view(NUMPY[dtype]))


def written(total, dtype):
    """What is written of a sum, and the flags."""
    numbers = nearest(total, dtype)
    if not np.isfinite(total).all():
        return numbers, NONFINITE
    return numbers, 0 if np.isfinite(numbers.astype(np.float64)).all() else OVERFLOWED


# ---- operations ----------------------------------------------------------------------------------------
def run(inputs, ops, dtype, n, start=0):
    """(the array that is written, the flags); both None without a dtype. inputs: arrays, whose dtypes count. Sinks are
    filled."""
    with np.errstate(all="ignore"):
        values, results = [x.astype(np.float64) for x in inputs], []
        for k, op in enumerate(ops):
            x = [values[at] if at >= 0 else results[~at] for at in op.sources]
            last = dtype is not None and k == len(ops) - 1
            if op.code in (SUM, AROUND):
                wide = any(at >= 0 and inputs[at].dtype == np.float64 for at in op.sources) or (last and dtype == "F64")
                total = (plain_sum if op.code == SUM else around)(op.numbers, x, n, float if wide else np.float32)
                if last:
                    return written(total, dtype)
                results.append(single(total))
            elif op.code in RESULTS:
                made = np.array(RESULTS[op.code](op, x, start), np.float64)
                results.append(np.where(np.all([np.isfinite(v) for v in x], axis=0), made, np.nan))
            else:
                MEASURES[op.code](op, *x)
                results.append(None)
    return None, None


def single(values):
    return np.asarray(values, np.float64).astype(np.float32).astype(np.float64)


def plain_sum(numbers, x, n, real):
    total = None
    for c, v in zip(numbers, x, strict=True):
        term = (float(real(c)) * v.astype(real)).astype(real).astype(np.float64)
        total = term if total is None else (total + term).astype(real).astype(np.float64)
    return np.zeros(n) if total is None else total


def around(numbers, x, n, real):
    points, onto, mass, *c = numbers
    points, onto = int(points), int(onto)
    x = [v.astype(real).astype(np.float64) for v in x]
    terms = [(v - x[0]).astype(real).astype(np.float64) if k < points else v for k, v in enumerate(x)]
    end = onto or len(x)
    total = plain_sum(c[1:end], terms[1:end], n, real)
    if mass:
        last = (float(real(mass)) * x[onto]).astype(real).astype(np.float64)
        total = np.where(total == 0, last, (last + total).astype(real).astype(np.float64))
    return np.where(np.isfinite(total), total, plain_sum(c, x, n, real))


def keep(op, x, start):
    low, high, quota, spared = op.numbers
    low, high = float(np.float32(low)), float(np.float32(high))
    for v in x[0].tolist():
        stays = low <= abs(v) < high
        if abs(v) == high:
            stays, spared = spared < 1, spared - 1
        if abs(v) == low:
            stays, quota = stays and quota >= 1, quota - 1
        yield v if stays else 0.0


def drop(op, x, start):
    k0, k1, stream, least, scale = op.numbers
    drawn = draws(start, x[0].size, int(stream), (int(k0), int(k1)))
    return np.where(drawn >= least, single(x[0] * float(np.float32(scale))), 0)


def mask(op, x, start):
    scale = float(np.float32(op.numbers[0]))
    return [float(np.float32(v * scale)) if op.sink[i // 8] >> i % 8 & 1 else 0.0 for i, v in enumerate(x[0].tolist())]


def elect(op, x, start):
    by_count, mean, plus, *weights = op.numbers
    total, elected, divisor = np.zeros((3, x[0].size))
    for v in x:
        total = single(total + (np.sign(v) if by_count else v))
    sign = np.where(total >= 0, 1, -1) if plus else np.sign(total)
    for v, weight in zip(x, weights, strict=True):
        elected = np.where(v * sign > 0, single(elected + v), elected)
        divisor = np.where(v * sign > 0, single(divisor + float(np.float32(weight))), divisor)
    return single(elected / np.where(divisor == 0, 1, divisor)) if mean else elected


RESULTS = {KEEP: lambda *a: [*keep(*a)], DROP: drop, MASK: mask, ELECT: elect}


# ---- operations that measure ---------------------------------------------------------------------------
def in_lanes(terms):
    """A sum in float64: the k-th term goes to part k mod LANES, and the parts are added up in order."""
    lanes, total = [0.0] * LANES, 0.0
    for k, term in enumerate(terms):
        lanes[k % LANES] += term
    for lane in lanes:
        total += lane
    return total


def bits_of(x):
    return (x.astype(np.float32).view(np.uint32) & 0x7FFFFFFF).tolist()


def count(op, x):
    first, bins = map(int, op.numbers)
    for bits in bits_of(x):
        if first < 0:
            op.sink[bits >> 16] += 1
        elif bits >> 16 >= first + bins:
            op.sink[-1] += 1
        elif bits >> 16 >= first:
            op.sink[bits - (first << 16)] += 1


def equal(op, x):
    value, span = op.numbers
    for i, v in enumerate(x.tolist()):
        op.sink[i // int(span)] += abs(v) == value
        op.sink[-1] += abs(v) > value


def size(op, x):
    op.sink[0] = in_lanes(abs(v) for v in x.tolist())


def dot(op, x, y):
    op.sink[0] = in_lanes(v * w for v, w in zip(x.tolist(), y.tolist(), strict=True))


def pair(op, x, y):
    dot(op, x, y)
    both = [(v, w) for v, w in zip(x.tolist(), y.tolist(), strict=True) if v == v != 0 and w == w != 0]
    op.sink[1:] = len(both), sum((v < 0) != (w < 0) for v, w in both)


def nonzero(op, x):
    bits = [not (v == 0 and not np.signbit(v)) for v in x.tolist()]
    op.sink[:] = [sum(bit << k for k, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)]


MEASURES = {COUNT: count, EQUAL: equal, SIZE: size, DOT: dot, PAIR: pair, NONZERO: nonzero}


# ---- draws, low rank, pruning --------------------------------------------------------------------------
@cache
def philox(number, stream, key):
    """The four words of one counter of Philox4x32-10."""
    low = 0xFFFFFFFF
    a, b, c, d = number & low, number >> 32, stream & low, stream >> 32
    k0, k1 = key
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = q >> 32 ^ b ^ k0, q & low, p >> 32 ^ d ^ k1, p & low
        k0, k1 = k0 + 0x9E3779B9 & low, k1 + 0xBB67AE85 & low
    return a, b, c, d


@cache
def draws(start, n, stream, key):
    """The draw of each entry, as operations.py says at DROP."""

    def half(entry, stream):
        return philox(entry // 8, stream, key)[entry % 8 // 2] >> 16 * (entry % 2) & 0xFFFF

    return np.array([half(e, stream) << 16 | half(e, stream + 1) for e in range(start, start + n)], np.uint32)


def lowrank(b, a, scale):
    """All of scale * B @ A, float32."""
    product = np.zeros((b.shape[0], a.shape[1]))
    for k in range(a.shape[0]):
        product = single(product + single(np.outer(b[:, k].astype(np.float64), a[k].astype(np.float64))))
    return single(float(np.float32(scale)) * product).astype(np.float32)


def prune(x, start, stream, key, density, epsilon, scale):
    """What is left of the rows of x, float32."""
    rank = rankdata(x.view(np.uint32) & 0x7FFFFFFF, axis=1) - 1  # in the order of magnitudes, with NaN above all
    p = np.clip(density - epsilon / 2 + epsilon * rank / max(1, x.shape[1] - 1), np.finfo(np.float32).tiny, 1)
    p = p.astype(np.float32)
    stays = draws(start, x.size, stream, key).reshape(x.shape) * 2.0**-32 < p
    with np.errstate(all="ignore"):
        return np.where(stays, x * np.float32(scale) if scale else x / p, np.float32(0))
