"""Several vectors to one, entry by entry: small numbers by hand, ties at their borders, and what is refused."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError

A, B, C = [1, -1, 2, 0, 3, -2], [3, 1, -1, 0, 3, 1], [-1, 2, -1, 5, 3, 1]


def of(call, *rows):
    given = {n: tv.from_arrays({"w": np.array(r, np.float32)}, n, mass=0) for n, r in zip("abc", rows, strict=False)}
    return tv.parse(call, **given)["w"].tolist()


@pytest.mark.parametrize(
    ("call", "rows", "wanted"),
    [
        ("elect(a, b, c)", (A, B, C), [2, 1.5, 0, 5, 3, 0]),
        ('elect(a, b, c, tie="plus")', (A, B, C), [2, 1.5, 2, 5, 3, 1]),
        ('elect(a, b, c, reduce="sum")', (A, B, C), [4, 3, 0, 5, 9, 0]),
        ('elect(a, b, c, vote="count")', (A, B, C), [2, 1.5, -1, 5, 3, 1]),
        ("elect(a, b, c, weights=(1, 3, 1))", (A, B, C), [1, 0.75, 0, 5, 9 / 5, 0]),
        ("elect(a)", (A,), A),
        ("unified(a, b, c)", (A, B, C), [3, 2, 0, 5, 3, 0]),
        ('unified(a, b, c, tie="minus")', (A, B, C), [3, 2, -1, 5, 3, -2]),
        ("magmax(a, b, c)", (A, B, C), [3, 2, 2, 5, 3, -2]),
        ('magmax(a, b, tie="first")', ([2, -1], [-2, 1]), [2, -1]),
        ('magmax(a, b, tie="last")', ([2, -1], [-2, 1]), [-2, 1]),
        ("consensus(a, b, k=2, lam=1)", ([2, 1, 0], [2, 3, 0]), [4, 0, 0]),
        ('consensus(a, b, k=2, lam=1, tie="out")', ([2, 1, 0], [2, 3, 0]), [0, 0, 0]),
        ("consensus(a, b, k=1, lam=1)", ([2, 1, 0], [2, 3, 0]), [4, 4, 0]),
        ("consensus(a, b, k=2, lam=0)", ([2, 1, 0], [2, 3, 0]), [4, 4, 0]),
    ],
)
def test_small_numbers_by_hand(call, rows, wanted):
    assert of(call, *rows) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("call", ["elect(%s)", "unified(%s)", "consensus(%s)", "pcb(%s, ratio=0.5)"])
def test_the_order_of_the_vectors_does_not_matter(call):
    rows = [np.random.default_rng(k).standard_normal(200) for k in range(3)]
    first = of(call % "a, b, c", *rows)
    assert of(call % "c, a, b", *rows) == pytest.approx(first, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("call", ["elect(a, b)", "unified(a, b)", "magmax(a, b)"])
def test_of_one_vector_twice_it_is_the_vector(call):
    row = np.random.default_rng(0).standard_normal(300).astype("f4")
    merged = np.array(of(call, row, row), np.float32)
    assert np.array_equal(merged, row)


def test_pcb_of_zeros_is_zero_and_a_lower_ratio_keeps_less():
    assert of("pcb(a, b)", [0] * 5, [0] * 5) == [0] * 5
    rows = [np.random.default_rng(k).standard_normal(400) for k in range(2)]
    kept = [np.count_nonzero(of(f"pcb(a, b, ratio={ratio})", *rows)) for ratio in (0.05, 0.3, 1)]
    assert kept[0] < kept[1] < kept[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('elect(a, b, weights=(1, 1), reduce="sum")', 'weights are the divisor of the mean, and reduce="sum" has none'),
        ('elect(a, b, reduce="max")', "reduce is one of mean, sum, not 'max'"),
        ("consensus(a, b, k=3)", "k=3 votes of 2 vectors can be nowhere: k is at most 2"),
        ("consensus(a, b, k=1.5)", "k must lie in .* whole number"),
        ("consensus(a, b, lam=-1)", "lam must lie in"),
        ("consensus(a)", "at least 2"),
        ("pcb(a)", "at least 2"),
        ("pcb(a, b, ratio=0)", r"ratio must lie in \(0, 1\], not 0"),
        ('magmax(a, b, tie="none")', "tie is one of first, last"),
    ],
)
def test_what_it_cannot_take_is_stated(call, message):
    with pytest.raises(RecipeError, match=message):
        of(call, *(A, B)[: 2 if "b" in call.split("(")[1] else 1])
