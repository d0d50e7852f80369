"""Two laws of every method: it does not matter as what a vector lies on disk, and what nobody moved keeps its bits.

A vector is a LoRA, or a merged model minus its base, or a stored difference. All numbers here are such that the three
are the same to the bit, in float32 and in bfloat16; what a method makes of them is the same, too.
"""

import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import taskvec as tv
from taskvec.methods import FUNCTIONS

SHAPES = {
    "model.embed_tokens.weight": (12, 6),
    "model.layers.0.self_attn.o_proj.weight": (6, 6),
    "model.layers.0.mlp.down_proj.weight": (6, 10),
    "model.layers.0.norm.weight": (6,),
    "model.layers.1.self_attn.o_proj.weight": (6, 6),
    "model.layers.1.mlp.down_proj.weight": (6, 10),
    "model.layers.1.norm.weight": (6,),
}
MOVED = {  # what each of the vectors moves
    "a": ["model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"],
    "b": ["model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj"],
    "c": ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"],
}
STILL = [name for name in SHAPES if not any(name.startswith(m) for moved in MOVED.values() for m in moved)]
FORMS = ("lora", "merged", "stored")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
RECIPES = [  # every method, in every scope
    "base + trim(a, density=0.1)", 'base + trim(a, scope="tensor", ties="first")', "base + ties(a, b, c)",
    'base + ties(a, b, scope="tensor")', "base + breadcrumbs(a, density=0.3, gamma=0.05)",
    'base + breadcrumbs(a, density=0.2, gamma=0.02, scope="model")', "base + dare(a)", 'base + dare(a, rescale="l1")',
    "base + dare_ties(a, b)", "base + della(a)", 'base + della(a, rescale="l1")', "base + della_ties(a, b)",
    "base + random_like(a)", "base + elect(a, b, c)", "base + unified(a, b, c)", "base + magmax(a, b, c)",
    "base + consensus(a, b, c)", "base + pcb(a, b, c)", "nearswap(base + a, base + b)", "base + nearswap(a, b, t=0.1)",
    "arcee_fusion(base, base + a)", "base + sce(a, b, c)", "base + sce(a, b, c, select=0.3)", "base + ram(a, b, c)",
    "base + ramplus(a, b, c)", 'base + ramplus(a, b, c, scope="tensor")', "slerp(base + a, base + b)",
    "slerp(base + a, base + b, t=0.3)",
    'base + slerp(a, b, zero="one")', 'base + slerp(a, b, scope="model")', "karcher(base + a, base + b, base + c)",
    "base + karcher(a, b, c)", "base + geometric_median(a, b, c)",
    'geometric_median(base + a, base + b, scope="model")',
    "base + stock(a, b, c)", 'base + stock(a, b, scope="row")', 'base + stock(a, b, scope="model")',
    "model_stock(base, base + a, base + b)", "base + metagpt(a, b, c)", 'base + metagpt(a, b, scope="tensor")',
    "base + norm_matched(a, b, c)", "base + nuslerp(a, b)", 'base + nuslerp(a, b, scope="row")',
    'nuslerp(base + a, base + b, scope="column")', "base + multislerp(a, b, c)", "multislerp(base + a, base + b)",
    'base + multislerp(a, b, scope="model")', "base + low_rank(a, rank=1)", "base + iso_c(a, b, c)",
    "base + tsv_m(a, b, c)", "base + iso_cts(a, b, c)", "base + knots(a, b, c)", "base + svc(elect(a, b), a, b)",
    "fisher(base + a, base + b, fa, fb)", "regmean(base + a, base + b, ga, gb)",
    "regmean(base + a, base + b, ga, gb, weights=(1, 2))", "base + freeze_conflicts(a, b)",
    'base + freeze_conflicts(a, b, scope="tensor")', "ablate(base + a, r)", "base + ablate(a, r)",
    "patch(base, base + a, \"*.0.*\")", "base + lines(a)", "base + 0.3*a", "base + 0.3*a - 0.4*b + 0.7*c",
    "base + a", "0.3*(base + a) + 0.7*(base + b)",
    "fisher(base + a, base + b, fa, fb, weights=(1, 2))", "base + 0.4*elect(0.3*a, 0.7*b)",
]  # fmt: skip


def coarse(rng, shape, step):
    """Small multiples of `step`, none of them 0."""
    return (rng.integers(1, 4, shape) * rng.choice([-1, 1], shape) * step).astype(np.float32)


@pytest.fixture(scope="module", params=DTYPES)
def home(request, build, tmp_path_factory):
    """base; of each vector the folders lora, merged and stored; statistics and a direction."""
    dtype, rng = DTYPES[request.param], np.random.default_rng(5)
    home = tmp_path_factory.mktemp(request.param)
    step = 2.0**-4
    base = {name: coarse(rng, shape, step) for name, shape in SHAPES.items()}
    for name in STILL:  # any numbers, of which no multiple is exact
        base[name] = rng.standard_normal(SHAPES[name]).astype(dtype).astype(np.float32)
    build.model(home / "base", {name: array.astype(dtype) for name, array in base.items()})
    for vector, moved in MOVED.items():
        factors, merged = {}, dict(base)
        for module in moved:
            rows, columns = SHAPES[f"{module}.weight"]
            b, a = coarse(rng, (rows, 2), step), coarse(rng, (2, columns), 1)
            factors |= {f"base_model.model.{module}.lora_{k}.weight": f for k, f in (("A", a), ("B", b))}
            merged[f"{module}.weight"] = base[f"{module}.weight"] + 2 * (b @ a)
        build.lora(home / f"{vector}-lora", factors, target_modules=["o_proj", "down_proj"])
        build.model(home / f"{vector}-merged", {name: array.astype(dtype) for name, array in merged.items()})
        for array in merged.values():
            assert np.array_equal(array.astype(dtype).astype(np.float32), array)
        tv.save(tv.load(home / f"{vector}-merged") - tv.load(home / "base"), home / f"{vector}-stored")
    for k in "ab":
        save_file({n: rng.random(s).astype(np.float32) for n, s in SHAPES.items()}, home / f"f{k}")
    save_file({"refusal": rng.standard_normal(6).astype(np.float32)}, home / "r.safetensors")
    return home


def given(home, recipe, form):
    """The recipe over the files of one form."""
    known = {"base": tv.load(home / "base"), "r": tv.load(home / "r.safetensors")}
    rng = np.random.default_rng(3)
    for k in "ab":
        fisher = {name: rng.random(shape).astype(np.float32) for name, shape in SHAPES.items()}
        known[f"f{k}"] = tv.from_arrays(fisher, f"f{k}", statistic="fisher")
        inputs = {name: rng.standard_normal((30, shape[1])) for name, shape in SHAPES.items() if "proj" in name}
        gram = {name: (x.T @ x).astype(np.float32) for name, x in inputs.items()}
        known[f"g{k}"] = tv.from_arrays(gram, f"g{k}", statistic="gram")
    for vector in MOVED:
        loaded = tv.load(home / f"{vector}-{form}")
        known[vector] = loaded - known["base"] if form == "merged" else loaded
    words = {*re.findall(r"\b\w+\b", re.sub(r'"[^"]*"', "", recipe))}
    return tv.parse(recipe, **{name: weights for name, weights in known.items() if name in words})


def test_every_method_is_here():
    assert {name for name in FUNCTIONS if not any(re.search(rf"\b{name}\(", recipe) for recipe in RECIPES)} == set()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_vector_is_the_same_as_lora_as_difference_and_stored(home, recipe):
    one, *others = (given(home, recipe, form) for form in FORMS)
    for form, other in zip(FORMS[1:], others, strict=True):
        assert one.keys() == other.keys() == SHAPES.keys()
        for name in SHAPES:
            assert np.allclose(one[name], other[name], rtol=1e-6, atol=1e-6), (form, name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_nobody_moved_keeps_its_bits(home, recipe, form, tmp_path):
    tv.save(given(home, recipe, form), tmp_path / "out", threads=1)
    base, found = tv.load(home / "base"), tv.load(tmp_path / "out")
    edited = ("embed", "o_proj") if recipe.startswith("ablate") else ()
    moved = [n for n in STILL if not np.array_equal(base[n].view(np.uint32), found[n].view(np.uint32))]
    assert not [name for name in moved if not any(part in name for part in edited)]
