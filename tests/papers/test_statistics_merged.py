"""Merges that need statistics: Fisher averaging and RegMean against their equations, from arrays and from files.

And what happens to all that is not as it should be.
"""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import taskvec as tv
from taskvec.errors import FingerprintError, MassError, MismatchError, RecipeError, TaskvecError

pytest.importorskip("torch")
from small_statistics import X, by_name, called, mlp, stored

SHAPES = {"embed.weight": (6, 4), "layers.0.weight": (5, 4), "layers.0.bias": (5,), "layers.1.weight": (3, 5)}


def models(count, seed=0):
    rng = np.random.default_rng(seed)
    return [{n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()} for _ in range(count)]


def fishers(count, seed=1):
    rng = np.random.default_rng(seed)
    return [{n: (rng.exponential(size=s) ** 3 * 1e-5).astype("f4") for n, s in SHAPES.items()} for _ in range(count)]


def grams(count, names=("layers.0.weight", "layers.1.weight"), rows=20, seed=2):
    rng = np.random.default_rng(seed)
    xs = [{n: rng.standard_normal((rows, SHAPES[n][1])) for n in names} for _ in range(count)]
    return [{n: (v.T @ v).astype("f4") for n, v in x.items()} for x in xs]


def merged(recipe, thetas, known=(), kind="fisher"):
    given = {f"m{k}": tv.from_arrays(t, f"m{k}") for k, t in enumerate(thetas)}
    given |= {f"s{k}": tv.from_arrays(s, f"s{k}", statistic=kind) for k, s in enumerate(known)}
    weights = tv.parse(recipe, **{name: w for name, w in given.items() if name in recipe})
    return {name: weights[name] for name in weights}


@pytest.mark.parametrize("floors", ["first", "all"])
@pytest.mark.parametrize("norm", ["model", "none"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (0.5, 2, 0.25)])
def test_fisher_is_the_weighted_mean(floors, norm, weights):
    thetas, known = models(3), fishers(3)
    call = f'fisher(m0, m1, m2, s0, s1, s2, weights={weights}, floors="{floors}", norm="{norm}")'
    tensors = merged(call, thetas, known)
    c = [
        w / (np.sqrt(sum((f.astype("f8") ** 2).sum() for f in fs.values())) if norm == "model" else 1)
        for w, fs in zip(weights, known, strict=True)
    ]
    for name in SHAPES:
        f = [k[name].astype("f8") for k in known]
        f = [np.maximum(x, 1e-6) if k == 0 or floors == "all" else x for k, x in enumerate(f)]
        top = sum(a * b * t[name] for a, b, t in zip(c, f, thetas, strict=True))
        np.testing.assert_allclose(
            tensors[name], top / sum(a * b for a, b in zip(c, f, strict=True)), rtol=1e-5, atol=1e-6
        )


def test_where_no_model_is_sure_the_first_one_decides_or_the_mean():
    thetas, zero = models(2), [{n: np.zeros(s, "f4") for n, s in SHAPES.items()}] * 2
    for name, value in merged("fisher(m0, m1, s0, s1)", thetas, zero).items():
        np.testing.assert_allclose(value, thetas[0][name], rtol=1e-6)
    for call in ('fisher(m0, m1, s0, s1, floors="all")', "fisher(m0, m1, s0, s1, floor=0)"):
        for name, value in merged(call, thetas, zero).items():
            np.testing.assert_allclose(value, (thetas[0][name] + thetas[1][name]) / 2, rtol=1e-5, atol=1e-7)
    some = [{n: f[n] for n in list(SHAPES)[:2]} for f in fishers(2)]  # files that name not everything
    name = "layers.1.weight"
    for call, wanted in (
        ("fisher(m0, m1, s0, s1)", thetas[0][name]),
        ('fisher(m0, m1, s0, s1, floors="all", norm="none")', (thetas[0][name] + thetas[1][name]) / 2),
    ):
        np.testing.assert_allclose(merged(call, thetas, some)[name], wanted, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.lists(st.floats(0.01, 10), min_size=2, max_size=2))
def test_equal_information_gives_the_weighted_mean(size, weights):
    thetas = models(2)
    same = [{n: np.full(s, size, "f4") for n, s in SHAPES.items()}] * 2
    a, b = weights
    for name, value in merged(f"fisher(m0, m1, s0, s1, weights=({a}, {b}))", thetas, same).items():
        np.testing.assert_allclose(value, (a * thetas[0][name] + b * thetas[1][name]) / (a + b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0, 0.1, 0.9, 1])
@pytest.mark.parametrize("weights", [(1, 1, 1), (0.5, 2, 0.25)])
def test_regmean_is_its_equation_and_the_rest_the_mean(alpha, weights):
    thetas, known = models(3), grams(3)
    tensors = merged(f"regmean(m0, m1, m2, s0, s1, s2, alpha={alpha}, weights={weights})", thetas, known, "gram")
    for name in SHAPES:
        if name in known[0]:
            g = [c * k[name].astype("f8") for c, k in zip(weights, known, strict=True)]
            g = [alpha * x + (1 - alpha) * np.diag(np.diag(x)) for x in g]
            wanted = np.linalg.inv(sum(g)) @ sum(x @ t[name].T for x, t in zip(g, thetas, strict=True))
            np.testing.assert_allclose(tensors[name], wanted.T, rtol=1e-4, atol=1e-5)
        else:
            wanted = sum(c * t[name] for c, t in zip(weights, thetas, strict=True)) / sum(weights)
            np.testing.assert_allclose(tensors[name], wanted, rtol=1e-5, atol=1e-6)


def test_regmean_of_least_squares_solutions_is_the_solution_on_all_the_data():
    """Each model fits its own data best; with alpha=1 the merged one fits the union best."""
    rng = np.random.default_rng(3)
    sets = [(rng.standard_normal((30 + 10 * k, 6)) + k, rng.standard_normal((30 + 10 * k, 4))) for k in range(3)]
    thetas = [{"w": np.linalg.lstsq(x, y, rcond=None)[0].T.astype("f4")} for x, y in sets]
    known = [{"w": (x.T @ x).astype("f4")} for x, _ in sets]
    tensors = merged("regmean(m0, m1, m2, s0, s1, s2, alpha=1)", thetas, known, "gram")
    x, y = (np.concatenate(part) for part in zip(*sets, strict=True))
    np.testing.assert_allclose(tensors["w"], np.linalg.lstsq(x, y, rcond=None)[0].T, rtol=1e-4, atol=1e-5)
    mean = np.mean([t["w"] for t in thetas], 0)
    assert np.abs(mean - tensors["w"]).max() > 0.05  # what a mean would not have done


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=2), st.sampled_from([0.3, 0.9, 1]))
def test_gram_matrices_that_are_multiples_of_one_give_a_weighted_mean(sizes, alpha):
    thetas = models(2)
    names = ("layers.0.weight", "layers.1.weight")
    known = [{n: c * np.eye(SHAPES[n][1], dtype="f4") for n in names} for c in sizes]
    tensors = merged(f"regmean(m0, m1, s0, s1, alpha={alpha})", thetas, known, "gram")
    for n in names:
        wanted = (sizes[0] * thetas[0][n] + sizes[1] * thetas[1][n]) / sum(sizes)
        np.testing.assert_allclose(tensors[n], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.9, 1])
def test_regmean_stays_at_the_mean_where_no_data_speak(alpha):
    """Inputs 2 and 3 are always 0; with alpha=1 the first two are one direction only."""
    rng = np.random.default_rng(4)
    x = [np.outer(rng.standard_normal(9), [1.0, 2.0, 0, 0]), np.outer(rng.standard_normal(9), [1.0, 2.0, 0, 0])]
    thetas = [{"w": rng.standard_normal((3, 4)).astype("f4")} for _ in x]
    known = [{"w": (v.T @ v).astype("f4")} for v in x]
    w = merged(f"regmean(m0, m1, s0, s1, alpha={alpha})", thetas, known, "gram")["w"]
    mean = (thetas[0]["w"] + thetas[1]["w"]) / 2
    np.testing.assert_allclose(w[:, 2:], mean[:, 2:], rtol=1e-5)
    assert np.abs(w).max() < 10
    if alpha == 1:  # what the data say is met: outputs on the one direction are those of least squares
        g = [k["w"].astype("f8") for k in known]
        wanted = sum(a @ t["w"].T for a, t in zip(g, thetas, strict=True))
        np.testing.assert_allclose(sum(g) @ w.T, wanted, rtol=1e-4, atol=1e-4)


def test_a_model_whose_data_never_reached_a_layer_has_no_say_in_it():
    thetas, known = models(2), grams(2)
    del known[0]["layers.0.weight"]
    tensors = merged("regmean(m0, m1, s0, s1, alpha=1)", thetas, known, "gram")
    np.testing.assert_allclose(tensors["layers.0.weight"], thetas[1]["layers.0.weight"], rtol=1e-4, atol=1e-5)


# ---- as sources -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Models a and b of one shape, c of others; both statistics of a and b."""
    home = tmp_path_factory.mktemp("statistics")
    for seed, name in enumerate("ab"):
        module = mlp(seed)
        stored(module, home / name)
        for kind in ("fisher", "gram"):
            batches = by_name(X + seed)
            given = (module, batches, called)
            tv.stats(home / name, lambda _, given=given: given, home / f"{kind}-{name}.safetensors", kind=kind)
    stored(mlp(2, (4, 6, 3)), home / "c")
    return home


def loaded(world, recipe):
    given = {"a": "a", "b": "b", "c": "c", "fa": "fisher-a", "fb": "fisher-b", "ga": "gram-a", "gb": "gram-b"}
    used = {n: world / (f if len(n) == 1 else f"{f}.safetensors") for n, f in given.items()}
    return tv.parse(recipe, **{n: str(p) for n, p in used.items() if re.search(rf"\b{n}\b", recipe)})


RECIPES = [
    "fisher(a, b, fa, fb)",
    'fisher(a, b, fa, fb, weights=(0.3, 0.7), floor=1e-8, floors="all", norm="none")',
    "regmean(a, b, ga, gb)",
    "regmean(a, b, ga, gb, alpha=1, weights=(2, 1))",
    "a + 0.5*(regmean(a, b, ga, gb) - a)",
    "regmean(0.5*a + 0.5*b, b, ga, gb)",
    "slerp(fisher(a, b, fa, fb), regmean(a, b, ga, gb), t=0.25)",
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_they_print_parse_and_stream_to_the_same_bytes(world, recipe, tmp_path):
    w = loaded(world, recipe)
    assert tv.parse(str(w)) == w and hash(tv.parse(str(w))) == hash(w) and w.mass == 1
    force = recipe.startswith("regmean(0.5")
    tv.save(w, tmp_path / "one", threads=1, force=force)
    tv.save(tv.parse(str(w)), tmp_path / "two", threads=3, ram="400MB", force=force)
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("one", "two"))
    for name in one:
        assert np.array_equal(one[name], two[name]) and np.array_equal(one[name], w[name]), name
    record = json.loads((tmp_path / "one/taskvec.json").read_text())
    kinds = {i.get("statistic") for i in record["inputs"].values()}
    assert kinds == {None} | {k for k, n in (("fisher", "fa"), ("gram", "ga")) if n in recipe}


def test_stored_norms_are_what_memory_says(world):
    from_files = loaded(world, "fisher(a, b, fa, fb)")
    read = {f"f{n}": load_file(world / f"fisher-{n}.safetensors") for n in "ab"}
    known = {name: tv.from_arrays(content, name, statistic="fisher") for name, content in read.items()}
    in_memory = tv.parse("fisher(a, b, fa, fb)", a=str(world / "a"), b=str(world / "b"), **known)
    for name in from_files:
        np.testing.assert_allclose(from_files[name], in_memory[name], rtol=1e-6)


def test_weights_may_be_knobs_and_differ_from_layer_to_layer(world):
    free = loaded(world, "fisher(a, b, fa, fb, weights=(lam, 1 - lam))")
    assert free.knobs == {"lam"}
    assert free.bind(lam=0.25) == loaded(world, "fisher(a, b, fa, fb, weights=(0.25, 0.75))")
    only = loaded(world, 'fisher(a, b, fa, fb, weights=(only("0.*"), without("0.*")), floors="all")')
    a, b = tv.load(world / "a"), tv.load(world / "b")
    np.testing.assert_allclose(only["0.weight"], a["0.weight"], rtol=1e-6)
    np.testing.assert_allclose(only["2.weight"], b["2.weight"], rtol=1e-6)


def test_the_plan_counts_the_matrices_that_regmean_holds(world):
    small, large = (tv.plan(loaded(world, r)).peak for r in ("fisher(a, b, fa, fb)", "regmean(a, b, ga, gb)"))
    assert small and large
    wide = [{"w": np.zeros((1, 600), "f4")} for _ in range(2)]
    known = [{"w": np.eye(600, dtype="f4")} for _ in range(2)]
    given = {"a": wide[0], "b": wide[1]}
    w = tv.parse("regmean(a, b, c, d)", **{n: tv.from_arrays(x, n) for n, x in given.items()},
                 **{n: tv.from_arrays(x, n, statistic="gram") for n, x in zip("cd", known, strict=True)})  # fmt: skip
    assert tv.plan(w).peak - tv.plan(tv.parse("a", a=tv.from_arrays(wide[0], "a"))).peak > 10 * 4 * 600 * 600


REFUSED = [
    ("a + fa", MassError, ["fisher statistics", "only a method takes them"]),
    ("fa", MassError, ["fisher statistics"]),
    ("a + 0.1*(fa - fb)", MassError, ["fisher statistics"]),
    ("a + trim(fa)", MassError, ["fisher statistics"]),
    ("a + ties(b - a, ga)", MassError, ["gram statistics"]),
    ("slerp(fa, fb)", MassError, ["fisher statistics"]),
    ("fisher(a, b)", RecipeError, ["argument 2 of 2", "taskvec stats MODEL --kind fisher"]),
    ("fisher(a, b, fa)", RecipeError, ["fisher(a, b, fisher_a, fisher_b)", "not 3"]),
    ("fisher(a, fa)", RecipeError, ["at least 2 models"]),
    ("fisher(a, b, ga, gb)", RecipeError, ["argument 3 of 4 is gram statistics"]),
    ("regmean(a, b, ga, fb)", RecipeError, ["argument 4 of 4 is fisher statistics"]),
    ("fisher(a, b, 2*fa, fb)", RecipeError, ["argument 3 of 4", "2*"]),
    ("fisher(fa, fb, fa, fb)", MassError, ["fisher statistics"]),
    ("fisher(a - b, b - a, fa, fb)", MassError, ["argument 1 is a task vector"]),
    ("fisher(a, b, fa, fb, weights=(1, 2, 3))", RecipeError, ["2 in parentheses"]),
    ("fisher(a, b, fa, fb, weights=(-1, 2))", RecipeError, ["weights must lie in"]),
    ("fisher(a, b, fa, fb, weights=(0, 0))", RecipeError, ["must not all be 0"]),
    ('fisher(a, b, fa, fb, floors="second")', RecipeError, ["one of first, all"]),
    ("regmean(a, b, ga, gb, alpha=2)", RecipeError, ["alpha must lie in [0, 1]"]),
    ("fisher(a, b, fb, fa)", FingerprintError, ["is of the model", "beside it stands", "force"]),
    ("regmean(0.5*a + 0.5*b, b, ga, gb)", FingerprintError, ["an expression"]),
    ("fisher(c, c, fa, fb)", MismatchError, ["0.weight is F32[5, 4]", "F32[6, 4] in the models"]),
    ("regmean(c, c, ga, gb)", MismatchError, ["2.weight is F32[5, 5]"]),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "says"), REFUSED, ids=[r for r, *_ in REFUSED])
def test_statistics_in_the_wrong_place_are_a_stated_error(world, recipe, kind, says, tmp_path):
    with pytest.raises(kind) as refusal:
        tv.save(loaded(world, recipe), tmp_path / "out")
    for text in says:
        assert text in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_nothing_else_takes_them_for_weights(world, command):
    module = mlp()
    with pytest.raises(MassError):
        tv.load_into(module, tv.load(world / "fisher-a.safetensors"))
    for words in (
        ["check", "a", "fisher-a.safetensors"],
        ["add", "a", "fisher-a.safetensors", "-o", "out"],
        ["negate", "a", "gram-a.safetensors", "-o", "out"],
        ["diff", "fisher-a.safetensors", "a", "-o", "out"],
        ["merge", "a", "a=a", "--like", "fisher-a.safetensors", "-o", "out"],
    ):
        said = command(*words, folder=world)
        assert said.code == 1 and "only a method takes them" in said.stderr, words
    assert not (world / "out").exists()


def test_nan_in_a_model_or_its_statistics_is_named():
    thetas, known, gram = models(2), fishers(2), grams(2)
    gram[1]["layers.1.weight"][0, 1] = known[1]["layers.1.weight"][0, 0] = np.nan
    for tensors in (
        merged("fisher(m0, m1, s0, s1)", thetas, known),
        merged("regmean(m0, m1, s0, s1)", thetas, gram, "gram"),
    ):
        assert np.isnan(tensors["layers.1.weight"]).any() and not np.isnan(tensors["layers.0.weight"]).any()
    thetas[0]["embed.weight"][0, 0] = np.nan
    assert np.isnan(merged("regmean(m0, m1, s0, s1)", thetas, grams(2), "gram")["embed.weight"][0, 0])


def test_metadata_that_cannot_be_meant_is_a_stated_error(tmp_path):
    content = {"w": np.ones((3, 3), "f4")}
    a = tv.from_arrays(content, "a")
    norm, turned = ("fisher", "norm"), ("gram", "transposed")
    for (kind, key), value in ((norm, "long"), (norm, "-1"), (turned, "w"), (turned, "{}")):
        path = tmp_path / f"{kind}{key}{len(value)}.safetensors"
        save_file(content, path, metadata={"taskvec.statistic": kind, f"taskvec.{key}": value})
        call = "fisher(a, a, s, s)" if kind == "fisher" else "regmean(a, a, s, s)"
        with pytest.raises(TaskvecError, match=f"taskvec.{key}"):
            tv.parse(call, a=a, s=str(path))["w"]
