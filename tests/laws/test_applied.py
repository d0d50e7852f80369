"""Methods are sources like the rest: they print, parse, scale, take knobs, stream to the same bytes, and refuse."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError, RecipeError, TaskvecError, UnboundKnob
from taskvec.methods.core import applied
from taskvec.methods.core.call import METHOD_TILE
from taskvec.numbers import kernels
from taskvec.numbers.operations import DROP
from taskvec.saving import plan as planning
from taskvec.saving import stream as streaming

RECIPES = [
    "base + 0.4*ties(math - base, code - base, density=0.3)",
    'base + ties(0.5*(math - base), code - base, scope="tensor", reduce="sum")',
    "base + dare_ties(math - base, code - base, seed=3)",
    "base + breadcrumbs(math - base) - 0.5*dare(code - base, drop=0.9)",
    "base + della(math - base, density=0.5)",
    "slerp(math, code, t=0.3)",
    "0.5*slerp(base, math) + 0.5*karcher(base, math, code)",
    "model_stock(base, math, code)",
    "base + random_like(math - base, seed=1)",
    "base + elect(trim(math - base), dare(code - base)) + geometric_median(math - base, code - base)",
    'base + only("*.weight")*magmax(math - base, unified(code - base, math - base))',
    "base + freeze_conflicts(math - base, code - base, cosine=layers(0.1, -1, outside=0))",
    "ties(math - base, code - base)",
    'base + elect(dare(math - base, rescale="l1"), della(code - base, rescale="l1", seed=2), reduce="sum")',
    'base + 0.5*trim(della(math - base, rescale="l1"), scope="tensor", rescale="l1") - dare(code - base, rescale="l1")',
    'rename(base + dare(math - base, rescale="l1"), {"model.norm.bias": "bias"})',
]


@pytest.fixture(scope="module")
def models(build, tmp_path_factory):
    """Three models in float16, with tensors longer than a tile, odd sizes and one that is not floating point."""
    home = tmp_path_factory.mktemp("models")
    shapes = {"model.embed.weight": (10, 4), "model.layers.0.mlp.weight": (9, 5), "model.layers.1.mlp.weight": (9, 5)}
    shapes |= {"model.norm.bias": (7,), "model.big.weight": (3, METHOD_TILE // 2 + 7), "model.wide.weight": (33, 64)}
    for seed, name in enumerate(("base", "math", "code")):
        content = build.tensors(seed, shapes, np.float16) | {"model.ids": np.arange(5)}
        build.model(home / name, content, shards=2 if name == "math" else 1)
    return home


def given(models, recipe):
    return {name: tv.load(models / name) for name in ("base", "math", "code") if name in recipe}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_methods_prints_what_parses_to_the_same(models, recipe):
    w = tv.parse(recipe, **given(models, recipe))
    assert tv.parse(str(w)) == w and hash(tv.parse(str(w))) == hash(w)
    assert w.mass == (0 if recipe.startswith("ties") else 1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_bytes_for_any_threads_blocks_and_shards(models, recipe, tmp_path, monkeypatch):
    w = tv.parse(recipe, **given(models, recipe))
    tv.save(w, tmp_path / "one", threads=1)
    monkeypatch.setattr(planning, "BLOCKS", (planning.PIECE,))
    again = tv.parse(str(w))
    assert sum(block.name == "model.big.weight" for block in tv.plan(again).blocks()) > 1
    tv.save(again, tmp_path / "two", threads=3, ram="400MB", shard_size="300KB")
    one, two = tv.load(tmp_path / "one"), tv.load(tmp_path / "two")
    assert list(one) and one.keys() == two.keys()
    for name in one:
        assert np.array_equal(one[name], two[name], equal_nan=True), name
    for folder in ("one", "two"):
        tv.verify(tmp_path / folder)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_bytes_whether_measured_as_a_whole_or_in_stretches(models, recipe, tmp_path, monkeypatch):
    w = tv.parse(recipe, **given(models, recipe))
    whole = tv.save(w, tmp_path / "whole")
    for stretch in (1, 1000):
        monkeypatch.setattr(streaming, "STRETCH", stretch)
        monkeypatch.setattr(applied, "STRETCH", stretch)  # nothing, or little, that is drawn is remembered
        part = tv.save(tv.parse(str(w)), tmp_path / str(stretch), threads=2)
        assert part.fingerprint == whole.fingerprint


@pytest.mark.parametrize("method", ["dare", "della"])
def test_what_is_drawn_to_measure_is_not_drawn_again(models, method, tmp_path, monkeypatch):
    w = tv.parse(f'base + {method}(math - base, rescale="l1")', **given(models, "base math"))
    saved, drawn = tv.save(w, tmp_path / "one", threads=1), []
    run, prune = kernels.run, kernels.prune
    monkeypatch.setattr(kernels, "run", lambda *a: (drawn.extend(a[5] for op in a[4] if op.code == DROP), run(*a))[1])
    monkeypatch.setattr(kernels, "prune", lambda *a: (drawn.append(a[2] * a[3]), prune(*a))[1])
    assert tv.save(tv.parse(str(w)), tmp_path / "two", threads=1).fingerprint == saved.fingerprint
    numels = {name: spec.numel for name, spec in w.specs.items() if spec.arithmetic}
    twice = [n for name, n in numels.items() if method == "della" and w.specs[name].shape[-1] % 8]
    assert sum(drawn) == sum(numels.values()) + sum(twice)  # bits of rows that share a byte are not remembered


def test_reading_a_tensor_measures_that_tensor_alone(models):
    w = tv.parse('base + ties(math - base, code - base, scope="tensor")', **given(models, "base math code"))
    whole = sum(source.unmeasured for source in w.terms if hasattr(source, "unmeasured"))
    w.read("model.wide.weight")
    left = sum(source.unmeasured for source in w.terms if hasattr(source, "unmeasured"))
    assert whole - left == 2 * w.specs["model.wide.weight"].numel


def test_a_parameter_out_of_range_at_a_late_tensor_is_stated_before_any_work(models, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "STRETCH", 1)
    recipe = 'base + trim(math - base, scope="tensor", density=per({"*.wide.*": 2, "*": 0.5}))'
    seen = []
    with pytest.raises(RecipeError, match=r"density must lie in \(0, 1\], not 2 at model.wide.weight"):
        w = tv.parse(recipe, **given(models, "base math"))
        tv.save(w, tmp_path / "out", progress=lambda done, total: seen.append(done))
    assert not seen and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_read_is_what_is_saved(models, recipe, tmp_path):
    w = tv.parse(recipe, **given(models, recipe))
    tv.save(w, tmp_path / "out", dtype="float32")
    saved = tv.load(tmp_path / "out")
    for name in w:
        if w.specs[name].arithmetic:
            assert np.array_equal(saved[name], w[name]), name
            rows = w.specs[name].shape[0] if w.specs[name].shape else 1
            if rows > 2:
                assert np.array_equal(w.read(name, slice(1, 3)), w[name][1:3]), name


def test_knobs_in_arguments_and_parameters(models):
    free = tv.parse("base + lam*ties(a*(math - base), code - base, density=d)", **given(models, "base math code"))
    assert free.knobs == {"lam", "a", "d"}
    bound = tv.parse("base + 0.5*ties(2*(math - base), code - base, density=0.1)", **given(models, "base math code"))
    assert free.bind(lam=0.5, a=2, d=0.1) == bound
    with pytest.raises(UnboundKnob):
        free.bind(lam=0.5, a=2).read("model.big.weight")
    with pytest.raises(RecipeError, match="density must lie in"):
        free.bind(d=2)


def test_the_plan_counts_passes_and_keeps_its_memory(models):
    w = tv.parse("base + ties(math - base, code - base)", **given(models, "base math code"))
    todo = tv.plan(w)
    assert todo.as_dict()["passes"] == 2 and "2 passes" in str(todo)
    assert tv.plan(tv.parse("slerp(math, code)", **given(models, "math code"))).as_dict()["passes"] == 2
    assert tv.plan(tv.parse("base + math - code", **given(models, "base math code"))).as_dict()["passes"] == 1


def test_lineage_and_card_name_the_models_that_a_method_read(models, tmp_path):
    w = tv.parse("base + ties(math - base, code - base)", **given(models, "base math code"))
    saved = tv.save(w, tmp_path / "out")
    assert saved.recipe == "base + elect(trim(math - base), trim(code - base))"
    import json

    record = json.loads((tmp_path / "out/taskvec.json").read_text())
    assert record["inputs"].keys() == {"base", "math", "code"}


def test_a_stored_vector_remembers_its_base_and_progress_covers_every_pass(models, tmp_path):
    base, math, code = (tv.load(models / name) for name in ("base", "math", "code"))
    seen = []
    tv.save(tv.ties(math - base, code - base), tmp_path / "v", progress=lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1 and seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen) and seen[0][0] > 0
    seen.clear()  # what a filter leaves out is never measured
    part = tv.only("*.norm.*") * tv.dare(math - base, rescale="l1")
    tv.save(base + part, tmp_path / "part", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    vector = tv.load(tmp_path / "v")
    tv.save(base + vector, tmp_path / "ok")
    with pytest.raises(TaskvecError, match="was made from"):
        tv.save(math + vector, tmp_path / "no")


WRONG = [
    ("base + ties(math, code - base)", MassError, "argument 1 is a model"),
    ("base + ties(math - base, density=0)", RecipeError, r"density must lie in \(0, 1\], not 0"),
    ("base + ties(math - base, density=1.5)", RecipeError, "not 1.5"),
    ("base + ties(math - base, dens=0.5)", RecipeError, "dens"),
    ("base + ties(math - base, densty=0.5)", RecipeError, "ties has no parameter densty .did you mean density"),
    ("lines(math - base, alfa=0.5)", RecipeError, "lines has no parameter alfa .did you mean alpha"),
    ("base + trim(math - base, dens=0.5)", RecipeError, "did you mean density"),
    ("base + trim(math - base, code - base)", RecipeError, "takes at least 1|takes exactly 1"),
    ('base + trim(math - base, scope="layer")', RecipeError, "one of model, tensor"),
    ("base + trim(math - base, density=\"big\")", RecipeError, "is a number"),
    ("slerp(math)", RecipeError, "exactly 2"),
    ("slerp(math, code, base)", RecipeError, "exactly 2"),
    ("slerp(math, code - base)", MassError, "not on both"),
    ("slerp(math, code, t=1.5)", RecipeError, "t must lie in"),
    ("model_stock(base, math)", RecipeError, "at least two models"),
    ("base + dare(math - base, drop=1)", RecipeError, "drop must lie in"),
    ("base + elect(0.5, math - base)", RecipeError, "works on task vectors"),
    ("base + elect()", RecipeError, "at least 1"),
    ("base + tiess(math - base)", RecipeError, "did you mean ties"),
    ("base + trim(math - base, density=layers(0.1, 0.5, outside=0.2))", RecipeError, "one number"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_a_method_cannot_take_is_a_stated_error(models, tmp_path, recipe, kind, message):
    with pytest.raises(kind, match=message):
        tv.save(tv.parse(recipe, **given(models, recipe)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_slerp_with_one_zero_tensor_is_refused_and_with_two_gives_zero(tmp_path):
    zero, one = {"w": np.zeros(4, np.float32)}, {"w": np.ones(4, np.float32)}
    a, b = tv.from_arrays(zero, "a"), tv.from_arrays(one, "b")
    assert not tv.parse("slerp(a, c)", a=a, c=tv.from_arrays(zero, "c"))["w"].any()
    with pytest.raises(TaskvecError, match="no angle"):
        tv.save(tv.parse("slerp(a, b)", a=a, b=b), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_reported_by_tensor(tmp_path, bad):
    bad = {"w": np.array([1, bad, 2], np.float32)}
    good = {"w": np.ones(3, np.float32)}
    b, x = tv.from_arrays(good, "b"), tv.from_arrays(bad, "x")
    for recipe in ("b + elect(x - b)", "b + trim(x - b)", "slerp(b, x)", "b + dare(x - b)", "b + della(x - b)"):
        with pytest.raises(TaskvecError, match="w has NaN or Inf"):
            tv.save(tv.parse(recipe, b=b, x=x), tmp_path / "out")
    assert not list(tmp_path.iterdir())


# ---- a method of one's own ------------------------------------------------------------------------
CLIP = """
import numpy as np
from taskvec import method


@method(local=True)
def clip(tau, *, limit=0.01):
    return np.clip(tau, -limit, limit)


@method
def centred(*taus):
    return sum(taus) - np.mean(taus)
"""


def test_a_method_of_ones_own_from_a_file(models, tmp_path, run):
    (tmp_path / "mine.py").write_text(CLIP)
    recipe = "base + clip(math - base, limit=layers(0.1, 0.2, outside=0.3)) + centred(code - base, math - base)"
    sources = [f"{name}={models / name}" for name in ("base", "math", "code")]
    assert (
        "did you mean"
        in run("merge", recipe.replace("clip", "clop"), *sources, "--methods", "mine.py", "-o", "x").stderr
    )
    found = run("merge", recipe, *sources, "--methods", "mine.py", "-o", "out")
    assert found.code == 0, found.stderr
    base, math, code = (tv.load(models / name) for name in ("base", "math", "code"))
    out = tv.load(tmp_path / "out")
    for name, limit in (
        ("model.layers.0.mlp.weight", 0.1),
        ("model.layers.1.mlp.weight", 0.2),
        ("model.big.weight", 0.3),
    ):
        a, b = math[name] - base[name], code[name] - base[name]
        wanted = base[name] + np.clip(a, -limit, limit) + (a + b - np.mean([a, b]))
        np.testing.assert_allclose(out[name], wanted, atol=3e-3)
    record = (tmp_path / "out/taskvec.json").read_text()
    assert "clip" in record and "blake3 of its code" in record


def test_a_file_of_methods_that_cannot_be_used_is_a_stated_error(models, tmp_path, run):
    (tmp_path / "mine.py").write_text("1 / 0")
    found = run("merge", "base", f"base={models / 'base'}", "--methods", "mine.py", "-o", "out")
    assert (found.code, found.stdout) == (1, "") and "Traceback" not in found.stderr
    assert "ZeroDivisionError" in found.stderr and not (tmp_path / "out").exists()


def test_a_method_that_fails_or_makes_another_shape_is_a_stated_error(models, tmp_path):
    @tv.method()
    def half(x):
        return x[: len(x) // 2]

    @tv.method(local=True)
    def broken(x):
        raise ValueError("no luck")

    base = tv.load(models / "base")
    for method, message in ((half, "made .* of model"), (broken, "broken failed .*: ValueError: no luck")):
        with pytest.raises(TaskvecError, match=message):
            tv.save(method(base), tmp_path / "out")
    assert not list(tmp_path.iterdir())


TOGETHER = [
    "trim(math - base, density=0.3)",
    "trim(code - base)",
    'trim(0.5*math - 0.5*code, scope="tensor", ties="first", rescale="l1")',
    "trim(dare(math - base), density=0.9)",
]


def test_calls_that_are_measured_together_are_what_each_is_alone(models, tmp_path):
    w = tv.parse(" + ".join(TOGETHER), **given(models, "base math code"))
    tv.save(w, tmp_path / "sum")
    whole, each = tv.load(tmp_path / "sum"), [tv.parse(recipe, **given(models, recipe)) for recipe in TOGETHER]
    alone = {source.fingerprint: one for one in each for source in one.terms}
    for name in whole:
        total = np.zeros_like(whole[name])
        for source, _ in w.ordered():
            total = total + alone[source.fingerprint][name]
        assert np.array_equal(whole[name], total), name


def test_what_calls_have_in_common_is_read_once_to_measure_them(models, tmp_path, monkeypatch):
    w = tv.parse("ties(math - base, code - base)", **given(models, "base math code"))
    measured, run = [], kernels.run

    def watched(out, dtype, inputs, *rest):
        measured.extend(inputs if out is None else ())
        return run(out, dtype, inputs, *rest)

    monkeypatch.setattr(kernels, "run", watched)
    tv.save(w, tmp_path / "out", threads=1)
    assert measured and len(measured) == len(set(measured)), "the same elements of a file were read twice"
    assert len({fd for fd, _ in measured}) == 4, "base, code and the two files of math"
