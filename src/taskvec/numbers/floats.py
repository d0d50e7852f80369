"""Floating-point dtypes in numpy: bytes to numbers, exactly, and numbers to bytes, with one rounding.

A number x of a small dtype with m bits of mantissa is rounded by adding and subtracting a power of two (`encode`):

1. 2^e is the power of two of x, but not less than that of the smallest normal number. Neighbours are 2^(e-m) apart.
2. x + 2^(e-m+23) has its last bit of float32 at just that distance, so that the addition rounds x to nearest even.
   Subtracting 2^(e-m+23) again is exact.
3. Multiplied with the right power of two, float32's exponent is the dtype's own, and its upper bits are the word. Of
   subnormal numbers this is true as well.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from taskvec.numbers.operations import Buffer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# dtype -> (mantissa bits, exponent bits, whether it has infinities)
MINIFLOATS = {"F16": (10, 5, True), "F8_E5M2": (2, 5, True), "F8_E4M3": (3, 4, False)}


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
    """float32 or float64 values as words of `dtype`, rounded once to nearest even. What is too large becomes Inf, or
    NaN in e4m3."""
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
    """float64 -> float32 "to odd": cut off towards zero, with the last bit set if anything was cut off.

    The last bit tells the next rounding, to fewer bits, that a number is not exactly halfway. So both together have the
    effect of one rounding."""
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
