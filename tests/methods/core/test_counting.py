"""Counting streams: neither the threads, nor the parts, nor what is counted beside it change a number."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError
from taskvec.methods.core.call import PART


def vector(seed, coarse=False):
    rng = np.random.default_rng(seed)
    shapes = {"layers.0.w": (700, 999), "layers.1.w": (PART + 3,), "b": (7,), "none": (0, 3)}
    content = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    content = {n: np.round(4 * a) / 4 for n, a in content.items()} if coarse else content
    return tv.from_arrays(content, f"t{seed}", mass=0)


CALLS = ['trim(a, density=0.3, ties="%s")', 'breadcrumbs(a, density=0.3, gamma=0.05, scope="model", ties="%s")']


@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
@pytest.mark.parametrize("call", [c % ties for c in CALLS for ties in ("all", "first")])
def test_threads_change_nothing_and_exactly_so_many_are_kept(tmp_path, call, coarse):
    a = vector(1, coarse)
    for threads in (1, 3):
        tv.save(tv.parse(call, a=a), tmp_path / f"{threads}", threads=threads)
    one, three = (tv.load(tmp_path / f"{threads}") for threads in (1, 3))
    assert all(np.array_equal(one[n], three[n]) for n in one)
    size, count = sum(a[n].size for n in a), sum(np.count_nonzero(one[n]) for n in one)
    wanted = int(0.3 * size)
    assert count == wanted if "first" in call and not coarse else count >= 0.9 * wanted


def test_what_is_counted_together_is_what_each_is_alone(tmp_path):
    a, b = vector(1), vector(2)
    calls = [tv.trim(a, density=0.2), tv.trim(0.5 * a - b, density=0.4, scope="tensor"), tv.trim(b, density=0.9)]
    tv.save(sum(calls, tv.Weights({})), tmp_path / "sum", threads=2)
    saved = tv.load(tmp_path / "sum")
    for name in saved:
        np.testing.assert_allclose(saved[name], sum(call[name].astype("f8") for call in calls), rtol=1e-6, atol=1e-6)


def test_a_model_has_one_number_and_at_least_the_entries_of_its_argument():
    a = vector(1)
    with pytest.raises(RecipeError, match='trim: with scope="model" a parameter is one number, not one a tensor'):
        tv.trim(a, density=tv.layers(0.1, 0.5, outside=0.2))["b"]
    size = sum(a[n].size for n in a)
    with pytest.raises(RecipeError, match=f"entries={size - 1:g} is less than the {size} of its argument alone"):
        tv.trim(a, entries=size - 1)["b"]
    assert np.array_equal(tv.trim(a, density=0.3, entries=size)["b"], tv.trim(a, density=0.3)["b"])
    assert tv.trim(a, density=tv.layers(0.1, 0.5, outside=0.2), scope="tensor")["b"].any()


def test_entries_that_the_argument_does_not_name_are_zeros_beyond_the_last_rank():
    values = np.arange(1, 11, dtype=np.float32)
    tau = tv.from_arrays({"w": values}, "t", mass=0)
    for entries, kept in ((20, 4), (40, 8), (50, 10), (1000, 10)):  # density 0.2 of so many
        assert np.count_nonzero(tv.trim(tau, density=0.2, entries=entries)["w"]) == kept
