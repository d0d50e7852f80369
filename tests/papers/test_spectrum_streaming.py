"""Methods that see whole matrices, streamed from files: the same bytes on any machine; planned memory; errors."""

import os
import subprocess
import sys

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import MassError, RecipeError, TaskvecError

RECIPES = [
    "base + low_rank(math - base, rank=5)",
    "base + 0.5*iso_c(math - base, code - base) - low_rank(math - base, share=0.1)",
    "base + tsv_m(math - base, code - base)",
    "iso_cts(math - base, code - base, common=0.5)",
    "base + lines(knots(math - base, 0.5*(code - base)))",
    "base + svc(ties(math - base, code - base), math - base, code - base)",
    'base + only("*.weight")*pcb(math - base, code - base)',
]


@pytest.fixture(scope="module")
def models(build, tmp_path_factory):
    """Models whose matrices, wide and tall, are more than a block of the output."""
    home = tmp_path_factory.mktemp("models")
    shapes = {"model.embed.weight": (1500, 96), "model.layers.0.w.weight": (96, 1500), "model.layers.1.w.bias": (96,)}
    for seed, name in enumerate(("base", "math", "code")):
        build.model(home / name, build.tensors(seed, shapes, np.float16) | {"model.ids": np.arange(5)})
    return home


def named(models, recipe):
    return {name: tv.load(models / name) for name in ("base", "math", "code") if name in recipe}


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_prints_what_parses_to_the_same_and_streams_to_the_same_bytes(models, recipe, tmp_path):
    w = tv.parse(recipe, **named(models, recipe))
    again = tv.parse(str(w))
    assert again == w and w.mass == recipe.startswith("base")
    tv.save(w, tmp_path / "one", threads=1, dtype="float32")
    tv.save(again, tmp_path / "two", threads=4, ram="700MB", shard_size="300KB", dtype="float32")
    one, two = tv.load(tmp_path / "one"), tv.load(tmp_path / "two")
    assert list(one) and one.keys() == two.keys()
    for name in one:
        assert np.array_equal(one[name], two[name]) and np.isfinite(one[name]).all(), name
        assert np.array_equal(one[name], tv.parse(recipe, **named(models, recipe))[name]), name


BITS = """
import hashlib, sys
import numpy as np
import taskvec as tv
rng = np.random.default_rng(0)
taus = [rng.normal(size=(300, 700)).astype(np.float32) for _ in range(2)]
for merged in (tv.iso_c.fn(*taus), tv.iso_cts.fn(*taus), tv.knots.fn(*taus), tv.svc.fn(taus[0] + taus[1], *taus)):
    print(hashlib.sha256(merged.tobytes()).hexdigest())
"""


def test_the_number_of_cores_does_not_change_a_bit():
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one core has one thread")
    seen = {
        subprocess.run(
            [sys.executable, "-c", BITS], env=os.environ | {"OPENBLAS_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(seen) == 1 and len(seen.pop().split()) == 4


def test_what_the_decomposition_takes_is_part_of_the_plan(build, tmp_path):
    """Of 2000 x 2000 in float32 (16 MB) a Gram matrix and its decomposition hold ten more in float64."""
    shapes = {"w": (2000, 2000)}
    for name, seed in (("base", 0), ("math", 1)):
        build.model(tmp_path / name, build.tensors(seed, shapes, np.float16))
    base, math = tv.load(tmp_path / "base"), tv.load(tmp_path / "math")
    plain, low = (tv.plan(base + tau, threads=1).peak for tau in (math - base, tv.low_rank(math - base, rank=4)))
    assert low - plain > (3 + 8) * 16e6
    with pytest.raises(TaskvecError, match="needs at least"):
        tv.save(base + tv.low_rank(math - base, rank=4), tmp_path / "out", ram="200MB")


TIMES_OVER = {  # recipe, the shape of its matrices: all methods that see whole tensors
    "low_rank(a - base, rank=9)": (1500, 1500), "iso_cts(a - base, b - base)": (1500, 1500),
    "tsv_m(a - base, b - base)": (4000, 700), "knots(a - base, b - base)": (4000, 700),
    "svc(a - base, a - base, b - base)": (4000, 700), "pcb(a - base, b - base)": (4000, 700),
    "della(a - base)": (4000, 700),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("call", TIMES_OVER)
def test_a_whole_matrix_method_stays_within_the_memory_that_its_plan_prints(build, tmp_path, capsys, call):
    from test_smollm2 import peak_of

    shapes = {f"model.layers.{k}.w": TIMES_OVER[call] for k in range(3)}
    for seed, name in enumerate(("base", "a", "b")):
        build.model(tmp_path / name, build.tensors(seed, shapes, np.float16))
    given = {name: tmp_path / name for name in ("base", "a", "b") if f"{name} - " in call or name == "base"}
    recipe = f"base + {call}"
    promised = tv.plan(tv.parse(recipe, **{k: tv.load(v) for k, v in given.items()}), ram="4GB", threads=8).peak
    sources = [f"{name}={path}" for name, path in given.items()]
    options = ["-o", str(tmp_path / "out"), "--ram", "4GB", "--threads", "8"]
    used, samples = peak_of([sys.executable, "-m", "taskvec", "merge", recipe, *sources, *options])
    with capsys.disabled():
        print(f"\n{call}: {used / 1e6:.0f} of {promised / 1e6:.0f} MB promised, {samples} samples")
    assert samples > 20 and used <= promised


# ---- bad input ------------------------------------------------------------------------------------
WRONG = [
    ("base + low_rank(math - base, rank=0)", RecipeError, r"rank must lie in \[1, .*\] and be a whole number, not 0"),
    ("base + low_rank(math - base, rank=2.5)", RecipeError, "be a whole number, not 2.5"),
    ("base + low_rank(math - base, share=0)", RecipeError, r"share must lie in \(0, 1\]"),
    ("base + low_rank(math - base, code - base)", RecipeError, "low_rank takes"),
    ("base + low_rank(math)", MassError, "argument 1 is a model: subtract its base"),
    ("base + iso_cts(math - base, code - base, common=1.5)", RecipeError, r"common must lie in \[0, 1\], not 1.5"),
    ("base + iso_cts(math - base, code - base, common=-0.1)", RecipeError, "not -0.1"),
    ("base + iso_cts(math - base)", RecipeError, "at least 2"),
    ("base + iso_c()", RecipeError, "at least 1"),
    ("base + tsv_m(math - base, code)", MassError, "argument 2 is a model"),
    ("base + knots(math - base)", RecipeError, "at least 2"),
    ('base + knots(math - base, code - base, reduce="max")', RecipeError, "one of mean, sum"),
    ("base + svc(math - base)", RecipeError, "at least 2"),
    ("base + svc(math - base, code - base, alpha=0)", RecipeError, "alpha must lie in"),
    ("base + pcb(math - base)", RecipeError, "at least 2"),
    ("base + pcb(math - base, code - base, ratio=0)", RecipeError, "ratio must lie in"),
    ("base + lines(math)", MassError, "lines works on a task vector .* subtract its base"),
    ("base + lines(0.5)", RecipeError, "lines works on a task vector, not on Coefficient"),
    ('base + lines(math - base, alpha="big")', RecipeError, "must be a number"),
    ("base + low_rnk(math - base)", RecipeError, "did you mean low_rank"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_cannot_be_is_a_stated_error(models, tmp_path, recipe, kind, message):
    with pytest.raises(kind, match=message):
        tv.save(tv.parse(recipe, **named(models, recipe)), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["low_rank", "iso_c", "tsv_m", "iso_cts", "knots", "svc", "pcb"])
def test_nan_is_reported_by_tensor(tmp_path, bad, name):
    base = {"w": np.ones((3, 4), np.float32), "v": np.ones((3, 4), np.float32)}
    tuned = {k: v + np.arange(12, dtype=np.float32).reshape(3, 4) for k, v in base.items()}
    tuned["w"][1, 2] = bad
    b, x = tv.from_arrays(base, "b"), tv.from_arrays(tuned, "x")
    arguments = "x - b, rank=1" if name == "low_rank" else "x - b, 2*(x - b)"
    with pytest.raises(TaskvecError, match="w has NaN or Inf") as error:
        tv.save(tv.parse(f"b + {name}({arguments})", b=b, x=x), tmp_path / "out")
    assert "v has" not in str(error.value) and not list(tmp_path.iterdir())
