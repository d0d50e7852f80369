"""Selections by size, variance or overlap: small numbers by hand, and borders."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError, RecipeError


def of(call, *rows, mass=0):
    given = {n: tv.from_arrays({"w": np.array(r, np.float32)}, n, mass=mass) for n, r in zip("abc", rows, strict=False)}
    return tv.parse(call, **given)["w"]


def test_nearswap_takes_what_is_within_t_and_steps_by_t_towards_the_rest():
    base, m = [0, 0, 0, 1, 1], [0.5, -0.25, 2, 1, -9]
    np.testing.assert_allclose(of("nearswap(a, b, t=0.5)", base, m), [0.5, -0.25, 0.5, 1, 0.5], rtol=1e-6)
    assert of("nearswap(a, b, t=0)", base, m).tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(of("nearswap(a, b, t=0.5, floor=1)", base, m), [0.25, -0.125, 0.5, 1, 0.5], rtol=1e-6)


def test_arcee_fusion_takes_outliers_alone_and_of_equal_models_their_bits():
    base = np.zeros((4, 8), np.float32)
    m = base + np.float32(1e-3) * np.arange(32, dtype=np.float32).reshape(4, 8) / 32
    m[2, 3] = 5
    fused = of("arcee_fusion(a, b)", base, m, mass=1)
    assert fused[2, 3] == 5 and np.count_nonzero(fused) < 16 and not fused[0].any()
    assert np.array_equal(of("arcee_fusion(a, b)", m, m, mass=1), m)
    with pytest.raises(MassError, match="works on models"):
        of("arcee_fusion(a, b)", base, m)


def test_sce_weighs_by_mean_squares_and_erases_what_is_against_the_sign():
    a, b = [2, 2, -2, 2], [1, 1, 1, 1]
    np.testing.assert_allclose(of("sce(a, b)", a, b), [1.8, 1.8, -2, 1.8], rtol=1e-6)
    assert of("sce(a, b)", [1, -1], [-1, 1]).tolist() == [0, 0]
    assert of('sce(a, b, tie="plus")', [1, -1], [-1, 1]).tolist() == [1, 1]


def test_sce_selects_the_entries_of_the_largest_variance_among_those_that_vary():
    a, b = [1, 5, 3, 2], [1, 1, 1, 1]  # variances 0, 4, 1, 1/4
    assert np.flatnonzero(of("sce(a, b, select=0.34)", a, b)).tolist() == [1]
    assert np.flatnonzero(of("sce(a, b, select=0.67)", a, b)).tolist() == [1, 2]
    assert np.flatnonzero(of("sce(a, b, select=1)", a, b)).tolist() == [0, 1, 2, 3]


def test_ram_takes_what_one_has_alone_and_the_mean_of_what_is_shared():
    np.testing.assert_allclose(of("ram(a, b, epsilon=0.5)", [2, 4, 0.4, 0], [0, 2, 0.4, 3]), [2, 3, 0, 3], rtol=1e-6)


def test_ramplus_boosts_up_to_alpha_and_over_the_model_or_the_tensor():
    rows = [1, 1, 0, 1], [0, 1, 1, 0]
    for r, alpha, wanted in ((1, 9, [1.5, 1, 2, 1.5]), (1, 0.25, [1.25, 1, 1.25, 1.25]), (0, 9, [1, 1, 1, 1])):
        np.testing.assert_allclose(of(f"ramplus(a, b, r={r}, alpha={alpha}, epsilon=0.5)", *rows), wanted, rtol=1e-6)
    more = {"v": np.ones(2, np.float32)}  # shared by both, so that over the model more is shared
    both = [tv.from_arrays({"w": np.array(row, np.float32)} | more, f"t{k}", mass=0) for k, row in enumerate(rows)]
    boosted = [tv.ramplus(*both, r=1, alpha=9, epsilon=0.5, scope=s)["w"] for s in ("model", "tensor")]
    np.testing.assert_allclose(boosted, [[2.5, 1, 4, 2.5], [1.5, 1, 2, 1.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("nearswap(a)", "exactly 2"),
        ("nearswap(a, b, t=-1)", "t must lie in"),
        ("sce(a, b, select=0)", r"select must lie in \(0, 1\]"),
        ("ram(a, b, epsilon=-1)", "epsilon must lie in"),
        ('ramplus(a, b, scope="row")', "scope is one of model, tensor"),
    ],
)
def test_what_it_cannot_take_is_stated(call, message):
    with pytest.raises(RecipeError, match=message):
        of(call, *([1.0], [2.0])[: 2 if "b" in call.split("(")[1] else 1])
