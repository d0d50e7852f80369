"""How a sum is arranged around a pivot, and what the kernels are told of it."""

import os
from fractions import Fraction

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.program import (
    Linear,
    Program,
    aligned,
    alone,
    arranged,
    evaluate,
    scratch_bytes,
)
from taskvec.errors import RecipeError, SourceChanged, TaskvecError
from taskvec.numbers.operations import AROUND, MOST_INPUTS, RESULT, SUM, TILE, WINDOW, Op


def source(name, value, mass=1, dtype=np.float32):
    (only,) = tv.from_arrays({"w": np.full(100, value, dtype)}, name, mass).terms
    return only


def value(reader):
    """What every element of a source is."""
    out = bytearray(4)
    reader.readinto("w", 0, memoryview(out))
    return float(np.frombuffer(out, np.float32)[0])


MODELS = sorted((source(f"m{k}", k) for k in range(4)), key=lambda s: s.fingerprint)
A, B, C, D = MODELS  # in the order of summation
V, W = sorted((source(f"v{k}", 10 + k, mass=0) for k in range(2)), key=lambda s: s.fingerprint)


def arrangement(numbers, **options):
    """(sources and numbers in the order in which they are summed, what else is said of the sum)."""
    linear = arranged({(s, "w"): Fraction(str(c)) for s, c in numbers.items()}, **options)
    return [(s, c) for s, _, c in linear.terms], (linear.points, linear.mass, linear.apart)


# ---- the arrangement ----------------------------------------------------------------------------------
def test_the_point_with_the_largest_number_is_the_pivot_and_vectors_come_last():
    terms, shape = arrangement({V: 2, A: 0.2, C: 0.5, W: -1, B: 0.3})
    assert terms == [(C, 0.5), (A, 0.2), (B, 0.3), (V, 2), (W, -1)] and shape == (3, 1, False)


@pytest.mark.parametrize(
    ("numbers", "pivot"),
    [
        ({A: 0.5, B: 0.5}, A),  # of equals the first in the order of summation
        ({A: 0.5, B: -0.5}, B),  # but one that is subtracted before one that is added
        ({A: -0.5, B: -0.5, C: 0.3}, A),
        ({A: 0.2, B: -0.7, C: 0.6}, B),  # the size counts, not the sign
    ],
)
def test_among_equals_one_that_is_subtracted_is_the_pivot_and_then_the_first(numbers, pivot):
    for order in (list(numbers), list(numbers)[::-1]):
        terms, _ = arrangement({s: numbers[s] for s in order})
        assert terms[0][0] is pivot
        assert [s for s, _ in terms[1:]] == [s for s in MODELS if s in numbers and s is not pivot]


def test_a_point_with_the_number_of_the_mass_is_added_as_it_is():
    terms, shape = arrangement({A: -0.5, C: 1, B: 0.5, V: 3})
    assert terms == [(A, -0.5), (B, 0.5), (V, 3), (C, 1)] and shape == (2, 1, True)
    terms, shape = arrangement({A: 1, B: -1, C: 1})
    assert terms == [(B, -1), (C, 1), (A, 1)] and shape == (2, 1, True), "of two such points the first"


def test_two_points_have_a_pivot_even_if_one_has_the_number_of_the_mass():
    terms, shape = arrangement({A: 1, B: 0, V: 2})
    assert terms == [(A, 1), (B, 0), (V, 2)] and shape == (2, 1, False)


def test_where_no_point_has_the_number_of_the_mass_all_have_one_pivot():
    _, shape = arrangement({A: 0.5, B: 0.5, C: 0.5, D: -0.5})
    assert shape == (4, 1, False)
    _, shape = arrangement({A: 0.5, B: 0.25})
    assert shape == (2, 0.75, False)


def test_one_source_and_vectors_alone_are_summed_as_they_stand():
    for numbers in ({A: 0.3}, {V: 2, W: -1}, {W: 1}, {}):
        terms, shape = arrangement(numbers)
        assert dict(terms) == pytest.approx(numbers) and shape == (0, 0, False)


def test_floats_bring_their_mass_which_their_sum_would_miss():
    """0.1 + 0.2 - 0.3 is not 0, so that the sum of all would not be seen to be that of the first."""
    numbers = {(A, "w"): 1.0, (B, "w"): 0.1, (C, "w"): 0.2, (D, "w"): -0.3}
    assert arranged(numbers, 1).apart and not arranged(numbers).apart
    assert arranged(numbers, 1).mass == 1 and type(arranged(numbers, 1).mass) is float


def test_tensors_of_one_source_are_ordered_by_their_names():
    (two,) = tv.from_arrays({"w": np.ones(2, np.float32), "v": np.ones(2, np.float32)}, "two", 0).terms
    assert [name for _, name, _ in arranged({(two, "w"): 1, (two, "v"): 2}).terms] == ["v", "w"]


def test_more_sources_than_a_kernel_takes_are_refused():
    (many,) = tv.from_arrays({str(k): np.zeros(1, np.float32) for k in range(MOST_INPUTS + 1)}, "many", 0).terms
    parts = {(many, name): 1 for name in many.specs}
    with pytest.raises(RecipeError, match="at most 4096 sources, not 4097: save parts of it first"):
        arranged(parts)
    assert len(arranged(dict(list(parts.items())[1:])).terms) == MOST_INPUTS


def test_a_number_that_is_no_float_is_refused():
    with pytest.raises(RecipeError, match="too large for a float"):
        arranged({(A, "w"): Fraction(10**400)})


def test_an_empty_sum_is_false_and_one_tensor_is_a_sum_of_one():
    assert not Linear() and Linear().parts == []
    one = alone(A, "w")
    assert one and one.parts == [(A, "w")] and one == arranged({(A, "w"): 1})
    assert {one, alone(A, "w")} == {one}


def test_a_point_whose_vectors_all_lack_a_tensor_is_scaled_as_it_is():
    assert computed(Linear(((A, "w", 0.5),), points=1, mass=0.5)).tolist() == 100 * [value(A) / 2]


# ---- the program ----------------------------------------------------------------------------------------
def computed(linear, n=100, start=0, dtype="F32"):
    out = np.full(n, 77, np.float64 if dtype == "F64" else np.float32)
    assert evaluate(linear, start, n, dtype, out, memoryview(bytearray(scratch_bytes(linear.parts, n)))) == 0
    return out


def test_a_sum_is_computed_as_it_is_arranged():
    exact = {A: Fraction(1, 4), B: Fraction(1, 2), C: Fraction(1, 4), V: Fraction(2)}
    wanted = sum(c * Fraction(value(s)) for s, c in exact.items())
    assert set(computed(arranged({(s, "w"): c for s, c in exact.items()})).tolist()) == {float(wanted)}
    assert set(computed(Linear()).tolist()) == {0} and computed(alone(W, "w"), 30, 5).tolist() == 30 * [value(W)]


@pytest.mark.parametrize(
    ("numbers", "op"),
    [
        ({V: 2, W: 3}, Op(SUM, (0, 1), (2, 3))),
        ({A: 2}, Op(SUM, (0,), (2,))),
        ({A: 0.75, B: 0.25}, Op(AROUND, (0, 1), (2, 0, 1, 0.75, 0.25))),
        ({A: 0.75, B: 0.25, V: 2}, Op(AROUND, (0, 1, 2), (2, 0, 1, 0.75, 0.25, 2))),
        ({A: 0.5, B: -0.5, C: 1}, Op(AROUND, (0, 1, 2), (2, 2, 1, -0.5, 0.5, 1))),
    ],
)
def test_the_kernels_are_told_of_points_and_of_the_one_that_comes_last(numbers, op):
    program = Program(0, 100, memoryview(bytearray(1 << 20)))
    assert program.sum(arranged({(s, "w"): Fraction(str(c)) for s, c in numbers.items()})) == ~0
    assert program.ops == [op]


def test_a_tensor_is_read_once_however_often_it_is_summed(monkeypatch):
    read = []
    monkeypatch.setattr(type(A), "readinto", lambda self, *given: read.append((self, *given[:2])))
    program = Program(3, 8, memoryview(bytearray(1 << 20)))
    assert [program.operand(A, "w"), program.operand(B, "w"), program.operand(A, "w")] == [0, 1, 0]
    assert read == [(A, "w", 3), (B, "w", 3)]


def test_operations_are_referred_to_by_their_place():
    program = Program(0, 4, memoryview(bytearray(1 << 16)))
    given = np.arange(4, dtype=np.float32)
    first, second = program.array(given), program.array(2 * given)
    assert (first, second) == (~0, ~1) and program.ops[1] == Op(SUM, (1,), (1.0,))
    out = np.zeros(4, np.float32)
    assert program.add(SUM, [first, second], [1, -3], None) == ~2
    assert program.run(out) == 0 and out.tolist() == [0, -5, -10, -15]


def test_scratch_memory_is_handed_out_in_cache_lines_and_never_twice():
    memory = memoryview(bytearray(2 * 448 + RESULT + 4 * TILE))
    program = Program(0, 100, memory)
    for s in (A, B):
        program.operand(s, "w")
    assert np.frombuffer(memory[:400], np.float32).tolist() == 100 * [value(A)]
    assert np.frombuffer(memory[448:848], np.float32).tolist() == 100 * [value(B)]
    assert not any(memory[400:448]) and not any(memory[848:])


def test_without_scratch_memory_for_it_an_operand_has_memory_of_its_own():
    memory = memoryview(bytearray(RESULT))
    program = Program(0, 100, memory[:399])
    program.operand(A, "w")
    assert not any(memory)
    exact = Program(0, 100, memory[:400])
    exact.operand(A, "w")
    assert np.frombuffer(memory[:400], np.float32).tolist() == 100 * [value(A)]


# ---- files -------------------------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path, build):
    """Two sources of one file each, and the path of the second."""
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed, {"w": (3000,)}))
    one, two = (next(iter(tv.load(tmp_path / name).terms)) for name in ("base", "math"))
    return one, two, tmp_path / "math" / "model.safetensors"


def test_a_file_that_became_shorter_is_named(files):
    one, two, path = files
    linear = Linear(((one, "w", 1.0), (two, "w", 1.0)))
    computed(linear, 3000)
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(SourceChanged, match=r"math.* became shorter while it was read; nothing was written"):
        computed(linear, 3000)


def test_a_file_that_cannot_be_read_is_named(files, monkeypatch):
    one, two, _ = files
    monkeypatch.setattr(type(two), "segment", lambda self, name, start: (9999, 0))
    with pytest.raises(TaskvecError, match=r"base.* cannot be read: Bad file descriptor"):
        computed(Linear(((one, "w", 1.0), (two, "w", 1.0))), 3000)


def test_memory_is_a_window_for_a_file_and_all_elements_of_what_lies_in_memory(files):
    one, two, _ = files
    assert scratch_bytes([], 9) == RESULT and scratch_bytes([(one, "w"), (two, "w")], 10) == RESULT + 2 * WINDOW
    assert scratch_bytes([(A, "w")], 10) == RESULT + 64 and scratch_bytes([(A, "w"), (B, "w")], 17) == RESULT + 2 * 128
    assert scratch_bytes([(source("wide", 1, dtype=np.float64), "w")], 16) == RESULT + 128


def test_a_method_of_files_adds_its_operations_and_needs_no_memory_for_all_elements(tmp_path, build):
    for seed, name in enumerate(("base", "math")):
        build.model(tmp_path / name, build.tensors(seed, {"w": (3000,)}))
    base, math = tv.load(tmp_path / "base"), tv.load(tmp_path / "math")
    (call,) = tv.trim(math - base, density=0.5).placed.terms
    program = Program(0, 3000, memoryview(bytearray(RESULT)))
    program.operand(call, "w")
    assert [op.code for op in program.ops][-1] != SUM and len(program.ops) >= 2
    inside = scratch_bytes([(call, "w")], 1 << 20) - RESULT
    assert 2 * WINDOW <= inside < 4 << 20
    assert scratch_bytes([(call, "w"), (A, "w"), (call, "w")], 1 << 20) == RESULT + 2 * inside + (4 << 20)


def test_the_memory_that_is_asked_for_is_enough(files):
    """Then no operand has to have memory of its own."""
    one, _, _ = files
    linear = arranged({(s, "w"): 1.0 for s in (one, A, V)}, 2.0)
    memory = memoryview(bytearray(scratch_bytes(linear.parts, 100)))
    program = Program(0, 100, memory)
    program.sum(linear)
    assert len(program._free) == len(memory) - 2 * 448 == RESULT + WINDOW


def test_sizes_are_rounded_up_to_cache_lines():
    assert [aligned(size) for size in (0, 1, 64, 65, 128, 1000)] == [0, 64, 64, 128, 128, 1024]
