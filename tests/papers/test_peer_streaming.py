"""Methods that mergekit offers too, streamed from files: the same bytes for any threads and blocks; stated errors."""

import numpy as np
import pytest
from method_arrays import UNEVEN, arrays, made, same, sources

import taskvec as tv
from taskvec.errors import MassError, RecipeError, TaskvecError
from taskvec.methods.core.call import METHOD_TILE as TILE


@pytest.fixture(params=[False, True], ids=["fine", "coarse"])
def taus(request):
    return [arrays(seed, coarse=request.param, shapes=UNEVEN) for seed in (1, 2, 3)]


SYMMETRIC = ["multislerp(%s)", "karcher(%s)", "stock(%s)", "ram(%s)", "ramplus(%s, epsilon=0.7)", "sce(%s, select=0.4)"]


@pytest.mark.parametrize("recipe", SYMMETRIC)
def test_the_order_of_the_vectors_does_not_matter(taus, recipe):
    same(made(recipe % "t2, t0, t1", taus), made(recipe % "t0, t1, t2", taus), 1e-5)


HOMOGENEOUS = ["nuslerp(%s, %s, weights=(1, 3))", 'nuslerp(%s, %s, scope="row")', "multislerp(%s, %s)", "sce(%s, %s)"]


@pytest.mark.parametrize("recipe", HOMOGENEOUS)
def test_twice_the_vectors_make_twice_the_result(taus, recipe):
    twice = made(recipe % ("2*t0", "2*t1"), taus)
    same(twice, {k: 2 * v for k, v in made(recipe % ("t0", "t1"), taus).items()}, 1e-5)


STREAMED = [
    'base + nuslerp(math - base, code - base, weights=(1, 2), scope="row")',
    'nuslerp(math, code, scope="column")',
    "multislerp(base, math, code, weights=(1, 2, 3))",
    'model_stock(base, math, code, scope="row", floor=0.000001)',
    "nearswap(base, math, t=0.01)",
    "arcee_fusion(base, math)",
    "base + sce(math - base, code - base, select=0.2)",
    "base + ramplus(math - base, code - base, epsilon=0.8)",
    'base + elect(0.5*(math - base), code - base, weights=(0.5, 1), tie="plus")',
    'base + trim(math - base, density=0.3, ties="first", rescale="l1")',
    'base + trim(math - base, density=0.3, ties="first", scope="tensor")',
    'base + breadcrumbs(math - base, ties="first", outliers="spare", density=0.5, gamma=0.1)',
    'base + dare(math - base, rescale="l1")',
    'base + della(math - base, rescale="l1") + ram(code - base)',
]


@pytest.fixture(scope="module")
def models(build, tmp_path_factory):
    """Three models of few values, so that thresholds have equals, with tensors longer than a part."""
    home = tmp_path_factory.mktemp("models")
    shapes = {"model.layers.0.w": (9, 5), "model.layers.1.w": (9, 5), "bias": (7,), "big": (5, TILE + 7)}
    for seed, name in enumerate(("base", "math", "code")):
        content = arrays(seed, coarse=True, shapes=shapes) | {"ids": np.arange(5)}
        build.model(home / name, content)
    return home


def loaded(models, recipe):
    return tv.parse(recipe, **{name: tv.load(models / name) for name in ("base", "math", "code") if name in recipe})


@pytest.mark.parametrize("recipe", STREAMED)
def test_the_same_bytes_for_any_threads_and_blocks_and_as_text(models, recipe, tmp_path):
    w = loaded(models, recipe)
    assert tv.parse(str(w)) == w
    tv.save(w, tmp_path / "one", threads=1, dtype="float32")
    tv.save(tv.parse(str(w)), tmp_path / "two", threads=3, ram="600MB", shard_size="1MB", dtype="float32")
    one, two = tv.load(tmp_path / "one"), tv.load(tmp_path / "two")
    for name in w:
        assert np.array_equal(one[name], two[name], equal_nan=True), name
    assert np.array_equal(w.read("big", slice(1, 3)), one["big"][1:3])


def test_a_tile_is_cut_as_the_whole_where_a_range_begins_in_its_middle(models):
    """Of the entries equal to the threshold those before the range count too."""
    w = loaded(models, 'trim(math - base, density=0.3, scope="tensor", ties="first")')
    (source,) = w.terms
    whole = w["big"].ravel()
    for start, n in ((1, 5), (TILE - 3, 7), (TILE + 1000, 2 * TILE), (3 * TILE + 1, whole.size - 3 * TILE - 1)):
        out = np.empty(n, np.float32)
        source.readinto("big", start, memoryview(out).cast("B"))
        assert np.array_equal(out, whole[start : start + n])
    assert np.count_nonzero(whole) == int(0.3 * whole.size)


def test_the_plan_counts_the_passes_that_the_options_take(models):
    def passes(recipe):
        return tv.plan(loaded(models, recipe)).passes

    assert passes("trim(math - base)") == 2
    assert passes('trim(math - base, ties="first")') == 2 and passes('trim(math - base, rescale="l1")') == 3
    assert passes("dare(math - base)") == 1 and passes('dare(math - base, rescale="l1")') == 2
    assert passes("sce(math - base, code - base)") == 2 and passes("sce(math - base, code - base, select=0.5)") == 4
    assert passes('nuslerp(math, code, scope="row")') == 2 == passes("ramplus(math - base, code - base)")


def test_weights_may_be_knobs_and_follow_the_layers():
    taus = [arrays(1, shapes=UNEVEN), arrays(2, shapes=UNEVEN)]
    known = sources(taus)
    free = tv.parse("nuslerp(t0, t1, weights=(1 - w, w))", **known)
    assert free.knobs == {"w"}
    assert free.bind(w=0.25) == tv.parse("nuslerp(t0, t1, weights=(0.75, 0.25))", **known)
    merged = made("nuslerp(t0, t1, weights=(layers(0, 1, outside=1), layers(1, 0, outside=1)))", taus)
    assert np.allclose(merged["layers.0.b"], taus[1]["layers.0.b"])
    assert np.allclose(merged["layers.1.w"], taus[0]["layers.1.w"])


WRONG = [
    ("nuslerp(math, code, weights=(1, 2, 3))", RecipeError, "weights is one number an argument, 2 in parentheses"),
    ("nuslerp(math, code, base)", RecipeError, "exactly 2"),
    ('nuslerp(math, code, scope="model")', RecipeError, "scope is one of tensor, row, column"),
    ("multislerp(math, code, weights=0.5)", RecipeError, "one number an argument"),
    ("multislerp(math, code, weights=(1, -1))", RecipeError, "add up to 0"),
    ("karcher(math, code, weights=(-1, 2))", RecipeError, r"weights must lie in \[0, inf\], not -1"),
    ("karcher(math, code, weights=(0, 0))", RecipeError, "add up to 0"),
    ("nearswap(base, math, t=-0.1)", RecipeError, r"t must lie in \[0, inf\], not -0.1"),
    ("nearswap(base, math - base)", MassError, "not on both"),
    ("base + arcee_fusion(math - base, code - base)", MassError, "argument 1 is a task vector: add its base"),
    ("base + sce(math - base, select=0)", RecipeError, r"select must lie in \(0, 1\]"),
    ("base + sce(math, code - base)", MassError, "argument 1 is a model"),
    ("base + ram(math - base, epsilon=-1)", RecipeError, "epsilon must lie in"),
    ("base + ramplus(math - base, alpha=-1)", RecipeError, "alpha must lie in"),
    ("base + della(math - base, epsilon=1.2)", RecipeError, r"epsilon must lie in \[0, 1\], not 1.2"),
    ("base + elect(math - base, weights=(1, 2))", RecipeError, "1 in parentheses"),
    ('base + elect(math - base, tie="minus")', RecipeError, "tie is one of none, plus"),
    ('base + trim(math - base, ties="last")', RecipeError, "ties is one of all, first"),
    ('base + trim(math - base, rescale="l2")', RecipeError, "rescale is one of none, l1"),
    ("base + trim(math - base, least=-1)", RecipeError, "least must lie in"),
    ('base + dare(math - base, rescale="l2")', RecipeError, "rescale is one of expected, l1, none"),
    ("base + stock(math - base, code - base, floor=-1)", RecipeError, "floor must lie in"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_a_method_cannot_take_is_a_stated_error(models, tmp_path, recipe, kind, message):
    with pytest.raises(kind, match=message):
        tv.save(loaded(models, recipe), tmp_path / "out")
    assert not list(tmp_path.iterdir())


NAN = ["nuslerp(b, x)", 'nuslerp(b, x, scope="row")', "multislerp(b, x)", "nearswap(b, x)", "nearswap(x, b)",
       "arcee_fusion(b, x)", "b + sce(x - b)", "b + sce(x - b, 2*(x - b), select=0.5)", "b + ram(x - b)",
       "b + ramplus(x - b)", 'b + dare(x - b, rescale="l1")',
       'b + trim(x - b, ties="first", rescale="l1")']  # fmt: skip


@pytest.mark.parametrize("recipe", NAN)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_reported_by_tensor(tmp_path, recipe, bad):
    x, b = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    x[1, 1] = bad
    with pytest.raises(TaskvecError, match="w has NaN or Inf"):
        tv.save(tv.parse(recipe, b=tv.from_arrays({"w": b}, "b"), x=tv.from_arrays({"w": x}, "x")), tmp_path / "out")
    assert not list(tmp_path.iterdir())
