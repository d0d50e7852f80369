"""Sums over pairs of vectors against numpy; more pairs than a kernel takes in one run."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.program import scratch_bytes
from taskvec.methods.core import pairs
from taskvec.methods.core.pairs import PairSum, pair_sums, pairs_of, products, square
from taskvec.numbers.operations import DOT


def given(n, size=1000):
    rng = np.random.default_rng(n)
    arrays = [(rng.standard_normal(size) * (rng.random(size) < 0.6)).astype(np.float32) for _ in range(n)]
    linears = [tv.from_arrays({"w": a}, f"v{k}", mass=0).linear("w") for k, a in enumerate(arrays)]
    parts = [part for linear in linears for part in linear.parts]
    return arrays, linears, memoryview(bytearray(scratch_bytes(parts, size, n)))


@pytest.mark.parametrize("at_once", [1, 2, 8192])
def test_sums_of_pairs_are_numpy_s_however_many_a_kernel_takes_at_once(at_once, monkeypatch):
    monkeypatch.setattr(pairs, "MOST_AT_ONCE", at_once)
    arrays, linears, scratch = given(3)
    wanted = pairs_of(3)
    assert wanted == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    sums = pair_sums(wanted, linears, 100, 700, scratch)
    dots = products(DOT, wanted, linears, 100, 700, scratch)
    assert dots.shape == (6, 1)
    for (i, j), (dot,) in zip(wanted, dots.tolist(), strict=True):
        x, y = (arrays[k][100:800].astype(np.float64) for k in (i, j))
        both = (x != 0) & (y != 0)
        against = int((np.sign(x) != np.sign(y))[both].sum())
        assert sums[i, j] == PairSum(dot, int(both.sum()), against)
        assert dot == pytest.approx(float(x @ y), rel=1e-12)


def test_a_square_has_each_pair_twice():
    assert square({(0, 0): "aa", (0, 1): "ab", (1, 1): "bb"}, 2) == [["aa", "ab"], ["ab", "bb"]]
