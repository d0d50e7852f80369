"""What every implementation of the kernels passes: all operations and all dtypes give the bits of kernel_reference.py.

The implementations are listed there, in IMPLEMENTATIONS. Examples of each operation by hand are in test_operations.py.
"""

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernel_reference as reference
from kernel_reference import NAME, NUMPY, copies, each_implementation, every_number, magnitudes, words
from taskvec.numbers.dtypes import ARITHMETIC
from taskvec.numbers.operations import (
    AROUND,
    COUNT,
    DOT,
    DROP,
    ELECT,
    EQUAL,
    KEEP,
    MASK,
    NAMES,
    NONZERO,
    PAIR,
    RESULT,
    SIZE,
    SUM,
    TILE,
    Kernels,
    Op,
)

SMALL = [dtype for dtype in ARITHMETIC if dtype not in ("F32", "F64")]
INF = np.inf
dtypes = st.sampled_from(ARITHMETIC)
keys = st.integers(0, 2**32 - 1)


def require_same(kernels, inputs, ops, dtype, n, start=0):
    """The same array, the same flags and the same sinks as in kernel_reference.py."""
    wanted_ops = copies(ops)
    wanted, wanted_flags = reference.run(inputs, wanted_ops, dtype, n, start)
    out = None if dtype is None else np.empty(n, NUMPY[dtype])
    raw = [x.view("u1") for x in inputs]
    flags = kernels.run(
        None if out is None else out.view("u1"), dtype or "F32", raw, [NAME[x.dtype] for x in inputs], ops, n, start
    )
    if out is not None:
        assert np.array_equal(words(out), words(wanted)) and flags == wanted_flags
    for op, wanted_op in zip(ops, wanted_ops, strict=True):
        if op.sink is not None:
            assert np.array_equal(op.sink, wanted_op.sink, equal_nan=op.sink.dtype == np.float64), NAMES[op.code]


def coarse(rng, shape, spoiled=False):
    """float32 numbers, many of them equal, with zeros of both signs; if spoiled some are NaN, Inf or -Inf."""
    x = (rng.integers(-8, 9, shape) / np.float32(4)).astype(np.float32) * rng.choice(np.float32([1, -1]), shape)
    if spoiled and x.size:
        x.reshape(-1)[rng.integers(0, x.size, 3)] = np.float32([np.nan, np.inf, -np.inf])
    return x


@each_implementation
def test_an_implementation_has_the_functions_and_the_signatures_of_the_protocol(kernels):
    for name in ("run", "lowrank", "philox", "prune"):
        _, *promised = inspect.signature(getattr(Kernels, name)).parameters.values()  # the first one is self
        assert [*inspect.signature(getattr(kernels, name)).parameters.values()] == promised


# ---- numbers of every dtype ----------------------------------------------------------------------------
@each_implementation
@pytest.mark.parametrize("dtype", SMALL)
def test_every_word_decodes_to_its_number(kernels, dtype):
    every = every_number(dtype)
    for wider in ("F32", "F64"):
        require_same(kernels, [every], [Op(SUM, (0,), (1.0,))], wider, every.size)
    finite = every[np.isfinite(every.astype(np.float32))]
    require_same(kernels, [finite], [Op(SUM, (0,), (1.0,))], dtype, finite.size)


@each_implementation
@pytest.mark.parametrize("source", ["F32", "F64"])
@pytest.mark.parametrize("dtype", ARITHMETIC)
def test_a_number_is_encoded_as_the_nearest_of_equally_near_ones_the_even_one(kernels, dtype, source):
    """Among them the middles between neighbours, and what lies just beside these: in float64 by less than float32 can
    tell, so that a number that was rounded twice would be seen."""
    rng = np.random.default_rng(0)
    with np.errstate(invalid="ignore"):
        values = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32).astype(np.float64)
    if dtype in SMALL:
        known = magnitudes(dtype)
        middles = (known[1:] + known[:-1]) / 2
        step = 2.0**-40 if source == "F64" else 2.0**-20
        near = np.concatenate([known, middles, middles * (1 + step), middles * (1 - step)])
        values = np.concatenate([values, near, -near])
    with np.errstate(all="ignore"):
        values = np.append(values, [1e300, -1e300, 3.4e38, 0.0, -0.0]).astype(NUMPY[source])
    require_same(kernels, [values], [Op(SUM, (0,), (1.0,))], dtype, values.size)
    fits = values[np.isfinite(values) & (np.abs(values) <= (magnitudes(dtype)[-2] if dtype in SMALL else 1e38))]
    edge = magnitudes(dtype)[-2:].mean() if dtype in SMALL else 3.4e38  # from here on, or above, there is no number
    edge = np.array(edge, NUMPY[source])
    for last in (fits[-1], np.nextafter(edge, 0, dtype=edge.dtype), edge, edge * NUMPY[source](1 + 2.0**-20)):
        require_same(kernels, [np.append(fits, last)], [Op(SUM, (0,), (1.0,))], dtype, fits.size + 1)


# ---- sums of every dtype -------------------------------------------------------------------------------
@each_implementation
@given(st.data(), st.lists(st.tuples(dtypes, st.floats(-4, 4)), max_size=5), dtypes, st.integers(0, 5000))
def test_sums_of_any_words(kernels, data, terms, dtype, n):
    """Among them those of up to three bfloat16 tensors, which have loops of their own."""
    terms = data.draw(st.sampled_from((terms, [("BF16", c) for _, c in terms[:3]])))
    rng = np.random.default_rng(data.draw(keys))
    inputs = [rng.integers(0, 256, n * np.dtype(NUMPY[d]).itemsize, dtype=np.uint8).view(NUMPY[d]) for d, _ in terms]
    require_same(kernels, inputs, [Op(SUM, tuple(range(len(terms))), tuple(c for _, c in terms))], dtype, n)


@each_implementation
@given(st.data(), st.lists(dtypes, min_size=2, max_size=5), dtypes, st.integers(0, 5000), st.booleans())
def test_sums_around_a_pivot(kernels, data, kinds, dtype, n, spoiled):
    """Among them those of two and three bfloat16 tensors, which have loops of their own."""
    kinds = data.draw(st.sampled_from((kinds, ["BF16"] * min(len(kinds), 3))))
    rng = np.random.default_rng(data.draw(keys))
    inputs = [coarse(rng, n, spoiled).astype(NUMPY[d]) for d in kinds]
    last = data.draw(st.booleans()) and len(kinds) > 2
    points = data.draw(st.integers(1, len(kinds) - last))
    shape = (points, last * (len(kinds) - 1), data.draw(st.sampled_from((0.0, 1.0, 0.7))))
    numbers = [data.draw(st.sampled_from((1.0, 0.3, -0.7, 2.5))) for _ in kinds]
    require_same(kernels, inputs, [Op(AROUND, tuple(range(len(kinds))), (*shape, *numbers))], dtype, n)


@each_implementation
@pytest.mark.parametrize("out", ["F32", "BF16"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("points", [1, 2])
def test_a_tensor_and_a_vector_or_the_difference_of_two(kernels, dtype, out, points):
    """What methods begin and end with; in bfloat16 it has loops of its own."""
    rng = np.random.default_rng(points)
    for spoiled in (False, True):
        x = coarse(rng, 3000, spoiled).astype(NUMPY["BF16"])
        y = (coarse(rng, 3000, spoiled) * rng.standard_normal(3000)).astype(NUMPY[dtype])
        for mass in (0.0, 1.0):
            require_same(kernels, [x, y], [Op(AROUND, (0, 1), (points, 0, mass, -0.3, 0.3))], out, 3000)


# ---- every operation on every dtype --------------------------------------------------------------------
def measures(n, one, two):
    return [
        Op(COUNT, (one,), (-1, 1), np.ones((1 << 15) + 1, np.uint32)),
        Op(COUNT, (one,), (0x3F3E, 3), np.ones((3 << 16) + 1, np.uint32)),  # 0.75 is in the last of these bins
        Op(COUNT, (one,), (0x3F7F, 1), np.ones((1 << 16) + 1, np.uint32)),  # 1 is the first above
        Op(EQUAL, (one,), (1.0, TILE), np.ones(-(-n // TILE) + 1, np.uint32)),
        Op(SIZE, (one,), (), np.ones(1)),
        Op(PAIR, (one, two), (), np.ones(3)),
        Op(DOT, (one, two), (), np.ones(1)),
        Op(NONZERO, (one,), (), np.ones(-(-n // 8), np.uint8)),
    ]


def operations(n):
    """Each operation with numbers of each kind, on the results of three sums."""
    x, y, z = ~0, ~1, ~2
    bits = np.random.default_rng(n).integers(0, 256, -(-n // 8)).astype(np.uint8)
    flags = [(by_count, mean, plus) for by_count in (0, 1) for mean in (0, 1) for plus in (0, 1)]
    return [
        Op(SUM, (x, y, z), (0.3, -0.7, 1.0)),
        *(Op(AROUND, (x, y, z), (points, 0, mass, 0.3, 0.3, 0.4)) for points in (1, 2, 3) for mass in (0, 1, -0.7)),
        Op(AROUND, (x, y, z), (2, 2, 0.7, -0.3, 0.3, 0.7)),
        *(Op(KEEP, (x,), (0.5, 1.5, quota, spared)) for quota in (0, 200, INF) for spared in (0, 200, INF)),
        Op(KEEP, (x,), (1.0, 1.0, 150, 50)),
        *(Op(DROP, (x,), (12, 34, 2, least, 2.5)) for least in (0, 1 << 31, (1 << 31) + 77, 0xFFFFFF00)),
        *(Op(MASK, (x,), (scale,), bits) for scale in (1.0, 2.5)),
        *(
            Op(ELECT, (x, y, z), (*how, *weights))
            for how in flags
            for weights in ((1, 1, 1), (0.3, 0, -0.3), (0.3, 0.7, 0.1))
        ),
        *(Op(ELECT, (x, y), (*how, *weights)) for how in flags for weights in ((1, 1), (0.5, 2), (0.5, 1))),
        *measures(n, x, y),
    ]


@each_implementation
@pytest.mark.parametrize("dtype", ARITHMETIC)
@pytest.mark.parametrize("code", range(len(NAMES)), ids=NAMES)
def test_every_operation_on_every_dtype(kernels, code, dtype):
    """On two tiles and a part of one; what is written is that dtype, too."""
    n, start = 2 * TILE + 37, 1_000_003
    chosen = [op for op in operations(n) if op.code == code]
    assert chosen
    for spoiled in (False, True):
        rng = np.random.default_rng(code)
        inputs = [coarse(rng, n, spoiled).astype(NUMPY[dtype]) for _ in range(3)]
        sums = [Op(SUM, (k,), (1.0,)) for k in range(3)]
        for op in copies(chosen):
            result = ~3 if code <= ELECT else ~0
            require_same(kernels, inputs, [*sums, op, Op(SUM, (result, 1), (1.0, 0.5))], dtype, n, start)


@each_implementation
@pytest.mark.parametrize("code", range(COUNT, len(NAMES)), ids=NAMES[COUNT:])
def test_what_only_measures_needs_no_output_and_takes_float32_as_it_is(kernels, code):
    rng = np.random.default_rng(code)
    for n in (0, 1, 15, 16, 17, TILE, TILE + 1, 3 * TILE):
        inputs = [coarse(rng, n, spoiled) * np.float32(1.1) for spoiled in (False, True)]
        for op in measures(n, 0, 1) + measures(n, 1, 0):
            if op.code == code:
                require_same(kernels, inputs, [op], None, n)


@each_implementation
def test_what_methods_make_of_inputs_that_are_not_finite_is_nan_even_without_a_sum_before(kernels):
    rng = np.random.default_rng(0)
    inputs = [coarse(rng, 3000, spoiled=True) for _ in range(3)]
    for op in operations(3000):
        if op.code in (KEEP, DROP, MASK, ELECT):
            on_inputs = op._replace(sources=tuple(range(len(op.sources))))
            require_same(kernels, inputs, [on_inputs, Op(SUM, (~0,), (1,))], "F32", 3000)


SIZES = st.one_of(st.integers(0, 40), st.integers(TILE - 2, TILE + 2), st.integers(0, 5 * TILE))
QUOTAS = st.one_of(st.just(INF), st.integers(0, 30).map(float))


def programs(draw, inputs, n):
    """Sums of inputs and what methods make of them, results of results among them."""
    pairs = st.sampled_from(((1.0, -1.0), (0.5, 0.25), (1.0, 0.0)))
    ops = [Op(SUM, (k, draw(st.integers(0, inputs - 1))), draw(pairs)) for k in range(inputs)]
    for _ in range(draw(st.integers(0, 4))):
        results = st.integers(0, len(ops) - 1).map(lambda k: ~k)
        code = draw(st.sampled_from((SUM, AROUND, KEEP, DROP, MASK, ELECT)))
        if code == KEEP:
            low, high = draw(st.sampled_from(((0.0, INF), (0.5, 1.5), (1.0, 1.0), (1.0, 2.0))))
            ops.append(Op(KEEP, (draw(results),), (low, high, draw(QUOTAS), draw(QUOTAS))))
        elif code == DROP:
            least = draw(st.sampled_from((0, 1 << 31, (1 << 31) + 77, 0xFFFFFF00)))
            ops.append(
                Op(DROP, (draw(results),), (draw(keys), draw(keys), 2, least, draw(st.sampled_from((1.0, 2.5)))))
            )
        elif code == MASK:
            bits = np.random.default_rng(draw(keys)).integers(0, 256, -(-n // 8)).astype(np.uint8)
            ops.append(Op(MASK, (draw(results),), (draw(st.sampled_from((1.0, 2.5))),), bits))
        else:
            least = {ELECT: 1, AROUND: 2}.get(code, 0)
            several = tuple(draw(st.lists(results, min_size=least, max_size=3)))
            flags = tuple(draw(st.tuples(*[st.booleans()] * 3))) if code == ELECT else ()
            flags = (draw(st.integers(1, len(several))), 0, draw(st.sampled_from((0, 1)))) if code == AROUND else flags
            ops.append(Op(code, several, flags + tuple(draw(st.sampled_from((1.0, 0.5, -0.3))) for _ in several)))
    return ops


@each_implementation
@given(st.data(), st.lists(st.sampled_from(("F32", "BF16", "F64")), min_size=1, max_size=3), SIZES, st.booleans())
def test_operations_on_results_of_operations(kernels, data, kinds, n, spoiled):
    inputs = [coarse(np.random.default_rng(n + k), n, spoiled).astype(NUMPY[kind]) for k, kind in enumerate(kinds)]
    start, dtype = data.draw(st.integers(0, 2**40)), data.draw(dtypes)
    ops = programs(data.draw, len(inputs), n)
    last, first = ~(len(ops) - 1), data.draw(st.sampled_from((0, ~0)))
    chosen = data.draw(st.sampled_from([(last,), (first, last), (last, first), (first, last, ~0)]))
    ops += [*measures(n, last, ~0), Op(SUM, chosen, (1.0, 0.5, -0.25)[: len(chosen)])]
    require_same(kernels, inputs, ops, dtype, n, start)


# ---- files ---------------------------------------------------------------------------------------------
@each_implementation
@pytest.mark.parametrize("kinds", [("F32", "F32"), ("BF16", "F32"), ("F64", "F8_E4M3")])
def test_inputs_of_files_are_read_through_scratch_memory_of_any_size(kernels, kinds, tmp_path):
    n, rng = 50_001, np.random.default_rng(5)
    x, y = (rng.standard_normal(n).astype(NUMPY[kind]) for kind in kinds)
    (tmp_path / "x").write_bytes(b"0123" + x.tobytes())
    (tmp_path / "y").write_bytes(y.tobytes())
    ops = [Op(SUM, (1, 0), (1, -1)), Op(KEEP, (~0,), (1, INF, INF, INF)), Op(SUM, (0, ~1), (1, 0.5))]
    wanted, _ = reference.run([x, y], ops, "BF16", n)
    with (tmp_path / "x").open("rb") as one, (tmp_path / "y").open("rb") as two:
        for second in ((two.fileno(), 0), y.view("u1")):  # both in files; one in memory
            for memory in (3 * RESULT + 16 * TILE, 100_000, 1 << 20):
                out = np.empty_like(wanted)
                files = [(one.fileno(), 4), second]
                assert kernels.run(out.view("u1"), "BF16", files, kinds, ops, n, 0, bytearray(memory)) == 0
                assert np.array_equal(words(out), words(wanted))


@each_implementation
def test_a_file_that_ends_early_or_cannot_be_read_is_named_by_its_place(kernels, tmp_path):
    (tmp_path / "x").write_bytes(np.ones(3, np.float32).tobytes())
    out, four = np.zeros(4, np.float32), np.zeros(4, np.float32)
    ops, scratch = [Op(SUM, (0, 1), (1, 1))], bytearray(1 << 16)
    with (tmp_path / "x").open("rb") as file, pytest.raises(EOFError, match="input 1"):
        kernels.run(out, "F32", [four, (file.fileno(), 0)], ["F32"] * 2, ops, 4, 0, scratch)
    with pytest.raises(OSError) as error:
        kernels.run(out, "F32", [(9999, 0), four], ["F32"] * 2, ops, 4, 0, scratch)
    assert error.value.filename == "input 0"


# ---- draws, low rank, pruning --------------------------------------------------------------------------
@each_implementation
@pytest.mark.parametrize("n", [0, 1, 7, 255, 2049])
def test_the_words_of_many_counters(kernels, n):
    out, key = np.zeros(4 * n, np.uint32), (0xDEADBEEF, 77)
    for first, stream in (((1 << 32) - 5, 3), (0, 1 << 40)):
        kernels.philox(out, n, first, stream, key)
        assert out.tolist() == [word for k in range(n) for word in reference.philox(first + k, stream, key)]


@each_implementation
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), st.data())
def test_any_range_of_a_low_rank_product(kernels, rank, rows, cols, data):
    rng = np.random.default_rng(rank * 100 + rows * 10 + cols)
    b, a = rng.standard_normal((rows, rank)).astype("f4"), rng.standard_normal((rank, cols)).astype("f4")
    whole = reference.lowrank(b, a, 0.3).ravel()
    start = data.draw(st.integers(0, whole.size))
    part = np.full(data.draw(st.integers(0, whole.size - start)), np.nan, np.float32)
    kernels.lowrank(part, b, a, start, part.size, cols, rank, 0.3)
    assert np.array_equal(part, whole[start : start + part.size])


def rows_to_prune(rng, shape):
    """All different; many equal; differences of bfloat16, which lie on grids; mostly 0; one that dwarfs the others;
    many equal and as many that differ from them in their last bits."""
    normal = rng.standard_normal(shape).astype("f4")
    base, equal = normal * np.float32(0.02), coarse(rng, shape)
    tuned = base + rng.standard_normal(shape).astype("f4") * np.float32(5e-4)
    dwarfed, near = normal.copy(), equal.copy()
    dwarfed[:, 0] = 1e9
    near[:, ::2] *= 1 + rng.integers(0, 3, near[:, ::2].shape) * np.float32(2.0**-23)
    grid = tuned.astype(NUMPY["BF16"]).astype("f4") - base.astype(NUMPY["BF16"]).astype("f4")
    return normal, equal, grid, normal * (rng.random(shape) < 0.1), dwarfed, near


@each_implementation
@pytest.mark.parametrize("width", [1, 2, 7, 33, 96, 97, 2048, 5001, 70_000])
@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.2), (0.9, 0.2), (0.05, 0.3), (0.5, 0), (1, 0.5), (0.5, 1e-3)])
def test_rows_are_pruned_by_rank_and_draw(kernels, width, density, epsilon):
    """With a scale the compiled kernels look for the rank of an entry only where its draw does not decide."""
    rng = np.random.default_rng(width)
    rows = max(1, min(20_000 // width, 2000))
    for x in rows_to_prune(rng, (rows, width)):
        for scale in (0.0, 1.5):
            out = np.empty_like(x)
            kernels.prune(out, x, rows, width, 4 * width + 3, 4, (1, 2), density, epsilon, scale)
            wanted = reference.prune(x, 4 * width + 3, 4, (1, 2), density, epsilon, scale)
            assert np.array_equal(words(out), words(wanted))


@each_implementation
@pytest.mark.parametrize("width", [1, 8, 40, 2048, 5001])
def test_what_pruning_keeps_is_told_in_bits_and_sums(kernels, width):
    """With what is kept, and without making it; sums are added to."""
    rng = np.random.default_rng(width)
    rows = 1 if width % 8 else 24
    for x in (rng.standard_normal((rows, width)).astype("f4"), coarse(rng, (rows, width), spoiled=True)):
        kept = reference.prune(x, 16, 4, (1, 2), 0.5, 0.2, 1.5)
        wanted = np.array([1.0, 2.0])
        for before, after in zip(np.abs(x).tolist(), np.abs(kept).tolist(), strict=True):
            wanted += reference.in_lanes(before), reference.in_lanes(after)
        for out in (np.empty_like(x), None):
            bits, sums = np.full(-(-rows * width // 8), 0xFF, np.uint8), np.array([1.0, 2.0])
            kernels.prune(out, x, rows, width, 16, 4, (1, 2), 0.5, 0.2, 1.5, bits, sums)
            assert np.array_equal(np.unpackbits(bits, count=x.size, bitorder="little"), (words(kept) != 0).ravel())
            assert np.array_equal(sums, wanted, equal_nan=True)
            assert out is None or np.array_equal(words(out), words(kept))
