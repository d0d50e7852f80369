"""What is measured before the work: products over many parts against float64, ratios of sums, and overlaps."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import NonFiniteError
from taskvec.methods.core.call import PART

SHAPES = {"layers.0.w": (PART + 5,), "layers.1.w": (3, 50), "b": (2,), "none": (0,)}


def arrays(seed, **more):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()} | more


def weights(seed, mass=0, **more):
    return tv.from_arrays(arrays(seed, **more), f"t{seed}", mass=mass)


def flat(w):
    return np.concatenate([w[n].reshape(-1) for n in w]).astype("f8")


def test_products_are_of_the_whole_tensor_or_of_the_whole_model():
    """metagpt: shares by squared norms."""
    a, b = weights(1), weights(2)
    for scope, names in (("model", [*SHAPES]), ("tensor", ["layers.0.w"])):
        x, y = (np.concatenate([w[n].reshape(-1) for n in names]).astype("f8") for w in (a, b))
        share = (x @ x) / (x @ x + y @ y)
        merged = tv.metagpt(a, b, scope=scope)["layers.0.w"]
        np.testing.assert_allclose(
            merged, share * a["layers.0.w"] + (1 - share) * b["layers.0.w"], rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_threads_change_no_product(tmp_path, scope):
    w = tv.norm_matched(weights(1), weights(2), weights(3), scope=scope)
    for threads in (1, 3):
        tv.save(w, tmp_path / f"{threads}", threads=threads)
    one, three = (tv.load(tmp_path / f"{threads}") for threads in (1, 3))
    assert all(np.array_equal(one[n], three[n]) for n in one)


def test_whole_models_that_cannot_be_compared_name_the_tensors_that_spoil_it():
    bad = weights(2, b=np.array([1, np.inf], np.float32))
    with pytest.raises(NonFiniteError, match=r"norm_matched compares whole models.*\n.*b") as error:
        tv.norm_matched(weights(1), bad)["layers.0.w"]
    assert "layers" not in str(error.value).split("\n", 1)[1]
    assert np.isfinite(tv.norm_matched(weights(1), bad, scope="tensor")["layers.0.w"]).all()


def test_what_is_kept_is_rescaled_to_its_sum_of_magnitudes_and_nothing_is_not():
    tau = weights(1, zero=np.zeros(5, np.float32))
    rescaled, plain = tv.dare(tau, drop=0.5, rescale="l1"), tv.dare(tau, drop=0.5, rescale="none")
    for name in ("layers.0.w", "layers.1.w"):
        before, after = (np.abs(w[name].astype("f8")).sum() for w in (tau, rescaled))
        assert after == pytest.approx(before, rel=1e-6)
        assert np.array_equal(rescaled[name] != 0, plain[name] != 0)
    assert not rescaled["zero"].any()
    small = tv.from_arrays({"w": np.full(100, 1e-10, np.float32)}, "s", mass=0)  # sums of 1e-8 have no ratio
    assert np.array_equal(tv.dare(small, rescale="l1")["w"], tv.dare(small, rescale="none")["w"])


def test_overlaps_count_what_is_shared_and_what_is_alone():
    """ramplus: what one vector alone has is boosted by the share that it shares."""
    a = {"w": np.array([1, 1, 0, 1], np.float32)}
    b = {"w": np.array([0, 1, 1, 0], np.float32)}
    boosted = tv.ramplus(*(tv.from_arrays(x, n, mass=0) for n, x in (("a", a), ("b", b))), r=1, alpha=9, epsilon=0.5)[
        "w"
    ]
    np.testing.assert_allclose(boosted, [1 + 1 / 2, 1, 1 + 1, 1 + 1 / 2], rtol=1e-6)
