"""Blocks: every element of every tensor once, in order, and in memory that begins with a page."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskvec as tv
from taskvec.algebra.program import RESULT, Linear, aligned
from taskvec.numbers.dtypes import BITS
from taskvec.places.local import PAGE, address
from taskvec.saving.blocks import arena, fill, ranges, sums
from taskvec.sources.source import Spec

SPECS = st.dictionaries(
    st.text("abc.", min_size=1),
    st.builds(Spec, st.lists(st.integers(0, 9), max_size=3).map(tuple), st.sampled_from(["F4", "BF16", "F32", "I64"])),
    max_size=5,
)


@given(SPECS, st.integers(8, 300))
def test_every_element_is_in_one_range_and_none_is_larger_than_asked(specs, size):
    elements = {name: [] for name in specs}
    for name, start, count in ranges(specs, specs, size):
        bits = BITS[specs[name].dtype]
        assert 0 < count * bits <= size * 8 and start * bits % 8 == 0  # where a block begins, a byte begins
        elements[name] += range(start, start + count)
    assert elements == {name: [*range(spec.numel)] for name, spec in specs.items()}


def test_the_blocks_of_a_plan_are_those_ranges_in_the_order_of_the_file():
    content = {f"t{k}": np.ones((300, 700 + k), "f4") for k in range(5)}
    todo = tv.plan(tv.from_arrays(content), shard_size="2MB", threads=1, dtype="float32")
    blocks = [*todo.blocks()]
    assert [block.index for block in blocks] == [*range(len(blocks))]
    for number, shard in enumerate(todo.shards):
        mine = [block for block in blocks if block.shard == number]
        assert mine[0].offset == shard.header_size
        ends = [block.offset + 4 * block.count for block in mine]
        assert ends == [*[block.offset for block in mine[1:]], shard.size]
        assert [(b.name, b.start, b.count) for b in mine] == [*ranges(shard.specs, shard.specs, todo.block)]


def test_memory_begins_with_a_page():
    for size in (1, PAGE, 700_001):
        memory = arena(size)
        assert len(memory) == size and address(memory) % PAGE == 0


def test_a_tensor_whose_coefficients_are_all_zero_is_zeros_whatever_was_in_memory_before():
    w = tv.from_arrays({"a.w": np.ones(5, "f4"), "b.w": np.ones(5, "f4")}, mass=0) * tv.only("a.*")
    memory = arena(PAGE + 40)
    memory[:] = b"\xff" * len(memory)
    linear = sums(w, w.specs)
    assert [*fill(memory, "b.w", w.specs["b.w"], 1, 3, linear, None)[0]] == [0] * 12


# ---- one block
X = np.arange(10, dtype=np.float32)
A = tv.from_arrays({"w": X, "ids": np.arange(10), "old": X}, "a")
B = tv.from_arrays({"w": X + 2, "ids": np.arange(10), "old": X}, "b")
W = tv.per({"old": 0, "*": 0.5}) * (A + B)
(DONOR,) = A.terms


def filled(name, start, count, dtype="F32", donor=DONOR, out=None):
    specs = {n: Spec(s.shape, dtype if s.arithmetic else s.dtype) for n, s in W.specs.items()}
    memory = memoryview(bytearray(b"\xff" * (aligned(8 * count) + RESULT + 4096)))
    return fill(memory, name, specs[name], start, count, sums(W, specs), donor, out), memory


@pytest.mark.parametrize("size", [0, 1, PAGE, 3 * PAGE + 5])
def test_memory_begins_at_a_page_and_has_its_size(size):
    memory = arena(size)
    assert len(memory) == size and not memory.readonly and address(arena(size + 1)) % PAGE == 0


def test_there_is_a_sum_for_each_tensor_and_an_empty_one_for_what_passes_through():
    linear = sums(W, W.specs)
    assert [*linear] == ["w", "ids", "old"] and linear["ids"] == Linear() and not linear["old"]
    assert linear["w"] == W.linear("w") and len(linear["w"].terms) == 2


@pytest.mark.parametrize(("dtype", "kind"), [("F32", np.float32), ("F64", np.float64), ("F16", np.float16)])
def test_a_sum_is_written_in_the_dtype_of_the_output(dtype, kind):
    (out, flags), memory = filled("w", 3, 5, dtype)
    assert np.frombuffer(out, kind).tolist() == (X[3:8] + 1).tolist() and flags == 0
    assert address(out) == address(memory) and len(out) == 5 * np.dtype(kind).itemsize


def test_what_is_no_floating_point_number_is_the_donors():
    (out, flags), _ = filled("ids", 2, 4)
    assert np.frombuffer(out, np.int64).tolist() == [2, 3, 4, 5] and flags == 0


def test_what_nobody_names_is_zero_whatever_the_memory_held():
    (out, flags), _ = filled("old", 0, 10)
    assert bytes(out) == bytes(40) and flags == 0


@pytest.mark.parametrize("name", ["w", "ids", "old"])
def test_other_memory_is_filled_where_it_is_given(name):
    given = memoryview(bytearray(b"\xff" * (32 if name == "ids" else 16)))
    (out, _), _ = filled(name, 0, 4, out=given)
    assert out is given and bytes(given) == bytes(filled(name, 0, 4)[0][0])


def test_flags_tell_what_is_not_finite():
    big = tv.from_arrays({"w": np.full(3, 1e5, np.float32)}, "big")
    spec = {"w": Spec((3,), "F16")}
    _, flags = fill(memoryview(bytearray(1 << 16)), "w", spec["w"], 0, 3, sums(big, spec), None)
    assert flags
