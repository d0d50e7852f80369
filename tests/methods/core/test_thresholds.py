"""The magnitude of a given rank is exact, wherever it lies, and of equal magnitudes the first ones are within."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import taskvec as tv

SPAN = 32 << 10  # elements of a tile, of which equal magnitudes are counted together


def trimmed(arrays, **options):
    w = tv.trim(tv.from_arrays(arrays, "t", mass=0), **options)
    return {name: w[name] for name in w}


def kept(values, count, ties="all"):
    """The `count` largest magnitudes of a flat array, and their equals unless only the first of these are taken."""
    size = np.abs(values)
    order = np.lexsort((np.arange(values.size), -size))
    inside = np.zeros(values.size, bool)
    if ties == "first":
        inside[order[:count]] = True
    elif count:
        inside = size >= size[order[count - 1]]
    return np.where(inside, values, np.float32(0))


ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)
FEW = st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, 1.0, -1.0, np.float32(1.0000001), 3e38])
FLAT = hnp.arrays(np.float32, st.integers(1, 80), elements=st.one_of(ANY, FEW))


@settings(max_examples=60, deadline=None)
@given(FLAT, st.integers(1, 100), st.sampled_from(["all", "first"]))
def test_any_numbers_are_cut_as_a_sort_cuts_them(values, percent, ties):
    result = trimmed({"w": values}, density=percent / 100, scope="tensor", ties=ties)["w"]
    assert np.array_equal(result, kept(values, int(percent / 100 * values.size), ties))


@settings(max_examples=30, deadline=None)
@given(st.lists(hnp.arrays(np.float32, st.integers(0, 30), elements=FEW), min_size=1, max_size=4), st.integers(1, 100))
def test_a_model_is_ranked_as_one_and_of_equals_the_first_by_name_are_within(parts, percent):
    arrays = dict(zip("dbca", parts, strict=False))
    whole = np.concatenate([arrays[n] for n in sorted(arrays)])
    for ties in ("all", "first"):
        result = trimmed(arrays, density=percent / 100, ties=ties)
        wanted = kept(whole, int(percent / 100 * whole.size), ties)
        assert np.array_equal(np.concatenate([result[n] for n in sorted(arrays)]), wanted)


@pytest.mark.parametrize("ties", ["all", "first"])
def test_equal_entries_of_many_tiles_divide_where_they_should(ties):
    """Of one value, more than a tile of it; then of two tensors that are ranked together."""
    values = np.where(np.arange(3 * SPAN + 5) % 3 == 0, np.float32(2), np.float32(-1))
    result = trimmed({"w": values}, density=0.5, scope="tensor", ties=ties)["w"]
    assert np.array_equal(result, kept(values, values.size // 2, ties))
    both = {"b": values, "a": np.ones(SPAN + 1, np.float32)}
    whole = np.concatenate([both["a"], values])
    result = trimmed(both, density=0.5, ties=ties)
    assert np.array_equal(np.concatenate([result["a"], result["b"]]), kept(whole, int(0.5 * whole.size), ties))


@pytest.mark.parametrize(
    ("density", "least", "count"), [(0.01, 0, 0), (0.01, 1, 1), (0.1, 3, 3), (1, 0, 10), (0.5, 99, 10)]
)
def test_ranks_from_none_to_all(density, least, count):
    values = np.arange(1, 11, dtype=np.float32)
    result = trimmed({"w": values}, density=density, least=least, scope="tensor")["w"]
    assert np.count_nonzero(result) == count and np.array_equal(result, kept(values, count))


@pytest.mark.parametrize("spread", [0, 1e-3, 1, 15])
def test_what_a_sample_says_of_a_large_tensor_is_made_exact(spread):
    """Near one value, and over many powers of e, where a window of a few bins does not hold the threshold."""
    rng = np.random.default_rng(0)
    values = np.exp(spread * rng.standard_normal(700_001)).astype(np.float32)
    values[: 1 << 15] = 1e-30  # what the first piece shows is not what the rest is like
    for density in (0.001, 0.2, 0.99):
        result = trimmed({"w": values}, density=density, scope="tensor")["w"]
        assert np.array_equal(result, kept(values, int(density * values.size)))


def test_two_thresholds_of_one_call_are_both_exact():
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    w = tv.breadcrumbs(tv.from_arrays({"w": values}, "t", mass=0), density=0.3, gamma=0.1)
    order = np.argsort(-np.abs(values))
    assert np.array_equal(np.flatnonzero(w["w"]), np.sort(order[500:2000]))


@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
@pytest.mark.parametrize(
    "call",
    [
        "trim(a, density=0.2)", 'trim(a, density=0.2, scope="tensor")', 'trim(a, density=0.2, ties="first")',
        "trim(a, density=0.00001)", 'breadcrumbs(a, density=0.3, gamma=0.1, scope="model")',
        "breadcrumbs(a, density=0.3, gamma=0)",
    ],
)  # fmt: skip
def test_a_sample_that_is_right_leaves_one_pass(call, coarse):
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("w", 90_000), ("v", 50_000))}
    arrays = {n: np.round(8 * a) for n, a in arrays.items()} if coarse else arrays
    (source,) = tv.parse(call, a=tv.from_arrays(arrays, "a", mass=0)).terms
    seen = []
    source.prepare(1, seen.append)
    assert sum(seen) == 140_000


@pytest.mark.parametrize("call", ["trim(a, density=%s)", 'trim(a, density=%s, ties="first")'])
def test_a_sample_that_is_wrong_costs_two_more_passes(call):
    """Of a large tensor one piece in 64 is looked at; here these pieces are like nothing else."""
    values = np.random.default_rng(0).standard_normal(700_001).astype(np.float32)
    for start in (0, 1 << 19):
        values[start : start + 8192] = 1e-30
    for density in (0.001, 0.2, 0.9):
        (source,) = tv.parse(call % density, a=tv.from_arrays({"w": values}, "a", mass=0)).terms
        seen, result = [], np.empty(values.size, np.float32)
        source.prepare(1, seen.append)
        source.readinto("w", 0, memoryview(result.view(np.uint8)))
        assert np.array_equal(result, kept(values, int(density * values.size)))
        assert sum(seen) == 3 * values.size


@pytest.mark.parametrize("select", [0.1, 0.5, 0.9])
def test_ranks_among_what_is_not_zero_are_exact(select):
    """sce: of the entries that vary, so many with the largest variance."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(20_000).astype(np.float32) for _ in "ab")
    b[::4] = a[::4]
    given = {n: tv.from_arrays({"w": x}, n, mass=0) for n, x in (("a", a), ("b", b))}
    merged = tv.parse(f"sce(a, b, select={select})", **given)["w"]
    variance = ((a.astype("f8") - b) / 2) ** 2
    least = np.sort(variance)[::-1][int(select * np.count_nonzero(variance)) - 1]
    chosen = variance >= least * (1 - 1e-6)
    agrees = np.where(chosen, a.astype("f8") + b, 0) != 0
    assert np.array_equal(merged != 0, agrees)
