"""The arithmetic of a block: compiled and numpy give the same bits, and those are the documented ones."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taskvec import kernels
from taskvec.dtypes import ARITHMETIC

NUMPY = {
    "F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
dtypes = st.sampled_from(ARITHMETIC)
floats = arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
needs_compiled = pytest.mark.skipif(not kernels.COMPILED, reason="no C compiler when taskvec was installed")


def words(array):
    """The array's elements as unsigned integers, NaN made one."""
    array = np.where(np.isnan(array.astype(np.float64)), np.array(np.nan, array.dtype), array)
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def encoded(values, dtype, source="F32", combine=kernels.combine):
    out = np.empty(len(values), NUMPY[dtype])
    flags = combine(out.view("u1"), dtype, [values.view("u1")], [source], [1.0], len(values))
    return out, flags


@pytest.mark.parametrize("dtype", [d for d in ARITHMETIC if d not in ("F32", "F64")])
def test_every_word_decodes_to_its_value(dtype):
    every = np.arange(2 ** (8 * kernels.itemsize(dtype)), dtype=np.uint32).astype(f"u{kernels.itemsize(dtype)}")
    out, _ = encoded(every, "F32", source=dtype)
    with np.errstate(invalid="ignore"):
        assert np.array_equal(words(out), words(every.view(NUMPY[dtype]).astype(np.float32)))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
def test_encoding_rounds_to_nearest_even_as_ml_dtypes_does(dtype):
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 300_000, dtype=np.uint32).view(np.float32)
    near = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.float16).astype(np.float32)
    borders = np.float32([464, 464.01, 463.99, 448, 480, 61440, 61439, 65519, 65520, 65504, 0.0, -0.0, 2**-24, 2**-25])
    with np.errstate(all="ignore"):
        values = np.concatenate([bits, near, near * np.float32(1 + 2**-12), borders])
        expected = values.astype(NUMPY[dtype])
    assert np.array_equal(words(encoded(values, dtype)[0]), words(expected))


@needs_compiled
@given(st.data(), st.lists(st.tuples(dtypes, st.floats(-4, 4)), min_size=1, max_size=5), dtypes, st.integers(0, 5000))
def test_compiled_and_numpy_agree_to_the_bit(data, terms, out_dtype, n):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kinds, scales = [d for d, _ in terms], [c for _, c in terms]
    inputs = [rng.integers(0, 256, n * kernels.itemsize(d), dtype=np.uint8) for d in kinds]
    size = n * kernels.itemsize(out_dtype)
    one, two = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    flags = kernels.combine(one, out_dtype, inputs, kinds, scales, n)
    assert kernels.combine_numpy(two, out_dtype, inputs, kinds, scales, n) == flags
    assert np.array_equal(words(one.view(NUMPY[out_dtype])), words(two.view(NUMPY[out_dtype])))


@given(floats, floats, st.floats(-2, 2, width=32), st.floats(-2, 2, width=32))
def test_a_sum_is_rounded_operation_by_operation_in_float32(x, y, a, b):
    n = min(len(x), len(y))
    x, y, out = x[:n].copy(), y[:n].copy(), np.empty(n, np.float32)
    kernels.combine(out.view("u1"), "F32", [x.view("u1"), y.view("u1")], ["F32", "F32"], [a, b], n)
    with np.errstate(all="ignore"):
        assert np.array_equal(words(out), words(np.float32(a) * x + np.float32(b) * y))


@given(arrays(np.float64, st.integers(0, 20), elements=st.floats()), st.sampled_from(["BF16", "F16", "F8_E5M2"]))
def test_float64_sums_are_rounded_once(values, dtype):
    exact = values.astype(np.longdouble)
    out, _ = encoded(values, dtype, source="F64")
    with np.errstate(all="ignore"):
        got = out.astype(np.longdouble)
        up = np.nextafter(out, np.array(np.inf, out.dtype)).astype(np.longdouble)
        down = np.nextafter(out, np.array(-np.inf, out.dtype)).astype(np.longdouble)
        finite = np.isfinite(got) & np.isfinite(exact)
        error = np.abs(got - exact)
        worse = (error > np.abs(up - exact)) | (error > np.abs(down - exact))
    assert not np.any(worse & finite)


@pytest.mark.parametrize("combine", [kernels.combine, kernels.combine_numpy])
def test_flags_tell_nan_from_overflow(combine):
    assert encoded(np.float32([1, 2]), "F16", combine=combine)[1] == 0
    assert encoded(np.float32([1, np.nan]), "BF16", combine=combine)[1] == kernels.NONFINITE
    assert encoded(np.float32([-np.inf]), "F32", combine=combine)[1] == kernels.NONFINITE
    assert encoded(np.float32([1e6]), "F16", combine=combine)[1] == kernels.OVERFLOWED
    assert encoded(np.float32([3.4e38]), "BF16", combine=combine)[1] == kernels.OVERFLOWED
    assert encoded(np.float32([65519.0]), "F16", combine=combine)[1] == 0
    assert encoded(np.float32([465]), "F8_E4M3", combine=combine)[1] == kernels.OVERFLOWED


def test_files_are_read_through_a_window_of_any_size(tmp_path):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 70_001)).astype(np.float32)
    (tmp_path / "x").write_bytes(b"head" + x.tobytes())
    expected = np.float32(0.5) * x + np.float32(0.25) * y
    with (tmp_path / "x").open("rb") as file:
        for window in (8192, 100_000, 1 << 20):
            out = np.empty_like(x)
            inputs = [(file.fileno(), 4), y.view("u1")]
            args = (out.view("u1"), "F32", inputs, ["F32", "F32"], [0.5, 0.25], len(x))
            assert kernels.combine(*args, bytearray(window)) == 0
            assert np.array_equal(out, expected)
        with pytest.raises(EOFError, match="input 0"):
            kernels.combine(out.view("u1"), "F32", [(file.fileno(), 8)], ["F32"], [1.0], len(x), bytearray(1 << 20))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), st.data())
def test_low_rank_rows_do_not_depend_on_where_a_range_begins(rank, rows, cols, data):
    rng = np.random.default_rng(rank * 100 + rows * 10 + cols)
    b, a = rng.standard_normal((rows, rank)).astype("f4"), rng.standard_normal((rank, cols)).astype("f4")
    whole = np.empty(rows * cols, np.float32)
    kernels.lowrank(whole, b, a, 0, whole.size, cols, rank, 0.5)
    assert np.allclose(whole, 0.5 * (b @ a).ravel(), rtol=1e-5, atol=1e-6)
    start = data.draw(st.integers(0, whole.size))
    part = np.empty(data.draw(st.integers(0, whole.size - start)), np.float32)
    for lowrank in (kernels.lowrank, kernels.lowrank_numpy):
        part[:] = np.nan
        lowrank(part, b, a, start, part.size, cols, rank, 0.5)
        assert np.array_equal(part, whole[start : start + part.size])


@given(st.integers(0, 2**31), st.integers(0, 3000))
def test_dots_and_signs_are_exact_counts(seed, n):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal(n).astype("f4") * rng.integers(0, 2, n).astype("f4") for _ in range(2))
    found = kernels.pair(x, y, n)
    assert found == kernels.pair_numpy(x, y, n)
    assert np.isclose(found[0], x.astype("f8") @ y.astype("f8"), rtol=1e-12, atol=1e-12)
    assert found[1] == np.sum((x != 0) & (y != 0))
    assert found[2] == np.sum(x * y < 0)
