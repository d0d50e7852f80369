"""The arithmetic of a block: compiled and numpy give the same bits, and those are the documented ones."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from taskvec.numbers import kernels
from taskvec.numbers.dtypes import ARITHMETIC
from taskvec.numbers.in_numpy import lowrank_numpy, prune_numpy, run_numpy
from taskvec.numbers.operations import (
    AROUND,
    COUNT,
    DOT,
    DROP,
    ELECT,
    EQUAL,
    KEEP,
    MASK,
    NONFINITE,
    NONZERO,
    OVERFLOWED,
    PAIR,
    RESULT,
    SIZE,
    SUM,
    TILE,
    Op,
)

NUMPY = {
    "F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
dtypes = st.sampled_from(ARITHMETIC)
floats = arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
needs_compiled = pytest.mark.skipif(not kernels.COMPILED, reason="no C compiler when taskvec was installed")


def combine_numpy(out, dtype, inputs, dtypes, scales, n):
    return run_numpy(out, dtype, inputs, dtypes, (Op(SUM, tuple(range(len(inputs))), tuple(scales)),), n)


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
    assert combine_numpy(two, out_dtype, inputs, kinds, scales, n) == flags
    assert np.array_equal(words(one.view(NUMPY[out_dtype])), words(two.view(NUMPY[out_dtype])))


@needs_compiled
@given(st.data(), st.lists(dtypes, min_size=2, max_size=5), dtypes, st.integers(0, 5000), st.booleans())
def test_sums_around_a_pivot_agree_to_the_bit(data, kinds, out_dtype, n, spoiled):
    """Among them those of two and three bfloat16 tensors, which have loops of their own."""
    kinds = data.draw(st.sampled_from((kinds, ["BF16"] * min(len(kinds), 3))))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    inputs = [coarse(rng, n, spoiled).astype(NUMPY[d]).view("u1") for d in kinds]
    last = data.draw(st.booleans()) and len(kinds) > 2
    points = data.draw(st.integers(1, len(kinds) - last))
    numbers = [data.draw(st.sampled_from((1.0, 0.3, -0.7, 2.5))) for _ in kinds]
    shape = (points, last * (len(kinds) - 1), data.draw(st.sampled_from((0.0, 1.0, 0.7))))
    op = Op(AROUND, tuple(range(len(kinds))), (*shape, *numbers))
    one, two = np.empty(n, NUMPY[out_dtype]), np.empty(n, NUMPY[out_dtype])
    flags = kernels.run(one.view("u1"), out_dtype, inputs, kinds, (op,), n)
    assert run_numpy(two.view("u1"), out_dtype, inputs, kinds, (op,), n) == flags
    assert np.array_equal(words(one), words(two))


@pytest.mark.parametrize("kernel", [pytest.param(kernels.run, marks=needs_compiled), run_numpy])
@pytest.mark.parametrize("dtype", ["F32", "F64", "BF16"])
def test_where_a_sum_around_a_pivot_is_not_finite_the_sum_as_it_stands_decides(kernel, dtype):
    """-inf - (-inf) is NaN, and 3e38 - (-3e38) is more than float32 can hold; their means are -inf and 0."""
    x, y = (np.array(v).astype(NUMPY[dtype]) for v in ([-np.inf, 3e38, 1, np.nan], [-np.inf, -3e38, 3, 1]))
    out = np.empty(4, NUMPY[dtype])
    op = Op(AROUND, (0, 1), (2, 0, 1, 0.5, 0.5))
    assert kernel(out.view("u1"), dtype, [x.view("u1"), y.view("u1")], [dtype] * 2, (op,), 4) == NONFINITE
    assert np.array_equal(out.astype(np.float64), [-np.inf, 0, 2, np.nan], equal_nan=True)


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


@pytest.mark.parametrize("combine", [kernels.combine, combine_numpy])
def test_flags_tell_nan_from_overflow(combine):
    assert encoded(np.float32([1, 2]), "F16", combine=combine)[1] == 0
    assert encoded(np.float32([1, np.nan]), "BF16", combine=combine)[1] == NONFINITE
    assert encoded(np.float32([-np.inf]), "F32", combine=combine)[1] == NONFINITE
    assert encoded(np.float32([1e6]), "F16", combine=combine)[1] == OVERFLOWED
    assert encoded(np.float32([3.4e38]), "BF16", combine=combine)[1] == OVERFLOWED
    assert encoded(np.float32([65519.0]), "F16", combine=combine)[1] == 0
    assert encoded(np.float32([465]), "F8_E4M3", combine=combine)[1] == OVERFLOWED


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
    for lowrank in (kernels.lowrank, lowrank_numpy):
        part[:] = np.nan
        lowrank(part, b, a, start, part.size, cols, rank, 0.5)
        assert np.array_equal(part, whole[start : start + part.size])


@given(st.integers(0, 2**31), st.integers(0, 3000))
def test_dots_and_signs_are_exact_counts(seed, n):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal(n).astype("f4") * rng.integers(0, 2, n).astype("f4") for _ in range(2))
    found = kernels.pair(x, y, n)
    sink = np.zeros(3)
    run_numpy(None, "F32", [x, y], ["F32", "F32"], (Op(PAIR, (0, 1), (), sink),), n)
    assert found == tuple(sink)
    assert np.isclose(found[0], x.astype("f8") @ y.astype("f8"), rtol=1e-12, atol=1e-12)
    assert found[1] == np.sum((x != 0) & (y != 0))
    assert found[2] == np.sum(x * y < 0)


# ---- operations on tiles -------------------------------------------------------------------------------------------
SIZES = st.one_of(st.integers(0, 40), st.integers(TILE - 2, TILE + 2), st.integers(0, 5 * TILE))
QUOTAS = st.one_of(st.just(np.inf), st.integers(0, 30).map(float))


def programs(draw, inputs, n):
    """Sums of inputs and what methods make of them, results of results among them, a number of them written."""
    ops = [Op(SUM, (k, draw(st.integers(0, inputs - 1))), draw(pairs)) for k in range(inputs)]
    for _ in range(draw(st.integers(0, 4))):
        ref = st.integers(0, len(ops) - 1).map(lambda k: ~k)
        code = draw(st.sampled_from((SUM, AROUND, KEEP, DROP, MASK, ELECT)))
        if code == KEEP:
            low, high = draw(st.sampled_from(((0.0, np.inf), (0.5, 1.5), (1.0, 1.0), (1.0, 2.0))))
            ops.append(Op(KEEP, (draw(ref),), (low, high, draw(QUOTAS), draw(QUOTAS))))
        elif code == DROP:
            least = draw(st.sampled_from((0, 1 << 31, (1 << 31) + 77, 0xFFFFFF00)))
            ops.append(Op(DROP, (draw(ref),), (draw(keys), draw(keys), 2, least, draw(st.sampled_from((1.0, 2.5))))))
        elif code == MASK:
            bits = np.random.default_rng(draw(keys)).integers(0, 256, -(-n // 8)).astype(np.uint8)
            ops.append(Op(MASK, (draw(ref),), (draw(st.sampled_from((1.0, 2.5))),), bits))
        else:
            least = {ELECT: 1, AROUND: 2}.get(code, 0)
            several = tuple(draw(st.lists(ref, min_size=least, max_size=3)))
            flags = tuple(draw(st.tuples(*[st.booleans()] * 3))) if code == ELECT else ()
            flags = (draw(st.integers(1, len(several))), 0, draw(st.sampled_from((0, 1)))) if code == AROUND else flags
            ops.append(Op(code, several, flags + tuple(draw(st.sampled_from((1.0, 0.5, -0.3))) for _ in several)))
    return ops


pairs = st.sampled_from(((1.0, -1.0), (0.5, 0.25), (1.0, 0.0)))
keys = st.integers(0, 2**32 - 1)


def sinks(ops, n):
    """A measure of each kind, on the last results."""
    one, two = ~(len(ops) - 1), ~0
    return [
        Op(COUNT, (one,), (-1, 1), np.zeros((1 << 15) + 1, np.uint32)),
        Op(COUNT, (one,), (0x3F00, 3), np.zeros((3 << 16) + 1, np.uint32)),
        Op(EQUAL, (one,), (1.0, TILE), np.zeros(-(-n // TILE) + 1, np.uint32)),
        Op(SIZE, (one,), (), np.zeros(1)),
        Op(PAIR, (one, two), (), np.zeros(3)),
        Op(DOT, (one, two), (), np.zeros(1)),
        Op(NONZERO, (one,), (), np.zeros(-(-n // 8), np.uint8)),
    ]


def coarse(rng, shape, spoiled):
    """Numbers of which many are equal, and zeros; with `spoiled` NaN and Inf among them."""
    x = (rng.integers(-8, 9, shape) / np.float32(4)).astype(np.float32)
    if spoiled and x.size:
        x.reshape(-1)[rng.integers(0, x.size, 3)] = np.float32([np.nan, np.inf, -np.inf])
    return x


@needs_compiled
@given(st.data(), st.lists(st.sampled_from(("F32", "BF16", "F64")), min_size=1, max_size=3), SIZES, st.booleans())
def test_operations_give_numpy_s_bits(data, kinds, n, spoiled):
    x = [coarse(np.random.default_rng(n + k), n, spoiled).astype(NUMPY[kind]) for k, kind in enumerate(kinds)]
    start, dtype = data.draw(st.integers(0, 2**40)), data.draw(dtypes)
    ops = programs(data.draw, len(x), n)
    last, first = ~(len(ops) - 1), data.draw(st.sampled_from((0, ~0)))
    ends = [(last,), (first, last), (last, first), (first, last, ~0)]
    chosen = data.draw(st.sampled_from(ends))
    given = [*ops, *sinks(ops, n), Op(SUM, chosen, (1.0, 0.5, -0.25)[: len(chosen)])]
    copies = [Op(op.code, op.sources, op.numbers, None if op.sink is None else op.sink.copy()) for op in given]
    one, two = np.empty(n, NUMPY[dtype]), np.empty(n, NUMPY[dtype])
    raw = [v.view("u1") for v in x]
    flags = kernels.run(one.view("u1"), dtype, raw, kinds, given, n, start)
    assert run_numpy(two.view("u1"), dtype, raw, kinds, copies, n, start) == flags
    assert np.array_equal(words(one), words(two))
    for a, b in zip(given, copies, strict=True):
        if a.sink is not None:
            assert np.array_equal(a.sink, b.sink, equal_nan=a.sink.dtype == np.float64)


@given(st.integers(0, 3 * TILE), st.integers(0, 3 * TILE), st.sampled_from((0, 1 << 31, (1 << 31) + (1 << 15))))
def test_a_drop_depends_on_the_position_alone(start, n, least):
    x = np.ones(6 * TILE, np.float32)
    numbers = (12345, 678, 2, least, 1.0)
    whole = kernels.apply(DROP, [x], numbers)
    assert np.array_equal(kernels.apply(DROP, [x[:n]], numbers, start), whole[start : start + n])


@given(st.integers(0, 3 * TILE), keys, st.sampled_from((0.5, 1.0, 3.0)))
def test_a_mask_of_what_a_drop_left_makes_the_same_bits(n, key, scale):
    x = coarse(np.random.default_rng(key), n, spoiled=False) * np.float32(-1)  # -0 among them
    left = kernels.apply(DROP, [x], (key, 7, 2, 1 << 31, 1.0))
    bits = np.zeros(-(-n // 8), np.uint8)
    kernels.run(None, "F32", [left], ["F32"], [Op(NONZERO, (0,), (), bits)], n)
    ops = [Op(SUM, (0,), (1.0,)), Op(MASK, (~0,), (scale,), bits), Op(SUM, (~1,), (1.0,))]
    found = np.empty(n, np.float32)
    kernels.run(found, "F32", [x], ["F32"], ops, n)
    assert np.array_equal(words(found), words(kernels.apply(DROP, [x], (key, 7, 2, 1 << 31, scale))))


@given(SIZES, st.integers(0, 60), st.integers(0, 60))
def test_of_the_equal_ones_the_first_are_kept(n, quota, spared):
    x = coarse(np.random.default_rng(n), n, spoiled=False)
    found = kernels.apply(KEEP, [x], (0.5, 1.5, quota, spared))
    inside = (np.abs(x) > 0.5) & (np.abs(x) < 1.5)
    inside[np.flatnonzero(np.abs(x) == 0.5)[:quota]] = True
    inside[np.flatnonzero(np.abs(x) == 1.5)[spared:]] = True
    assert np.array_equal(found, np.where(inside, x, 0))


def test_operations_read_files_through_windows(tmp_path):
    rng = np.random.default_rng(5)
    base, tuned = rng.standard_normal((2, 50_001)).astype(ml_dtypes.bfloat16)
    for name, values in (("base", base), ("tuned", tuned)):
        (tmp_path / name).write_bytes(b"0123" + values.tobytes())
    tau = tuned.astype("f4") - base.astype("f4")
    kept = np.where(np.abs(tau) >= 1, tau, np.float32(0))
    expected = (base.astype("f4") + np.float32(0.5) * kept).astype(ml_dtypes.bfloat16)
    ops = [Op(SUM, (1, 0), (1, -1)), Op(KEEP, (~0,), (1, np.inf, np.inf, np.inf)), Op(SUM, (0, ~1), (1, 0.5))]
    with (tmp_path / "base").open("rb") as one, (tmp_path / "tuned").open("rb") as two:
        inputs = [(one.fileno(), 4), (two.fileno(), 4)]
        for room in (3 * RESULT + 4 * TILE, 1 << 20):
            out = np.empty_like(base)
            assert kernels.run(out.view("u1"), "BF16", inputs, ["BF16"] * 2, ops, len(base), 0, bytearray(room)) == 0
            assert np.array_equal(out, expected)


@needs_compiled
@pytest.mark.parametrize(
    ("op", "what"),
    [
        (Op(99, (0,), (1.0,)), "unknown"),
        (Op(SUM, (1,), (1.0,)), "no input and no earlier"),
        (Op(SUM, (~0,), (1.0,)), "no input and no earlier"),
        (Op(KEEP, (0,), (1.0,)), "wrong number"),
        (Op(AROUND, (0, 0), (3, 0, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (0, 0, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (float("nan"), 0, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (1, 1, 1.0, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0, 0), (1, 1, 1.0, 0.5, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0, 0), (3, 2, 1.0, 0.5, 0.5, 0.5)), "no such sum"),
        (Op(AROUND, (0,), (1, 0, 1.0, 0.5)), "no such sum"),
        (Op(AROUND, (0, 0), (2, 0, 1.0, 0.5)), "wrong number"),
        (Op(EQUAL, (0,), (1.0, 100), bytearray(64)), "multiple of a tile"),
        (Op(COUNT, (0,), (-1, 1), bytearray(64)), "a buffer of 64 bytes"),
        (Op(COUNT, (0,), (1 << 15, 1), bytearray(64)), "bad range"),
        (Op(NONZERO, (0,), (), bytearray()), "a buffer of 0 bytes"),
        (Op(MASK, (0,), (1.0,), b""), "a buffer of 0 bytes"),
    ],
)
def test_operations_that_cannot_be_are_refused(op, what):
    with pytest.raises(ValueError, match=what):
        kernels.run(None, "F32", [np.ones(8, np.float32)], ["F32"], [op], 8)


def rows_to_prune(rng, shape):
    """All different; many equal; differences of bfloat16, which lie on grids; mostly 0; one that dwarfs the others;
    many equal and as many that differ from them in their last bits."""
    normal = rng.standard_normal(shape).astype("f4")
    base, equal = normal * np.float32(0.02), coarse(rng, shape, spoiled=False)
    tuned = base + rng.standard_normal(shape).astype("f4") * np.float32(5e-4)
    dwarfed, near = normal.copy(), equal.copy()
    dwarfed[:, 0] = 1e9
    near[:, ::2] *= 1 + rng.integers(0, 3, near[:, ::2].shape) * np.float32(2.0**-23)
    grid = tuned.astype(ml_dtypes.bfloat16).astype("f4") - base.astype(ml_dtypes.bfloat16).astype("f4")
    return normal, equal, grid, normal * (rng.random(shape) < 0.1), dwarfed, near


@needs_compiled
@pytest.mark.parametrize("width", [1, 2, 7, 33, 96, 97, 2048, 5001, 70_000])
@pytest.mark.parametrize("density, epsilon", [(0.5, 0.2), (0.9, 0.2), (0.05, 0.3), (0.5, 0), (1, 0.5), (0.5, 1e-3)])
def test_rows_are_pruned_as_in_numpy(width, density, epsilon):
    """With a scale ranks are found only where a draw does not decide: the same as if rows were sorted."""
    rng = np.random.default_rng(width)
    rows = max(1, min(20_000 // width, 2000))
    for x in rows_to_prune(rng, (rows, width)):
        for scale in (0.0, 1.5):
            one, two = np.empty_like(x), np.empty_like(x)
            for prune, out in ((kernels.prune, one), (prune_numpy, two)):
                prune(out, x, rows, width, 4 * width + 3, 4, (1, 2), density, epsilon, scale)
            assert np.array_equal(words(one), words(two))


@needs_compiled
@pytest.mark.parametrize("width", [1, 8, 40, 2048, 5001])
def test_what_pruning_keeps_is_told_without_being_made(width):
    rng = np.random.default_rng(width)
    rows = 1 if width % 8 else 24
    for x in (rng.standard_normal((rows, width)).astype("f4"), coarse(rng, (rows, width), spoiled=True)):
        out, told = np.empty_like(x), []
        kernels.prune(out, x, rows, width, 16, 4, (1, 2), 0.5, 0.2, 1.5)
        for prune in (kernels.prune, prune_numpy):
            bits, sums = np.full(-(-rows * width // 8), 0xFF, np.uint8), np.array([1.0, 2.0])
            prune(None, x, rows, width, 16, 4, (1, 2), 0.5, 0.2, 1.5, bits, sums)
            told.append(sums)
            assert np.array_equal(np.unpackbits(bits, count=x.size, bitorder="little"), (words(out) != 0).ravel())
        assert np.array_equal(*told, equal_nan=True)
        expected = [1 + np.abs(x.astype("f8")).sum(), 2 + np.abs(out.astype("f8")).sum()]
        assert np.allclose(told[0], expected, rtol=1e-12, equal_nan=True)


@needs_compiled
def test_rows_that_share_a_byte_have_no_bits():
    x = np.ones((2, 9), np.float32)
    with pytest.raises(ValueError, match="bad size"):
        kernels.prune(None, x, 2, 9, 0, 4, (1, 2), 0.5, 0.2, 1.0, np.empty(3, np.uint8))
