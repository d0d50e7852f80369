"""What each operation does to a few numbers, by hand, in every implementation of the kernels; an operation is data."""

import pickle

import numpy as np
import pytest

from kernel_reference import NAME, draws, each_implementation
from taskvec.numbers import operations
from taskvec.numbers.operations import (
    AROUND,
    COUNT,
    DROP,
    ELECT,
    EQUAL,
    KEEP,
    MASK,
    NAMES,
    NONFINITE,
    NONZERO,
    OVERFLOWED,
    PAIR,
    RESULT,
    SIZE,
    SUM,
    TILE,
    WINDOW,
    Op,
)

INF, NAN = np.inf, np.nan


def result(kernels, *ops, start=0, out=np.float32, **inputs):
    """What the last operation makes of these inputs, and the flags. Inputs are F32, or F64 if the name says wide."""
    arrays = [np.asarray(x, np.float64 if name.startswith("wide") else np.float32) for name, x in inputs.items()]
    array = np.full(arrays[0].size, 77, out)
    written = ops if ops[-1].code in (SUM, AROUND) else (*ops, Op(SUM, (~(len(ops) - 1),), (1,)))
    kinds = [NAME[x.dtype] for x in arrays]
    flags = kernels.run(array, NAME[array.dtype], arrays, kinds, written, array.size, start)
    return array.tolist(), flags


def measured(kernels, op, *inputs):
    """The sink of an operation that only measures."""
    arrays = [np.float32(x) for x in inputs]
    assert kernels.run(None, "F32", arrays, ["F32"] * len(arrays), [op], arrays[0].size) == 0
    return op.sink.tolist()


# ---- an operation is data ------------------------------------------------------------------------------
def test_an_operation_needs_no_numbers_and_no_sink():
    op = Op(SUM, (0, ~1))
    assert (op.code, op.sources, op.numbers, op.sink) == (0, (0, -2), (), None)
    assert tuple(op) == (SUM, (0, ~1), (), None) and op == Op(sources=(0, ~1), code=SUM)


def test_an_operation_travels_to_another_process():
    op = Op(COUNT, (1,), (-1.0, 1.0), bytearray(4))
    assert pickle.loads(pickle.dumps(op)) == op


def test_a_result_is_a_tile_of_float32_and_a_window_holds_whole_tiles():
    assert RESULT == 4 * TILE and WINDOW % (8 * TILE) == 0


def test_every_operation_has_a_name_of_its_own_at_the_place_of_its_code():
    assert len({*NAMES}) == len(NAMES) == 12
    assert [getattr(operations, name) for name in NAMES] == [*range(len(NAMES))]


# ---- sums ----------------------------------------------------------------------------------------------
@each_implementation
def test_a_sum_of_nothing_is_zero_and_one_of_some_is_rounded_at_each_step(kernels):
    assert result(kernels, Op(SUM, ()), x=[5, 6]) == ([0, 0], 0)
    assert result(kernels, Op(SUM, (0, 1), (2, -3)), x=[5, 6], y=[1, 2]) == ([7, 6], 0)
    assert result(kernels, Op(SUM, (0, 1, 2), (1, 1, 1)), x=[2.0**25], y=[1], z=[-(2.0**25)]) == ([0], 0)


@each_implementation
def test_a_sum_is_wide_if_an_input_or_the_output_is(kernels):
    big = 2.0**25
    assert result(kernels, Op(SUM, (0, 1, 2), (1, 1, 1)), x=[big], y=[1], wide=[-big])[0] == [1]
    assert result(kernels, Op(SUM, (0, 1), (1, 1)), x=[big], y=[1], out=np.float64)[0] == [big + 1]


@each_implementation
def test_a_sum_that_others_are_made_of_is_rounded_to_float32_whatever_the_output_is(kernels):
    big = 2.0**25
    for out in (np.float32, np.float64):
        ops = Op(SUM, (0, 1), (1, 1)), Op(SUM, (~0,), (1,))
        assert result(kernels, *ops, x=[big], y=[1], out=out)[0] == [big]


@each_implementation
def test_a_sum_around_a_pivot_is_the_sum_of_differences_and_then_the_pivot(kernels):
    """x + 0.5 (y - x) + 2 v, where 0.7 x + 0.3 y would lose what is small beside x."""
    large, small = 2.0**24, 2.0**-10
    op = Op(AROUND, (0, 1, 2), (2, 0, 1, 0.5, 0.5, 2))
    assert result(kernels, op, x=[large, 4], y=[large, 6], v=[small, 1]) == ([large, 7], 0)
    assert np.signbit(result(kernels, op, x=[-0.0], y=[-0.0], v=[0])[0])
    op = Op(AROUND, (0, 1, 2), (2, 0, 0, 1, -1, 2))
    assert result(kernels, op, x=[large], y=[large + 2], v=[small]) == ([-2 + 2 * small], 0)


@each_implementation
@pytest.mark.parametrize("mass", [1, 2])
def test_a_point_that_comes_last_is_added_as_it_is(kernels, mass):
    """mass z + 0.5 (y - x)."""
    op = Op(AROUND, (0, 1, 2), (2, 2, mass, -0.5, 0.5, mass))
    made, flags = result(kernels, op, x=[1, 3], y=[5, 3], z=[10, -0.0])
    assert (made, flags) == ([2 + 10 * mass, 0], 0) and np.signbit(made[1])


@each_implementation
def test_where_a_sum_around_a_pivot_is_not_finite_the_sum_as_it_stands_decides(kernels):
    """-inf - (-inf) is NaN, and 3e38 - (-3e38) is more than float32 can hold; their means are -inf and 0."""
    op = Op(AROUND, (0, 1), (2, 0, 1, 0.5, 0.5))
    assert result(kernels, op, x=[-INF, 3e38, 1], y=[-INF, -3e38, 3]) == ([-INF, 0, 2], NONFINITE)


@each_implementation
@pytest.mark.parametrize(
    ("values", "dtype", "flags"),
    [
        ([1, 2], "F16", 0), ([1, NAN], "BF16", NONFINITE), ([-INF], "F32", NONFINITE), ([1e6], "F16", OVERFLOWED),
        ([3.4e38], "BF16", OVERFLOWED), ([65519], "F16", 0), ([464], "F8_E4M3", 0), ([465], "F8_E4M3", OVERFLOWED),
        ([61439], "F8_E5M2", 0), ([61440], "F8_E5M2", OVERFLOWED), ([3e38], "F32", 0),
        ([1e6, NAN], "F16", NONFINITE),
    ],
)  # fmt: skip
def test_flags_tell_what_is_not_finite_from_what_overflows(kernels, values, dtype, flags):
    out = np.empty(8 * len(values), np.uint8)
    args = [np.float32(values)], ["F32"], [Op(SUM, (0,), (1,))]
    assert kernels.run(out, dtype, *args, len(values)) == flags
    assert result(kernels, Op(SUM, (0,), (1,)), wide=[1e300])[1] == OVERFLOWED


# ---- operations with results ---------------------------------------------------------------------------
X = [-3, -2, -1, 0, 1, 2, 2, 3]


@each_implementation
@pytest.mark.parametrize(
    ("numbers", "kept"),
    [
        ((1, 3, INF, INF), [0, -2, -1, 0, 1, 2, 2, 0]),
        ((2, INF, INF, INF), [-3, -2, 0, 0, 0, 2, 2, 3]),
        ((2, INF, 2, INF), [-3, -2, 0, 0, 0, 2, 0, 3]),
        ((2, INF, 0, INF), [-3, 0, 0, 0, 0, 0, 0, 3]),
        ((0, 2, INF, 1), [0, 0, -1, 0, 1, 2, 2, 0]),
        ((0, 2, INF, 0), [0, -2, -1, 0, 1, 2, 2, 0]),
        ((1, 2, 1, 2), [0, 0, -1, 0, 0, 0, 2, 0]),
    ],
)
def test_kept_is_what_lies_between_and_of_the_equal_ones_the_first(kernels, numbers, kept):
    assert result(kernels, Op(KEEP, (0,), numbers), x=X)[0] == kept


@each_implementation
def test_what_is_not_finite_makes_the_result_nan(kernels):
    kept, _ = result(kernels, Op(KEEP, (0,), (0, 1, INF, INF)), x=[INF, -INF, NAN, 5, 0.5])
    assert np.isnan(kept[:3]).all() and kept[3:] == [0, 0.5]
    elected, _ = result(kernels, Op(ELECT, (0, 1), (0, 0, 0, 1, 1)), x=[1, INF], y=[NAN, 1])
    assert np.isnan(elected).all()


@each_implementation
def test_a_mask_keeps_what_its_bits_say_from_the_lowest(kernels):
    bits = np.array([0b00000101, 0b00000010], np.uint8)
    assert result(kernels, Op(MASK, (0,), (2,), bits), x=np.arange(1, 11))[0] == [2, 0, 6, 0, 0, 0, 0, 0, 0, 20]


@each_implementation
def test_a_run_that_names_no_start_begins_with_the_first_element(kernels):
    arrays, x = np.zeros((2, 50), np.float32), np.ones(50, np.float32)
    ops = [Op(DROP, (0,), (1, 2, 4, 2**31, 1)), Op(SUM, (~0,), (1,))]
    kernels.run(arrays[0], "F32", [x], ["F32"], ops, 50)
    kernels.run(arrays[1], "F32", [x], ["F32"], ops, 50, 0)
    assert np.array_equal(*arrays) and 0 < arrays[0].sum() < 50


@each_implementation
def test_a_drop_keeps_what_is_drawn_at_or_above_its_bound(kernels):
    drawn = draws(5, 6, 4, (1, 2)).tolist()
    for least in (0, drawn[2], drawn[2] + 1, 2**32 - 1):
        kept, _ = result(kernels, Op(DROP, (0,), (1, 2, 4, least, 3)), start=5, x=[1, 2, 3, 4, 5, 6])
        assert kept == [3 * x if d >= least else 0 for x, d in zip(range(1, 7), drawn, strict=True)]


@each_implementation
@pytest.mark.parametrize(
    ("numbers", "elected"),
    [
        ((0, 0, 0), [4, 0, 0, 0, -3]),  # the sign of the sum, and the sum of those that agree
        ((0, 1, 0), [2, 0, 0, 0, -3]),  # divided by how many agree
        ((1, 0, 0), [4, 0, 0, 0, 2]),  # the sign that more have
        ((0, 0, 1), [4, 0, 1, 0, -3]),  # a sum of 0 elects plus
    ],
)
def test_those_that_agree_with_the_elected_sign_are_summed(kernels, numbers, elected):
    vectors = {"x": [1, 0, 1, 0, 1], "y": [3, 0, -1, 0, 1], "z": [-1, 0, 0, 0, -3]}
    assert result(kernels, Op(ELECT, (0, 1, 2), (*numbers, 1, 1, 1)), **vectors)[0] == elected


@each_implementation
def test_one_vector_elects_itself(kernels):
    assert result(kernels, Op(ELECT, (0,), (0, 1, 0, 1)), x=[2, -3, 0])[0] == [2, -3, 0]


@each_implementation
def test_the_mean_of_the_elected_counts_their_weights(kernels):
    def elected(flags, weights, **vectors):
        return result(kernels, Op(ELECT, tuple(range(len(vectors))), (*flags, *weights)), **vectors)[0]

    assert elected((0, 1, 0), (0.5, 1.5, 9), x=[1], y=[3], z=[-1]) == [2]
    assert elected((0, 1, 0), (4, 1), x=[1], y=[-3]) == [-3]
    assert elected((0, 1, 0), (1, 1), x=[2], y=[0]) == [2], "a zero agrees with nobody"
    assert elected((0, 1, 1), (0, 1), x=[2], y=[-1]) == [2], "weights of 0 divide by 1"


# ---- operations that measure ---------------------------------------------------------------------------
@each_implementation
def test_magnitudes_are_counted_by_the_upper_bits_and_then_by_the_lower_ones(kernels):
    x = np.float32([1, -1, 1.5, 2, 0, NAN])
    upper = (np.abs(x).view(np.uint32) >> 16).tolist()
    counts = measured(kernels, Op(COUNT, (0,), (-1, 1), np.ones((1 << 15) + 1, np.uint32)), x)
    assert sum(counts) == len(counts) + 6 and counts[upper[0]] == 3 and counts[upper[4]] == 2 and counts[-1] == 1
    first, bins = upper[0], 2
    low = first << 16
    near = np.array([low, low + 1, low + (1 << 16), low + (2 << 16), low - 1], np.uint32).view(np.float32)
    near = np.append(near, np.float32([-1, 1.5, -2, 0.5]))
    op = Op(COUNT, (0,), (first, bins), np.zeros((bins << 16) + 1, np.uint32))
    measured(kernels, op, near)
    assert np.flatnonzero(op.sink).tolist() == [0, 1, 1 << 16, 2 << 16]
    assert op.sink[[0, 1, 1 << 16, -1]].tolist() == [2, 1, 1, 3]
    measured(kernels, op, near)
    assert op.sink[0] == 4, "a sink is added to"


@each_implementation
def test_the_smallest_magnitudes_are_counted_one_by_one_too(kernels):
    op = Op(COUNT, (0,), (0, 1), np.zeros((1 << 16) + 1, np.uint32))
    measured(kernels, op, np.array([0, 1 << 31, 7, 0xFFFF, 0x10000], np.uint32).view(np.float32))
    assert np.flatnonzero(op.sink).tolist() == [0, 7, 0xFFFF, 0x10000] and op.sink[0] == 2 and op.sink[-1] == 1


@each_implementation
def test_equal_magnitudes_are_counted_span_by_span_and_larger_ones_at_the_end(kernels):
    x = np.zeros(2 * TILE + 5)
    x[[0, 5, TILE, 2 * TILE, 2 * TILE + 1]] = 2, -2, 2, 3, -2
    op = Op(EQUAL, (0,), (2, TILE), np.zeros(4, np.uint32))
    assert measured(kernels, op, x) == [2, 1, 1, 1]
    assert measured(kernels, op, x) == [4, 2, 2, 2], "a sink is added to"


@each_implementation
def test_a_pair_is_its_product_and_how_many_entries_meet_and_how_many_of_them_oppose(kernels):
    x, y = [1, 1, -1, 2, 0, 3, NAN, -4], [1, 3, 1, -2, 5, 0, 1, -1]
    sink = measured(kernels, Op(PAIR, (0, 1), (), np.zeros(3)), x, y)
    assert np.isnan(sink[0]) and sink[1:] == [5, 2]
    assert measured(kernels, Op(PAIR, (0, 1), (), np.zeros(3)), x[:6], y[:6]) == [1 + 3 - 1 - 4, 4, 2]
    assert measured(kernels, Op(PAIR, (0, 1), (), np.zeros(3)), [1e-30], [-1e-30])[1:] == [1, 1]


@each_implementation
def test_a_bit_is_set_for_all_but_plus_zero(kernels):
    op = Op(NONZERO, (0,), (), np.zeros(3, np.uint8))
    assert measured(kernels, op, [0, 1, -0.0, NAN, 0, 0, 0, 1e-45, 0, 2]) == [0b10001110, 0b10, 0]


@each_implementation
def test_what_only_measures_leaves_a_place_for_what_follows(kernels):
    sink = np.zeros(1)
    ops = Op(SIZE, (0,), (), sink), Op(KEEP, (0,), (2, INF, INF, INF)), Op(SUM, (~1,), (1,))
    assert result(kernels, *ops, x=X)[0] == [-3, -2, 0, 0, 0, 2, 2, 3] and sink == 14


# ---- draws, low rank, pruning --------------------------------------------------------------------------
@each_implementation
@pytest.mark.parametrize(
    ("counter", "key", "drawn"),  # the known answers of Random123 for philox4x32 with 10 rounds
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_generator_is_philox(kernels, counter, key, drawn):
    a, b, c, d = (int(word, 16) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    out = np.zeros(4, np.uint32)
    kernels.philox(out, 1, b << 32 | a, d << 32 | c, (k0, k1))
    assert [f"{word:08x}" for word in out] == drawn.split()


@each_implementation
@pytest.mark.parametrize("start", [0, 1, 4, 5, 9])
def test_low_rank_is_the_product_from_any_start(kernels, start):
    b, a = np.float32([[1, 2], [3, 4], [5, 6]]), np.float32([[1, 0, -1, 2, 0], [0, 1, 1, 0, 3]])
    whole = (np.float32(0.5) * (b @ a)).ravel()
    for n in (0, 1, 15 - start):
        out = np.zeros(n, np.float32)
        kernels.lowrank(out, b, a, start, n, 5, 2, 0.5)
        assert np.array_equal(out, whole[start : start + n])


def pruned(kernels, x, density, epsilon, scale, start=0):
    x = np.float32(x)
    out = np.zeros_like(x)
    kernels.prune(out, x, *x.shape, start, 4, (1, 2), density, epsilon, scale)
    return out


@each_implementation
def test_the_larger_of_a_row_stay_more_often(kernels):
    """Probabilities run over the ranks of a row from density - epsilon/2 to density + epsilon/2; equal entries share
    the mean of theirs."""
    row = np.float32([1, -5, 3, 3, 0.5])
    chances = np.float32([0.5 - 0.2 + 0.4 * rank / 4 for rank in (1, 4, 2.5, 2.5, 0)])
    for start in range(0, 200, 5):
        stays = draws(start, 5, 4, (1, 2)) * 2.0**-32 < chances
        assert np.array_equal(pruned(kernels, [row], 0.5, 0.4, 0, start)[0], np.where(stays, row / chances, 0))
        assert np.array_equal(pruned(kernels, [row], 0.5, 0.4, 3, start)[0], np.where(stays, 3 * row, 0))


@each_implementation
def test_the_chances_of_a_row_of_two_are_the_ends_and_none_is_above_one(kernels):
    for start in range(0, 60, 2):
        stays = draws(start, 2, 4, (1, 2)) * 2.0**-32 < np.float32([0.3, 0.7])
        assert np.array_equal(pruned(kernels, [[1, 5]], 0.5, 0.4, 1, start)[0], np.where(stays, [1, 5], 0))
    assert pruned(kernels, [[1, 5]], 1, 0.5, 0)[0, 1] == 5


@each_implementation
def test_an_entry_that_draws_its_very_chance_goes(kernels):
    drawn = draws(0, 2000, 4, (1, 2)) * 2.0**-32
    at = next(k for k, d in enumerate(drawn.tolist()) if float(np.float32(d)) == d)  # one that float32 can hold
    chance = float(drawn[at])
    assert pruned(kernels, [[1.0]], chance, 0, 1, at) == 0
    assert pruned(kernels, [[1.0]], float(np.nextafter(np.float32(chance), np.float32(1))), 0, 1, at) == 1


@each_implementation
def test_at_a_density_of_one_all_stays_and_a_row_of_one_has_the_lowest_chance(kernels):
    x = np.float32([[1, 2, 0], [4, -5, 6]])
    assert np.array_equal(pruned(kernels, x, 1, 0, 0), x) and np.array_equal(pruned(kernels, x, 1, 0, 2), 2 * x)
    single = pruned(kernels, np.ones((400, 1)), 0.5, 0.4, 1)
    assert set(single.ravel().tolist()) == {0, 1} and 0.2 < single.mean() < 0.4
