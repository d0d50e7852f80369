"""The arguments of a call, read: by the kernels, within one another, and with memory for a program."""

import numpy as np

import taskvec as tv
from taskvec.methods.core.reading import scratch_of, together

X = np.arange(40, dtype=np.float32)


def call_of(weights):
    (call,) = weights.terms
    return call


def vector(name, values):
    return tv.from_arrays({"w": values}, name, mass=0)


def test_what_is_summed_for_a_tensor_is_worked_out_once():
    call = call_of(tv.elect(vector("a", X) + vector("b", -X), vector("b", X)))
    assert call.sums("w") is call.sums("w") and [len(linear.terms) for linear in call.sums("w")] == [2, 1]


def test_values_are_those_of_the_sum_from_anywhere_and_finite_ones_are_known():
    call = call_of(tv.elect(vector("a", X) + 2 * vector("b", X), vector("c", np.where(X == 7, np.inf, X))))
    first, second = call.sums("w")
    out = np.empty(5, np.float32)
    assert call.values(first, 3, out) and np.array_equal(out, 3 * X[3:8])
    assert not call.values(second, 3, out) and np.isinf(out[4])
    assert call.values(second, 8, out) and np.array_equal(out, X[8:13])
    assert call.values(type(first)(), 0, out) and not out.any()  # of nothing, zeros


def test_a_call_within_a_call_computes_what_it_is():
    inner = tv.low_rank(tv.from_arrays({"w": np.outer(X[:6], X[:5])}, "m", mass=0), rank=1)
    (linear,) = call_of(tv.trim(inner, density=1)).sums("w")
    out = np.empty(30, np.float32)
    call_of(tv.trim(inner, density=1)).values(linear, 0, out)
    np.testing.assert_allclose(out.reshape(6, 5), np.outer(X[:6], X[:5]), rtol=1e-4, atol=1e-3)


def test_calls_that_share_a_source_share_its_input_in_a_program():
    a, b = vector("a", X), vector("b", X[::-1].copy())
    one, two = call_of(tv.elect(a, b)), call_of(tv.elect(a, a + b))
    program = together([one, two], "w", 0, 8, ops=1)
    refs = [ref for call in (one, two) for ref in call.operands(program, "w")]
    assert len(refs) == 4 and len(program._inputs) == 2
    assert len(scratch_of([one], "w", 8, ops=3)) > 0
