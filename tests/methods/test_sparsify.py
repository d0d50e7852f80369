"""Sparser vectors: what is kept at the ends of each parameter, and what della's probabilities may be."""

import numpy as np
import pytest
from method_arrays import arrays, made, sources

import taskvec as tv
from taskvec.errors import RecipeError

VALUES = np.array([-4, 3, -3, 2, 1, 0, 0, -1, 0.5, 2], np.float32)


def of(call, values=VALUES):
    return tv.parse(call, t=tv.from_arrays({"w": values}, "t", mass=0))["w"]


@pytest.mark.parametrize(
    ("call", "kept"),
    [
        ("trim(t, density=0.1)", [-4]),
        ("trim(t, density=0.2)", [-4, 3, -3]),
        ('trim(t, density=0.2, ties="first")', [-4, 3]),
        ("trim(t, density=1)", [-4, 3, -3, 2, 1, -1, 0.5, 2]),
        ("trim(t, density=0.01)", []),
        ("trim(t, density=0.01, least=1)", [-4]),
        ("breadcrumbs(t, density=0.3, gamma=0.1)", [3, -3, 2, 2]),
        ('breadcrumbs(t, density=0.3, gamma=0.1, ties="first")', [3, -3, 2]),
        ("breadcrumbs(t, density=0.3, gamma=0)", [-4, 3, -3]),
        ("breadcrumbs(t, density=0.5, gamma=1)", []),
        ('breadcrumbs(t, density=0.9, gamma=0.5, outliers="spare", ties="first")', [3, -3, 2, 1, -1, 0.5, 2]),
        ('breadcrumbs(t, density=0.3, gamma=0.1, scope="row", ties="first")', [3, -3, 2]),
    ],
)
def test_so_many_of_the_largest_are_kept_as_they_are(call, kept):
    sparse = of(call)
    assert sparse[sparse != 0].tolist() == kept and np.array_equal(sparse[sparse != 0], VALUES[sparse != 0])


def test_rows_are_ranked_each_for_itself_and_a_model_as_one():
    rows = np.array([[1, 2, 3, 4], [10, 20, 30, 40]], np.float32)
    for scope, wanted in (("row", [[0, 0, 3, 0], [0, 0, 30, 0]]), ("tensor", [[0, 0, 0, 0], [10, 20, 0, 0]])):
        assert of(f'breadcrumbs(t, density=0.25, gamma=0.25, scope="{scope}")', rows).tolist() == wanted


@pytest.mark.parametrize("rescale", ["expected", "none", "l1"])
def test_nothing_dropped_is_the_vector_to_the_bit(rescale):
    for call in (f'dare(t, drop=0, rescale="{rescale}")', f'della(t, density=1, rescale="{rescale}")'):
        assert np.array_equal(of(call).view(np.uint32), VALUES.view(np.uint32)), call


def test_seeds_tensors_and_methods_draw_apart_and_the_same_again():
    ones = np.ones(1000, np.float32)
    calls = ["dare(t)", "dare(t, seed=1)", "della(t, density=0.5, epsilon=0)", "random_like(t)"]
    differ = [of(call, ones) != of("dare(t)", ones) for call in calls]
    assert not differ[0].any() and all(f.any() for f in differ[1:])
    both = tv.dare(tv.from_arrays({"v": ones, "w": ones}, "t", mass=0))
    assert not np.array_equal(both["v"], both["w"]) and np.array_equal(both["w"], of("dare(t)", ones))


def test_a_zero_vector_has_no_random_direction():
    assert not of("random_like(t)", np.zeros(9, np.float32)).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("trim(t, density=0)", r"density must lie in \(0, 1\], not 0"),
        ("trim(t, density=1.01)", r"density must lie in \(0, 1\], not 1.01"),
        ("trim(t, least=0.5)", "least must lie in .* whole number, not 0.5"),
        ('trim(t, scope="row")', "scope is one of model, tensor, not 'row'"),
        ("breadcrumbs(t, gamma=-0.1)", r"gamma must lie in \[0, 1\]"),
        ("dare(t, drop=1)", "drop must lie in"),
        ("dare(t, seed=0.5)", "seed must lie in .* whole number"),
        ("dare(t, t)", "dare takes exactly 1 task vectors, not 2"),
    ],
)
def test_parameters_out_of_range_are_stated(call, message):
    with pytest.raises(RecipeError, match=message):
        of(call)


def test_della_ranks_along_the_last_axis_or_behind_the_first():
    """Of a kernel (out, in, height, width) a row is `width` long, or the whole of one output."""
    shape = (20_000, 3, 1, 2)
    tau = {"w": np.tile(np.arange(1, 7, dtype=np.float32).reshape(1, 3, 1, 2), (shape[0], 1, 1, 1))}
    for rows, wanted in (("last", [0.4, 0.8] * 3), ("first", np.linspace(0.4, 0.8, 6))):
        for rescale in ("none", "l1"):
            recipe = f'della(t0, density=0.6, epsilon=0.4, rows="{rows}", rescale="{rescale}")'
            kept = (made(recipe, [tau])["w"] != 0).mean(0).ravel()
            assert np.allclose(kept, wanted, atol=0.02), (rows, rescale)


@pytest.mark.parametrize("shape", [(60_000, 1), (300, 200, 1, 1)])
def test_della_keeps_a_row_of_one_entry_at_its_density(shape):
    """It is the smallest and the largest at once, so it stands in the middle."""
    sparse = made('della(t0, density=0.6, epsilon=0.4, rescale="none")', [{"w": np.ones(shape, np.float32)}])["w"]
    assert abs(sparse.mean() - 0.6) < 0.01


OUTSIDE = [
    ("della(t0, density=0.95)", "0.88 to 1.02, .* at most 0.1 "),
    ("della(t0, density=0.05)", "-0.02 to 0.12, .* less than 0.1 "),
    ("della(t0, density=0.5, epsilon=1)", "0 to 1, .* less than 1 "),
    ("della_ties(t0, t1, density=0.9, epsilon=0.3)", "0.75 to 1.05, .* at most 0.2 "),
    ('della(t0, density=per({"layers.1.*": 0.99, "*": 0.6}))', r"della at layers\.1\.w: .* 0.92 to 1.06,"),
    ('della(t0, epsilon=per({"*.b": 0.8, "*": 0.1}))', r"della at layers\.0\.b: .* 0.3 to 1.1,"),
    ("base + della(base + t0 - base, density=0.97)", "at most 0.06 "),
]


@pytest.mark.parametrize(("recipe", "message"), OUTSIDE, ids=[r for r, _ in OUTSIDE])
def test_della_refuses_probabilities_that_are_none_before_any_work(recipe, message, tmp_path):
    known = sources([arrays(1), arrays(2)]) | {"base": tv.from_arrays(arrays(3), "base")}
    with pytest.raises(RecipeError, match=message):
        tv.save(tv.parse(recipe, **{k: v for k, v in known.items() if k in recipe}), tmp_path / "out")
    assert not [*tmp_path.iterdir()]
