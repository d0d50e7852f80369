"""Combinations by angles and norms: right angles by hand, zeros, opposites, and what has no direction."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError, TaskvecError

X, Y, Z = [2.0, 0, 0], [0, 2.0, 0], [0, 0, 0.0]
ROOT = 2**0.5


def of(call, *rows, mass=0):
    given = {n: tv.from_arrays({"w": np.array(r, np.float32)}, n, mass=mass) for n, r in zip("abc", rows, strict=False)}
    return tv.parse(call, **given)["w"]


@pytest.mark.parametrize(
    ("call", "rows", "wanted"),
    [
        ("slerp(a, b)", (X, Y), [ROOT, ROOT, 0]),
        ("slerp(a, b, t=0)", (X, Y), X),
        ("slerp(a, b, t=1)", (X, Y), Y),
        ("slerp(a, b, t=0.25)", (X, X), X),
        ("slerp(a, b)", (Z, Z), Z),
        ('slerp(a, b, zero="one")', (X, Z), [ROOT, 0, 0]),
        ("nuslerp(a, b)", (X, Y), [ROOT, ROOT, 0]),
        ("nuslerp(a, b, weights=(1, 0))", (X, Y), X),
        ("nuslerp(a, b, weights=(1, -1))", (X, Y), [ROOT, ROOT, 0]),
        ("multislerp(a)", (X,), X),
        ("multislerp(a, b)", (X, Y), [ROOT, ROOT, 0]),
        ("multislerp(a, b)", (X, [-2, 0, 0]), Z),
        ("multislerp(a, b, weights=(3, 1))", (X, X), X),
        ("karcher(a, b)", (X, Y), [ROOT, ROOT, 0]),
        ("geometric_median(a, b, c)", (X, X, Y), X),
        ("stock(a, b)", (X, X), X),
        ("stock(a, b)", (X, Y), Z),
        ("metagpt(a, b)", (X, [0, 4, 0]), [0.4, 3.2, 0]),
        ("metagpt(a, b)", (Z, Z), Z),
        ("norm_matched(a, b)", (X, Y), [ROOT, ROOT, 0]),
        ("norm_matched(a)", (X,), X),
    ],
)
def test_small_numbers_by_hand(call, rows, wanted):
    np.testing.assert_allclose(of(call, *rows), wanted, rtol=1e-5, atol=1e-6)


def test_slerp_with_one_zero_tensor_is_refused_and_with_two_gives_zero(tmp_path):
    zero, one = {"w": np.zeros(4, np.float32)}, {"w": np.ones(4, np.float32)}
    a, b = tv.from_arrays(zero, "a"), tv.from_arrays(one, "b")
    assert not tv.parse("slerp(a, c)", a=a, c=tv.from_arrays(zero, "c"))["w"].any()
    with pytest.raises(TaskvecError, match="no angle"):
        tv.save(tv.parse("slerp(a, b)", a=a, b=b), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "rows", "message"),
    [
        ("multislerp(a, b, weights=(1, -1))", (X, Y), "multislerp: the weights add up to 0"),
        ("multislerp(a, b, c)", (X, [-1, 3**0.5, 0], [-1, -(3**0.5), 0]), "the weighted directions cancel out"),
        ("karcher(a, b)", (X, [-2, 0, 0]), "the directions cancel out"),
        ("norm_matched(a, b)", (X, [-2, 0, 0]), "the vectors cancel out"),
        ("slerp(a, b, t=1.5)", (X, Y), r"t must lie in \[0, 1\]"),
        ("slerp(a)", (X,), "exactly 2"),
        ("karcher(a, b, max_iter=0)", (X, Y), "max_iter must lie in"),
        ('nuslerp(a, b, scope="model")', (X, Y), "scope is one of tensor, row, column"),
        ("stock(a)", (X,), "at least 2"),
    ],
)
def test_what_has_no_direction_is_stated(call, rows, message):
    with pytest.raises(RecipeError, match=message):
        of(call, *rows)


@pytest.mark.parametrize("name", ["slerp", "nuslerp", "multislerp", "karcher", "geometric_median"])
def test_of_two_equal_models_each_is_the_model_to_the_bit(name):
    row = np.random.default_rng(0).standard_normal(99).astype("f4")
    assert np.array_equal(of(f"{name}(a, b)", row, row, mass=1).view(np.uint32), row.view(np.uint32))


def test_each_tensor_has_its_own_angle_unless_the_model_is_one():
    a = tv.from_arrays({"u": np.array(X, "f4"), "v": np.array(X, "f4")}, "a")
    b = tv.from_arrays({"u": np.array(Y, "f4"), "v": np.array(X, "f4")}, "b")
    assert np.array_equal(tv.slerp(a, b)["v"], a["v"])
    whole = tv.slerp(a, b, scope="model")["v"]  # 60 degrees between the two: sin 30 / sin 60 twice
    np.testing.assert_allclose(whole, 2 / 3**0.5 * a["v"], rtol=1e-6)
