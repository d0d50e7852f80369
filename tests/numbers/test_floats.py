"""Bytes to numbers and back in numpy, against ml_dtypes; all kernels are held to the same in test_contract.py."""

import numpy as np
import pytest

from kernel_reference import NUMPY
from taskvec.numbers.dtypes import ARITHMETIC
from taskvec.numbers.floats import decode, encode, minifloat_values, to_odd

SMALL = [dtype for dtype in ARITHMETIC if dtype not in ("F32", "F64")]


@pytest.mark.parametrize("dtype", SMALL)
def test_every_word_is_its_value_and_encodes_to_itself(dtype):
    size = np.dtype(NUMPY[dtype]).itemsize
    every = np.arange(2 ** (8 * size), dtype=np.uint32).astype(f"u{size}")
    values = decode(every, dtype, every.size)
    assert values.dtype == np.float32
    with np.errstate(invalid="ignore"):
        assert np.array_equal(values, every.view(NUMPY[dtype]).astype(np.float32), equal_nan=True)
    plain = ~np.isnan(values)
    back = encode(values, dtype)
    assert back.dtype == every.dtype and np.array_equal(back[plain], every[plain])
    assert np.isnan(decode(back[~plain], dtype, (~plain).sum())).all()


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("wide", [False, True])
def test_between_two_values_the_nearest_counts_and_of_equally_near_ones_the_even_one(dtype, wide):
    """Halves between neighbours, and what lies just below and above them: in float64 by less than float32 can tell."""
    size = np.dtype(NUMPY[dtype]).itemsize
    values = np.unique(decode(np.arange(2 ** (8 * size), dtype=np.uint32).astype(f"u{size}"), dtype, 2 ** (8 * size)))
    values = values[np.isfinite(values)].astype(np.float64)
    step = 2.0**-40 if wide else 2.0**-20
    halves = (values[1:] + values[:-1]) / 2
    near = np.concatenate([halves, halves * (1 + step), halves * (1 - step)])
    near = near if wide else near.astype(np.float32)
    lower = np.searchsorted(values, near, "right") - 1
    upper = np.minimum(lower + 1, values.size - 1)
    below, above = near - values[lower], values[upper] - near
    even = encode(values.astype(np.float32), dtype)[lower] % 2 == 0
    nearest = np.where((below < above) | ((below == above) & even), values[lower], values[upper])
    assert np.array_equal(decode(encode(near, dtype), dtype, near.size), nearest.astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "largest", "beyond"),
    [("BF16", 3.3895314e38, np.inf), ("F16", 65504, np.inf), ("F8_E5M2", 57344, np.inf), ("F8_E4M3", 448, np.nan)],
)
def test_what_is_too_large_is_infinite_or_nan_where_there_is_no_infinity(dtype, largest, beyond):
    for given in (np.float32, np.float64):
        values = np.array([largest, -largest, np.inf, -np.inf, np.nan, 3.4e38, -0.0], given)
        decoded = decode(encode(values, dtype), dtype, 7)
        assert np.array_equal(decoded[:6], np.float32([largest, -largest, beyond, -beyond, np.nan, beyond]), True)
        assert decoded[6] == 0 and np.signbit(decoded[6])


def test_wide_dtypes_are_taken_as_they_are():
    values = np.array([0.1, -np.inf, 1e300])
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
        assert np.array_equal(encode(values, "F32"), single)
    assert encode(values, "F64").tobytes() == values.tobytes() and decode(values, "F64", 2).tolist() == [0.1, -np.inf]
    assert np.array_equal(decode(single, "F32", 2), single[:2]) and decode(single, "F32", 2).dtype == np.float32


def test_a_number_that_float32_cannot_hold_is_cut_to_an_odd_neighbour():
    """So the second rounding sees that something was cut off, and rounds as if it had seen the whole number."""
    values = np.array([1.0, 1 + 2.0**-40, 1 - 2.0**-40, -1 - 2.0**-40, 1e300, -np.inf, np.nan, 0.0])
    with np.errstate(over="ignore"):
        odd = to_odd(values)
    bits = odd.view(np.uint32)
    assert odd[0] == 1 and odd[7] == 0 and np.isinf(odd[4:6]).all() and np.isnan(odd[6])
    assert (bits[1:4] & 1 == 1).all()
    assert odd[1] == 1 + np.float32(2**-23) and odd[2] == 1 - np.float32(2**-24) and odd[3] == -odd[1]


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_the_table_of_a_small_float_is_made_once(dtype):
    assert minifloat_values(dtype) is minifloat_values(dtype) and minifloat_values(dtype).shape == (256,)
