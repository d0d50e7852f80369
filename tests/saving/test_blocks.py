"""Blocks: every element of every tensor once, in order, and in memory that begins with a page."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import taskvec as tv
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
    found = {name: [] for name in specs}
    for name, start, count in ranges(specs, specs, size):
        bits = BITS[specs[name].dtype]
        assert 0 < count * bits <= size * 8 and start * bits % 8 == 0  # where a block begins, a byte begins
        found[name] += range(start, start + count)
    assert found == {name: [*range(spec.numel)] for name, spec in specs.items()}


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
