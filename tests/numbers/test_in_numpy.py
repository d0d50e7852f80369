"""Each operation in numpy on a few numbers by hand; the compiled kernels give the same bits (laws/test_kernels.py)."""

import os

import numpy as np
import pytest

from taskvec.numbers.in_numpy import draws_numpy, lowrank_numpy, philox_numpy, prune_numpy, run_numpy
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
    SIZE,
    SUM,
    Op,
)

INF, NAN = np.inf, np.nan


def result(*ops, start=0, out=np.float32, **inputs):
    """What the last operation makes of these inputs, F32 unless the name says another dtype, through a plain copy."""
    given = [np.asarray(x, np.float64 if name.startswith("wide") else np.float32) for name, x in inputs.items()]
    made = np.full(given[0].size, 77, out)
    copied = ops if ops[-1].code in (SUM, AROUND) else (*ops, Op(SUM, (~(len(ops) - 1),), (1,)))
    kinds = ["F64" if x.dtype == np.float64 else "F32" for x in given]
    flags = run_numpy(made, "F64" if out == np.float64 else "F32", given, kinds, copied, made.size, start)
    return made.tolist(), flags


def measured(op, *inputs):
    """The sink of an operation that only measures."""
    given = [np.float32(x) for x in inputs]
    assert run_numpy(None, "F32", given, ["F32"] * len(given), [op], given[0].size) == 0
    return op.sink.tolist()


# ---- sums --------------------------------------------------------------------------------------------
def test_a_sum_of_nothing_is_zero_and_one_of_some_is_rounded_at_each_step():
    assert result(Op(SUM, ()), x=[5, 6]) == ([0, 0], 0)
    assert result(Op(SUM, (0, 1), (2, -3)), x=[5, 6], y=[1, 2]) == ([7, 6], 0)
    big = float(np.float32(2.0**25))
    assert result(Op(SUM, (0, 1, 2), (1, 1, 1)), x=[big], y=[1], z=[-big]) == ([0], 0)


def test_a_sum_is_wide_if_an_input_or_the_output_is():
    big = 2.0**25
    for inputs, out in (({"x": [big], "y": [1], "wide": [-big]}, np.float32), ({"x": [big], "y": [1]}, np.float64)):
        sources = range(len(inputs))
        found, _ = result(Op(SUM, tuple(sources), (1,) * len(inputs)), out=out, **inputs)
        assert found == [1 if len(inputs) == 3 else big + 1]
    assert result(Op(SUM, (0, 1), (1, 1)), Op(SUM, (~0,), (1,)), x=[big], y=[1], out=np.float64)[0] == [big]


def test_a_sum_that_others_are_made_of_is_rounded_to_float32_at_each_step_whatever_the_output_is():
    big = 2.0**25
    first = Op(SUM, (0, 1, 2), (1, 1, -1))
    for out in (np.float32, np.float64):
        assert result(first, Op(SUM, (~0,), (1,)), x=[big], y=[1], z=[big], out=out)[0] == [0]


def test_a_sum_around_a_pivot_is_the_sum_of_differences_and_then_the_pivot():
    """x + 0.5 (y - x) + 2 v, where 0.7 x + 0.3 y would lose what is small beside x."""
    large, small = 2.0**24, 2.0**-10
    op = Op(AROUND, (0, 1, 2), (2, 0, 1, 0.5, 0.5, 2))
    assert result(op, x=[large, 4], y=[large, 6], v=[small, 1]) == ([large, 7], 0)
    assert result(op, x=[-0.0], y=[-0.0], v=[0])[0] == [-0.0] and np.signbit(result(op, x=[-0.0], y=[-0.0], v=[0])[0])
    op = Op(AROUND, (0, 1, 2), (2, 0, 0, 1, -1, 2))
    assert result(op, x=[large], y=[large + 2], v=[small]) == ([-2 + 2 * small], 0)


def test_a_point_that_comes_last_is_added_as_it_is():
    """z + 0.5 (y - x), and with a mass of 2 twice z."""
    for mass in (1, 2):
        op = Op(AROUND, (0, 1, 2), (2, 2, mass, -0.5, 0.5, mass))
        assert result(op, x=[1, 3], y=[5, 3], z=[10, -0.0]) == ([2 + 10 * mass, -0.0], 0)
        assert np.signbit(result(op, x=[1, 3], y=[5, 3], z=[10, -0.0])[0][1])


def test_where_differences_are_not_finite_the_plain_sum_decides():
    op = Op(AROUND, (0, 1), (2, 0, 1, 0.5, 0.5))
    assert result(op, x=[3e38, 1], y=[-3e38, 3]) == ([0, 2], 0)
    found, flags = result(op, x=[INF, 1], y=[INF, 3])
    assert found == [INF, 2] and flags == NONFINITE


def test_flags_tell_nan_and_infinity_from_overflow():
    assert result(Op(SUM, (0,), (1,)), x=[1, NAN])[1] == NONFINITE
    assert result(Op(SUM, (0,), (1,)), x=[3e38, 1])[1] == 0
    assert result(Op(SUM, (0,), (1,)), wide=[1e300])[1] == OVERFLOWED
    made = np.zeros(1, np.uint16)
    assert run_numpy(made, "F16", [np.float32([7e4])], ["F32"], [Op(SUM, (0,), (1,))], 1) == OVERFLOWED


def test_inputs_of_files_are_read_from_their_offset_and_an_end_is_stated(tmp_path):
    (tmp_path / "x").write_bytes(b"ab" + np.float32([1, 2, 3]).tobytes())
    with (tmp_path / "x").open("rb") as file:
        out = np.zeros(3, np.float32)
        assert run_numpy(out, "F32", [(file.fileno(), 2)], ["F32"], [Op(SUM, (0,), (2,))], 3) == 0
        assert out.tolist() == [2, 4, 6]
        with pytest.raises(EOFError, match="input 1"):
            ends = [np.zeros(4, np.float32), (file.fileno(), 2)]
            run_numpy(np.zeros(4, np.float32), "F32", ends, ["F32"] * 2, [Op(SUM, (0, 1), (1, 1))], 4)
    with pytest.raises(OSError) as told:
        run_numpy(out, "F32", [(9999, 0)], ["F32"], [Op(SUM, (0,), (1,))], 3)
    assert told.value.filename == "input 0"


def test_a_file_that_is_read_in_short_pieces_is_read_whole(tmp_path, monkeypatch):
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 3), at))
    (tmp_path / "x").write_bytes(np.float32([1, 2, 3]).tobytes())
    with (tmp_path / "x").open("rb") as file:
        out = np.zeros(3, np.float32)
        run_numpy(out, "F32", [(file.fileno(), 0)], ["F32"], [Op(SUM, (0,), (1,))], 3)
    assert out.tolist() == [1, 2, 3]


# ---- operations with results -------------------------------------------------------------------------
X = [-3, -2, -1, 0, 1, 2, 2, 3]


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
def test_kept_is_what_lies_between_and_of_the_equal_ones_the_first(numbers, kept):
    assert result(Op(KEEP, (0,), numbers), x=X)[0] == kept


def test_what_is_not_finite_makes_the_result_nan():
    found, _ = result(Op(KEEP, (0,), (0, 1, INF, INF)), x=[INF, -INF, NAN, 5, 0.5])
    assert np.isnan(found[:3]).all() and found[3:] == [0, 0.5]
    found, _ = result(Op(ELECT, (0, 1), (0, 0, 0, 1, 1)), x=[1, INF], y=[NAN, 1])
    assert np.isnan(found).all()


def test_a_mask_keeps_what_its_bits_say_from_the_lowest():
    bits = np.array([0b00000101, 0b00000010], np.uint8)
    assert result(Op(MASK, (0,), (2,), bits), x=np.arange(1, 11))[0] == [2, 0, 6, 0, 0, 0, 0, 0, 0, 20]


def test_a_run_that_names_no_start_begins_with_the_first_element():
    made, x = np.zeros((2, 50), np.float32), np.ones(50, np.float32)
    ops = [Op(DROP, (0,), (1, 2, 4, 2**31, 1)), Op(SUM, (~0,), (1,))]
    run_numpy(made[0], "F32", [x], ["F32"], ops, 50)
    run_numpy(made[1], "F32", [x], ["F32"], ops, 50, 0)
    assert np.array_equal(*made) and 0 < made[0].sum() < 50


def test_a_drop_keeps_what_is_drawn_at_or_above_its_bound():
    draws = draws_numpy(5, 6, 4, (1, 2))
    for least in (0, int(draws[2]), int(draws[2]) + 1, 2**32 - 1):
        found, _ = result(Op(DROP, (0,), (1, 2, 4, least, 3)), start=5, x=[1, 2, 3, 4, 5, 6])
        assert found == [3 * x if d >= least else 0 for x, d in zip(range(1, 7), draws, strict=True)]


@pytest.mark.parametrize(
    ("numbers", "elected"),
    [
        ((0, 0, 0), [4, 0, 0, 0, -3]),  # the sign of the sum, and the sum of those that agree
        ((0, 1, 0), [2, 0, 0, 0, -3]),  # divided by how many agree
        ((1, 0, 0), [4, 0, 0, 0, 2]),  # the sign that more have
        ((0, 0, 1), [4, 0, 1, 0, -3]),  # a sum of 0 elects plus
    ],
)
def test_those_that_agree_with_the_elected_sign_are_summed(numbers, elected):
    vectors = {"x": [1, 0, 1, 0, 1], "y": [3, 0, -1, 0, 1], "z": [-1, 0, 0, 0, -3]}
    assert result(Op(ELECT, (0, 1, 2), (*numbers, 1, 1, 1)), **vectors)[0] == elected


def test_one_vector_elects_itself():
    assert result(Op(ELECT, (0,), (0, 1, 0, 1)), x=[2, -3, 0])[0] == [2, -3, 0]


def test_the_mean_of_the_elected_counts_their_weights():
    assert result(Op(ELECT, (0, 1, 2), (0, 1, 0, 0.5, 1.5, 9)), x=[1], y=[3], z=[-1])[0] == [2]
    assert result(Op(ELECT, (0, 1), (0, 1, 0, 4, 1)), x=[1], y=[-3])[0] == [-3]
    assert result(Op(ELECT, (0, 1), (0, 1, 0, 1, 1)), x=[2], y=[0])[0] == [2], "a zero agrees with nobody"
    assert result(Op(ELECT, (0, 1), (0, 1, 1, 0, 1)), x=[2], y=[-1])[0] == [2], "weights of 0 divide by 1"


# ---- operations that measure ---------------------------------------------------------------------------
def test_magnitudes_are_counted_by_the_upper_bits_and_then_by_the_lower_ones():
    x = np.float32([1, -1, 1.5, 2, 0, NAN])
    upper = (np.abs(x).view(np.uint32) >> 16).tolist()
    counts = measured(Op(COUNT, (0,), (-1, 1), np.ones((1 << 15) + 1, np.uint32)), x)
    assert sum(counts) == len(counts) + 6 and counts[upper[0]] == 3 and counts[upper[4]] == 2 and counts[-1] == 1
    first, bins = upper[0], 2
    sink = np.zeros((bins << 16) + 1, np.uint32)
    near = np.array(
        [first << 16, (first << 16) + 1, (first + 1) << 16, (first + 2) << 16, (first << 16) - 1], np.uint32
    )
    near = np.append(near.view(np.float32), np.float32([-1, 1.5, -2, 0.5]))
    assert run_numpy(None, "F32", [near], ["F32"], [Op(COUNT, (0,), (first, bins), sink)], near.size) == 0
    assert np.flatnonzero(sink).tolist() == [0, 1, 1 << 16, 2 << 16] and sink[[0, 1, 1 << 16, -1]].tolist() == [
        2,
        1,
        1,
        3,
    ]
    run_numpy(None, "F32", [near], ["F32"], [Op(COUNT, (0,), (first, bins), sink)], near.size)
    assert sink[0] == 4, "a sink is added to"


def test_the_smallest_magnitudes_are_counted_one_by_one_too():
    sink = np.zeros((1 << 16) + 1, np.uint32)
    x = np.array([0, 1 << 31, 7, 0xFFFF, 0x10000], np.uint32).view(np.float32)
    run_numpy(None, "F32", [x], ["F32"], [Op(COUNT, (0,), (0, 1), sink)], x.size)
    assert np.flatnonzero(sink).tolist() == [0, 7, 0xFFFF, 0x10000] and sink[0] == 2 and sink[-1] == 1


def test_equal_magnitudes_are_counted_span_by_span_and_larger_ones_at_the_end():
    sink = np.zeros(4, np.uint32)
    assert measured(Op(EQUAL, (0,), (2, 3), sink), X) == [1, 1, 1, 2]
    assert measured(Op(EQUAL, (0,), (2, 3), sink), X) == [2, 2, 2, 4]


def test_sizes_and_products_are_float64_lane_by_lane():
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.standard_normal((2, 1000)) * 10 ** rng.uniform(-9, 9, (2, 1000)))
    for op, terms in ((Op(SIZE, (0,), (), np.zeros(1)), np.abs(x.astype("f8"))),
                      (Op(DOT, (0, 1), (), np.zeros(1)), x.astype("f8") * y.astype("f8"))):  # fmt: skip
        lanes = [0.0] * 16
        for k, term in enumerate(terms.tolist()):
            lanes[k % 16] += term
        wanted = 0.0
        for lane in lanes:
            wanted += lane
        assert measured(op, x, *([y] if op.code == DOT else [])) == [wanted]
    assert measured(Op(SIZE, (0,), (), np.ones(1)), np.zeros(0)) == [0]


def test_a_pair_is_its_product_and_how_many_entries_meet_and_how_many_of_them_oppose():
    x, y = [1, 1, -1, 2, 0, 3, NAN, -4], [1, 3, 1, -2, 5, 0, 1, -1]
    found = measured(Op(PAIR, (0, 1), (), np.zeros(3)), x, y)
    assert np.isnan(found[0]) and found[1:] == [5, 2]
    assert measured(Op(PAIR, (0, 1), (), np.zeros(3)), x[:6], y[:6]) == [1 + 3 - 1 - 4, 4, 2]


def test_a_bit_is_set_for_all_but_plus_zero():
    sink = np.zeros(3, np.uint8)
    assert measured(Op(NONZERO, (0,), (), sink), [0, 1, -0.0, NAN, 0, 0, 0, 1e-45, 0, 2]) == [0b10001110, 0b10, 0]


def test_what_only_measures_leaves_a_place_for_what_follows():
    sink = np.zeros(1)
    found, _ = result(Op(SIZE, (0,), (), sink), Op(KEEP, (0,), (2, INF, INF, INF)), Op(SUM, (~1,), (1,)), x=X)
    assert found == [-3, -2, 0, 0, 0, 2, 2, 3] and sink == 14


# ---- draws, low rank, pruning ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counter", "key", "drawn"),  # the known answers of Random123 for philox4x32 with 10 rounds
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_generator_is_philox(counter, key, drawn):
    a, b, c, d = (int(word, 16) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    out = np.zeros(4, np.uint32)
    philox_numpy(out, 1, b << 32 | a, d << 32 | c, (k0, k1))
    assert [f"{word:08x}" for word in out] == drawn.split()


def test_counters_follow_one_another():
    out, one = np.zeros(12, np.uint32), np.zeros(4, np.uint32)
    philox_numpy(out, 3, 2**32 - 1, 7, (1, 2))
    for k in range(3):
        philox_numpy(one, 1, 2**32 - 1 + k, 7, (1, 2))
        assert np.array_equal(out[4 * k : 4 * k + 4], one)


def test_an_entry_draws_the_same_wherever_a_range_begins():
    whole = draws_numpy(0, 100, 6, (3, 4))
    words = np.zeros((2, 52), np.uint32)
    for k in (0, 1):
        philox_numpy(words[k], 13, 0, 6 + k, (3, 4))
    upper, lower = words.view(np.uint16)[:, :100].astype(np.uint32)
    assert whole.dtype == np.uint32 and np.array_equal(whole, upper << 16 | lower)
    for start, n in ((0, 0), (1, 1), (7, 2), (8, 8), (9, 91), (15, 33)):
        assert np.array_equal(draws_numpy(start, n, 6, (3, 4)), whole[start : start + n])


@pytest.mark.parametrize("at", [0, 1, 4, 5, 9])
def test_low_rank_is_the_product_from_any_start(at):
    b, a = np.float32([[1, 2], [3, 4], [5, 6]]), np.float32([[1, 0, -1, 2, 0], [0, 1, 1, 0, 3]])
    whole = (np.float32(0.5) * (b @ a)).ravel()
    for n in (0, 1, 15 - at):
        out = np.zeros(n, np.float32)
        lowrank_numpy(out, b, a, at, n, 5, 2, 0.5)
        assert np.array_equal(out, whole[at : at + n])


def pruned(x, density, epsilon, scale, key=(1, 2), start=0, **sinks):
    x = np.float32(x)
    out = np.zeros_like(x)
    prune_numpy(out, x, *x.shape, start, 4, key, density, epsilon, scale, **sinks)
    return out


def test_the_larger_of_a_row_stay_more_often():
    """Probabilities run over the ranks of a row from density - epsilon/2 to density + epsilon/2; equal entries share
    the mean of theirs."""
    row = np.float32([1, -5, 3, 3, 0.5])
    chances = np.float32([0.5 - 0.2 + 0.4 * rank / 4 for rank in (1, 4, 2.5, 2.5, 0)])
    for start in range(0, 200, 5):
        drawn = draws_numpy(start, 5, 4, (1, 2)) * 2.0**-32
        assert np.array_equal(pruned([row], 0.5, 0.4, 0, start=start)[0], np.where(drawn < chances, row / chances, 0))
        assert np.array_equal(pruned([row], 0.5, 0.4, 3, start=start)[0], np.where(drawn < chances, 3 * row, 0))


def test_the_chances_of_a_row_of_two_are_the_ends_and_none_is_above_one():
    for start in range(0, 60, 2):
        drawn, chances = draws_numpy(start, 2, 4, (1, 2)) * 2.0**-32, np.float32([0.3, 0.7])
        assert np.array_equal(pruned([[1, 5]], 0.5, 0.4, 1, start=start)[0], np.where(drawn < chances, [1, 5], 0))
    assert pruned([[1, 5]], 1, 0.5, 0)[0, 1] == 5


def test_an_entry_that_draws_its_very_chance_goes():
    drawn = draws_numpy(0, 2000, 4, (1, 2)) * 2.0**-32
    at = next(k for k, d in enumerate(drawn.tolist()) if float(np.float32(d)) == d)  # one that float32 can hold
    chance = float(drawn[at])
    assert pruned([[1.0]], chance, 0, 1, start=at) == 0
    assert pruned([[1.0]], float(np.nextafter(np.float32(chance), np.float32(1))), 0, 1, start=at) == 1


def test_at_a_density_of_one_all_stays_and_a_row_of_one_has_the_lowest_chance():
    x = np.float32([[1, 2, 0], [4, -5, 6]])
    assert np.array_equal(pruned(x, 1, 0, 0), x) and np.array_equal(pruned(x, 1, 0, 2), 2 * x)
    single = pruned(np.ones((400, 1)), 0.5, 0.4, 1)
    assert set(single.ravel().tolist()) == {0, 1} and 0.2 < single.mean() < 0.4


def test_what_pruning_keeps_is_told_in_bits_and_sums():
    x = np.float32(np.random.default_rng(0).standard_normal((2, 8)))
    bits, sums = np.zeros(2, np.uint8), np.array([1.0, 2.0])
    out = pruned(x, 0.5, 0.2, 1.5, bits=bits, sums=sums)
    assert np.array_equal(np.unpackbits(bits, bitorder="little").reshape(2, 8), out != 0)
    wanted = [1 + np.abs(x.astype("f8")).sum(), 2 + np.abs(out.astype("f8")).sum()]
    assert sums.tolist() == pytest.approx(wanted, rel=1e-14)
    prune_numpy(None, x, 2, 8, 0, 4, (1, 2), 0.5, 0.2, 1.5, None, again := np.zeros(2))
    assert again.tolist() == pytest.approx([wanted[0] - 1, wanted[1] - 2])
