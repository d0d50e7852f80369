"""Costs: the rules by which bytes of memory are put together."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from taskvec.sources.cost import Cost

COSTS = st.builds(Cost, *[st.integers(0, 10**12)] * 4)


def test_what_is_there_at_the_same_time_adds_up_and_what_is_measured_is_measured_one_after_the_other():
    assert Cost(1, 20, 300, 4000) + Cost(5, 10, 100, 1000) == Cost(6, 20, 400, 5000)


def test_of_several_tensors_the_largest_number_of_each_kind_counts():
    assert Cost(1, 20, 300, 4000) | Cost(5, 10, 400, 1000) == Cost(5, 20, 400, 4000)


def test_what_is_held_once_does_not_grow_with_the_threads():
    assert Cost(7, 20, 300, 4000).of(3) == 7 + 3 * 4320


@given(COSTS, COSTS, COSTS, st.integers(1, 64))
def test_the_order_does_not_matter_and_more_never_costs_less(a, b, c, threads):
    assert a + b == b + a and (a + b) + c == a + (b + c) and a + Cost() == a
    assert a | b == b | a and (a | b) | c == a | (b | c) and a | a == a == a | Cost()
    assert max(a.of(threads), b.of(threads)) <= (a | b).of(threads) <= (a + b).of(threads)
    assert (a + b).of(threads) <= a.of(threads) + b.of(threads)
    assert reduce(Cost.__or__, [a, b, c]).of(threads) <= a.of(threads) + b.of(threads) + c.of(threads)
