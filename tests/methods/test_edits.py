"""Layers of one vector that work against another: dropped by layer or by tensor."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError

SHAPES = {"embed": (40, 8), "layers.0.a": (8, 8), "layers.0.b": (30,), "layers.1.a": (8, 8), "layers.1.b": (30,)}


def vectors():
    """layers.0 works against the other as a whole, its b with it; layers.1 with it; embed has nothing to do with it."""
    rng = np.random.default_rng(0)
    one = {n: rng.normal(size=s).astype("f4") for n, s in SHAPES.items()}
    sign = {"embed": 0, "layers.0.a": -1, "layers.0.b": 1, "layers.1.a": 1, "layers.1.b": 1}
    two = {n: (sign[n] * w + 0.3 * rng.normal(size=w.shape)).astype("f4") for n, w in one.items()}
    two["layers.0.b"] *= np.float32(0.1)
    one["embed"][::3] = 0
    return one, two


def eager_kept(one, two, cosine, conflict, scope):
    kept = {}
    for name in one:
        group = name.rsplit(".", 1)[0] if scope == "layer" and "layers" in name else name
        names = [n for n in one if n == group or n.startswith(f"{group}.")]
        x, y = (np.concatenate([m[n].ravel() for n in names]).astype("f8") for m in (one, two))
        both = (x != 0) & (y != 0)
        share = np.mean(np.sign(x[both]) != np.sign(y[both]))
        kept[name] = x @ y / np.linalg.norm(x) / np.linalg.norm(y) >= cosine and share <= conflict
    return kept


@pytest.mark.parametrize("scope", ["layer", "tensor"])
@pytest.mark.parametrize(("cosine", "conflict"), [(0, 1), (-1, 0.3), (-1, 0.5), (0.5, 1), (0.97, 0.2), (-1, 1), (1, 0)])
def test_freeze_conflicts_drops_the_layers_that_work_against_the_other(scope, cosine, conflict):
    one, two = vectors()
    tau, other = tv.from_arrays(one, "tau", mass=0), tv.from_arrays(two, "other", mass=0)
    frozen = tv.freeze_conflicts(tau, other, cosine=cosine, conflict=conflict, scope=scope)
    wanted = eager_kept(one, two, cosine, conflict, scope)
    for name, keep in wanted.items():
        assert np.array_equal(frozen[name], one[name] if keep else np.zeros_like(one[name])), name
    if (cosine, conflict) == (0, 1):
        assert wanted["layers.1.a"] and not wanted["layers.0.a"]
        assert wanted["layers.0.b"] == (scope == "tensor")


def test_a_vector_that_is_zero_in_a_layer_conflicts_with_nothing():
    one, two = vectors()
    none = tv.from_arrays({n: np.zeros_like(w) for n, w in two.items()}, "none", mass=0)
    tau = tv.from_arrays(one, "tau", mass=0)
    frozen = tv.freeze_conflicts(tau, none, cosine=1, conflict=0)
    assert all(np.array_equal(frozen[n], one[n]) for n in one)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("freeze_conflicts(tau, other, cosine=1.5)", r"cosine must lie in \[-1, 1\], not 1.5"),
        ("freeze_conflicts(tau, other, conflict=-0.1)", r"conflict must lie in \[0, 1\]"),
        ('freeze_conflicts(tau, other, scope="model")', "one of layer, tensor"),
        ("freeze_conflicts(tau, tau + 0*other, other)", "exactly 2"),
        ("freeze_conflicts(tau + 0*other)", "exactly 2"),
        ("freeze_conflicts(tau, other, keep=1)", "has no parameter keep"),
    ],
)
def test_thresholds_out_of_range_are_stated(call, message):
    tau, other = (tv.from_arrays(v, n, mass=0) for v, n in zip(vectors(), ("tau", "other"), strict=True))
    with pytest.raises(RecipeError, match=message):
        tv.parse(call, tau=tau, other=other)
