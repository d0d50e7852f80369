"""Rows and columns with numbers of their own: each is what a tensor of that row or column alone would be."""

import numpy as np
import pytest

import taskvec as tv

RNG = np.random.default_rng(0)


def vectors(shape, count=2):
    return [RNG.standard_normal(shape).astype("f4") for _ in range(count)]


def made(arrays, scope):
    given = {f"t{k}": tv.from_arrays({"w": a}, f"t{k}", mass=0) for k, a in enumerate(arrays)}
    return tv.parse(f'nuslerp(t0, t1, weights=(3, 1), scope="{scope}")', **given)


def alone(arrays):
    return made(arrays, "tensor")["w"]


@pytest.mark.parametrize(
    ("shape", "scope", "lane"),
    [
        ((3, 5), "row", lambda a, k: a[k]),
        ((5, 3), "column", lambda a, k: a[:, k]),
        ((2, 3, 4), "row", lambda a, k: a.reshape(6, 4)[k]),
        ((2, 3, 4), "column", lambda a, k: a.reshape(2, 12)[:, k]),
        ((5,), "row", lambda a, k: a),
        ((5,), "column", lambda a, k: a),
        ((), "row", lambda a, k: a),
        ((), "column", lambda a, k: a),
        ((1, 7), "row", lambda a, k: a),
        ((7, 1), "column", lambda a, k: a),
    ],
)
def test_a_lane_is_a_vector_of_its_own(shape, scope, lane):
    arrays = vectors(shape)
    merged = made(arrays, scope)["w"]
    count = merged.size // shape[-1 if scope == "row" else 0] if shape else 1
    for k in range(count):
        wanted = alone([np.ascontiguousarray(lane(a, k)) for a in arrays])
        np.testing.assert_allclose(lane(merged, k), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", ["row", "column"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0,)])
def test_a_tensor_without_elements_has_lanes_without_elements(shape, scope):
    assert made(vectors(shape), scope)["w"].shape == shape


@pytest.mark.parametrize("scope", ["row", "column"])
def test_any_range_has_the_lanes_of_its_elements(scope):
    w = made(vectors((11, 7)), scope)
    ((source, whole),) = ((s, w["w"].reshape(-1)) for s in w.terms)
    for start, count in ((0, 77), (1, 5), (6, 9), (30, 47), (76, 1)):
        out = np.empty(count, np.float32)
        source.readinto("w", start, memoryview(out.view(np.uint8)))
        assert np.array_equal(out, whole[start : start + count])
