"""Matrix by matrix: ranks at their ends, tensors that are no matrices, and numbers that are none."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError

ALL = ("low_rank(a, rank=1)", "iso_c(a, b)", "tsv_m(a, b)", "iso_cts(a, b)", "knots(a, b)", "svc(a, b)")


def matrix(rank=3, shape=(5, 4), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))).astype("f4")


def of(call, a, b=None):
    given = {n: tv.from_arrays({"w": x}, n, mass=0) for n, x in (("a", a), ("b", b)) if x is not None}
    return tv.parse(call, **given)["w"]


@pytest.mark.parametrize(
    ("options", "rank"),
    [
        ("rank=1", 1),
        ("rank=2", 2),
        ("rank=9", 3),
        ("share=0.01", 1),
        ("share=0.5", 2),
        ("share=1", 3),
        ("rank=1, share=0.5", 1),
    ],
)
def test_the_rank_is_at_most_what_either_says_and_at_least_one(options, rank):
    approximation = of(f"low_rank(a, {options})", matrix(3, (6, 4)))
    assert np.linalg.matrix_rank(approximation, tol=1e-4) == rank


def test_what_is_of_that_rank_already_or_no_matrix_passes_to_the_bit():
    for values in (matrix(4, (5, 4)), np.ones(7, np.float32), np.ones((2, 3, 4), np.float32), np.zeros((), np.float32)):
        rank = 4 if values.ndim == 2 else 1
        assert np.array_equal(of(f"low_rank(a, rank={rank})", values), values)


@pytest.mark.parametrize("call", ALL)
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1, 6), (6, 1), (3,), (2, 2, 2)])
def test_every_shape_gives_that_shape_and_finite_numbers(call, shape):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype("f4") for _ in "ab")
    merged = of(call, a, b if "b" in call.split("(")[1] else None)
    assert merged.shape == shape and np.isfinite(merged).all()


@pytest.mark.parametrize("call", ["iso_c(a, b)", "tsv_m(a, b)", "iso_cts(a, b)"])
def test_tensors_that_are_no_matrices_are_averaged(call):
    a, b = np.array([1, 2, 4], np.float32), np.array([3, 2, 0], np.float32)
    np.testing.assert_allclose(of(call, a, b), (a + b) / 2, rtol=1e-6)


@pytest.mark.parametrize("call", ALL)
def test_a_number_that_is_none_spoils_the_matrix_and_raises_nothing_there(call):
    a = matrix()
    a[1, 2] = np.inf
    assert np.isnan(of(call, a, matrix(seed=1) if "b" in call.split("(")[1] else None)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("low_rank(a, rank=0)", "rank must lie in"),
        ("low_rank(a, rank=1.5)", "whole number"),
        ("low_rank(a, share=0)", "share must lie in"),
        ("iso_cts(a, b, common=1.1)", r"common must lie in \[0, 1\]"),
        ('knots(a, b, reduce="max")', "one of mean, sum"),
        ("svc(a, b, alpha=0)", "alpha must lie in"),
        ("knots(a)", "at least 2"),
    ],
)
def test_what_it_cannot_take_is_stated(call, message):
    with pytest.raises(RecipeError, match=message):
        of(call, matrix(), matrix(seed=1) if "b" in call.split("(")[1] else None)
