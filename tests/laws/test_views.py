"""Views are sources like the rest: they print, parse, add, take knobs, stream to the same bytes, and refuse; and they
are the same tensors, bit for bit, as a dict taken apart and put together by hand."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import small_llamas
import taskvec as tv
from small_llamas import HEAD, VOCAB, WIDTH, content, parsed, same, saved, write
from taskvec.errors import FingerprintError, MassError, MismatchError, RecipeError, UnboundKnob


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return small_llamas.home(tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def models(home):
    return small_llamas.models(home)


RECIPES = [
    "take_layers(math, 1, 3)",
    "take_layers(base, 0, 2) + 0.4*take_layers(math - base, 0, 2)",
    "stack(math, take_layers(code, 1, 4), base)",
    'rename(math, {"model.*": "language.*", "lm_head.weight": "language.head"})',
    'untie(tie(untie(rename(math, {"lm_head.weight": "x"})), head="lm_head.weight"))',
    '0.5*untie(rename(math, {"lm_head.weight": "x"})) + 0.5*untie(rename(code, {"lm_head.weight": "x"}))',
    "resize_vocab(math, 7)",
    'resize_vocab(0.25*math + 0.75*base, 40, fill="mean")',
    "pad_vocab(base + 0.3*(math - base), 8)",
    "0.5*align_vocab(base, base, code, math) + 0.5*align_vocab(code, base, code, math, base=1)",
    "align_vocab(code, math)",
    "align_vocab(math, base, code, source=2, base=1)",
    "slerp(take_layers(math, 0, 2), take_layers(code, 2, 4), t=layers(0.2, 0.6, outside=0.5))",
    'take_layers(base, 1, 2, stack="model.layers") + only("*.mlp.*")*take_layers(ties(math - base, code - base), 1, 2)',
    "resize_vocab(stack(align_vocab(math, code), code), 64)",
]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_views_prints_what_parses_to_the_same(models, recipe):
    w = parsed(recipe, models)
    assert tv.parse(str(w)) == w and hash(tv.parse(str(w))) == hash(w)
    assert w.mass == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_bytes_for_any_threads_blocks_and_shards(models, recipe, tmp_path):
    w = parsed(recipe, models)
    one = saved(w, tmp_path / "one", threads=1)
    tv.save(tv.parse(str(w)), tmp_path / "two", threads=3, ram="300MB", shard_size="200B")
    two = tv.load(tmp_path / "two")
    again = saved(two, tmp_path / "three")
    assert len(list((tmp_path / "two").glob("*.safetensors"))) > 1 and same(one, again)
    tv.verify(tmp_path / "two")
    config = [json.loads((tmp_path / f / "config.json").read_text()) for f in ("one", "two")]
    assert config[0] == config[1]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_read_is_what_is_saved(models, recipe, tmp_path):
    w = parsed(recipe, models)
    tv.save(w, tmp_path / "out", dtype="float32")
    found = tv.load(tmp_path / "out")
    assert [*found] == [*w]
    for name in w:
        assert np.array_equal(found[name], w[name]), name
        if len(w.specs[name].shape) > 1:
            assert np.array_equal(w.read(name, slice(1, 3)), w[name][1:3]), name


# ---- against dicts taken apart by hand ------------------------------------------------------------


# ---- they are linear, and looked through ----------------------------------------------------------
VIEWS = {
    "take_layers": lambda w: tv.take_layers(w, 1, 3),
    "stack": lambda w: tv.stack(w, w),
    "rename": lambda w: tv.rename(w, {"model.*": "m.*"}),
    "untie": lambda w: tv.untie(tv.rename(w, {HEAD: "x"})),
    "resize_vocab": lambda w: tv.resize_vocab(w, 30),
    "several": lambda w: tv.rename(tv.stack(tv.take_layers(w, 0, 2), tv.resize_vocab(w, VOCAB)), {HEAD: "head"}),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_of_a_difference_is_the_difference_of_the_views_to_the_bit(models, view, tmp_path):
    a, b = models["math"], models["base"]
    tv.save(view(a - b), tmp_path / "one")
    tv.save(view(a) - view(b), tmp_path / "two")
    same(*(load_file(tmp_path / n / "task_vector.safetensors") for n in ("one", "two")))
    back = saved(view(b) + tv.load(tmp_path / "one"), tmp_path / "back")
    assert same(back, saved(view(a), tmp_path / "a"))


@pytest.mark.parametrize("name", [n for n in VIEWS if n not in ("resize_vocab", "several")])
def test_files_are_read_once_and_directly(models, name):
    w = VIEWS[name](models["math"])
    (leaf,) = models["math"].terms
    for tensor in w:
        assert {source for source, _ in w.parts(tensor)} == {leaf}
    twice = 0.5 * w + 0.5 * VIEWS[name](models["math"])
    assert all(len(twice.parts(tensor)) == 1 for tensor in twice)
    todo, plain = tv.plan(w), sum(spec.nbytes for spec in w.specs.values() if spec.arithmetic) // 2
    assert todo.bytes_in == plain and todo.passes == 1


def test_coefficients_outside_see_the_new_names_and_inside_the_old(models):
    base, math = models["base"], models["math"]
    tau = math - base
    name = "model.layers.0.mlp.weight"
    inside = tv.take_layers(tv.only("model.layers.2.*") * tau, 2, 4)
    outside = tv.only("model.layers.0.*") * tv.take_layers(tau, 2, 4)
    assert inside != outside
    for w in (inside, outside):
        assert np.array_equal(w[name], tau["model.layers.2.mlp.weight"])
        assert not w["model.layers.1.mlp.weight"].any() and not w[HEAD].any()
    deep = tv.take_layers(tv.layers(0, 3, outside=0) * tau, 1, 3)  # layers 1 and 2 of 4: 1 and 2
    assert np.array_equal(deep["model.layers.1.mlp.weight"], np.float32(2) * tau["model.layers.2.mlp.weight"])
    shallow = tv.layers(0, 3, outside=0) * tv.take_layers(tau, 1, 3)  # layers 0 and 1 of 2: 0 and 3
    assert np.array_equal(shallow["model.layers.1.mlp.weight"], np.float32(3) * tau["model.layers.2.mlp.weight"])


def test_knobs_within_a_view_are_bound_and_then_checked(models):
    free = tv.parse("take_layers(base + lam*(math - base), 1, 3)", base=models["base"], math=models["math"])
    assert free.knobs == {"lam"} and tv.parse(str(free)) == free
    with pytest.raises(UnboundKnob):
        free.read(HEAD)
    assert free.bind(lam=1) == tv.take_layers(models["math"], 1, 3)
    with pytest.raises(MassError):
        tv.parse("resize_vocab(base + lam*math, 3)", base=models["base"], math=models["math"]).bind(lam=1)


def test_vectors_know_the_view_of_the_base_that_they_were_made_from(models, tmp_path):
    base, math = models["base"], models["math"]
    tv.save(tv.resize_vocab(base, 20), tmp_path / "wide")
    tv.save(tv.resize_vocab(math, 20) - tv.load(tmp_path / "wide"), tmp_path / "tau")
    tv.save(tv.resize_vocab(math - base, 20), tmp_path / "same")
    for name in ("tau", "same"):
        tau = tv.load(tmp_path / name)
        for ground in (tv.load(tmp_path / "wide"), tv.resize_vocab(base, 20)):
            tv.save(ground + tau, tmp_path / "out", overwrite=True)
        with pytest.raises(FingerprintError, match="was made from"):
            tv.save(tv.resize_vocab(math, 20) + tau, tmp_path / "no")


def test_integers_of_a_view_must_agree_too(models, home, tmp_path):
    other = load_file(home / "math/model.safetensors") | {"model.positions": torch.arange(1, 6)}
    odd = tv.load(write(tmp_path / "odd", other))
    with pytest.raises(MismatchError, match="positions"):
        tv.save(0.5 * tv.take_layers(odd, 0, 2) + 0.5 * tv.take_layers(models["base"], 0, 2), tmp_path / "out")
    found = saved(tv.take_layers(odd, 0, 2), tmp_path / "odder")
    assert torch.equal(found["model.positions"], torch.arange(1, 6))
    renamed = (
        tv.rename(models["math"], {"model.positions": "ids"}),
        tv.rename(models["code"], {"model.positions": "ids"}),
    )
    assert torch.equal(saved(tv.slerp(*renamed), tmp_path / "slerp")["ids"], torch.arange(5))


def test_float64_keeps_its_precision(tmp_path):
    rng = np.random.default_rng(0)
    a, b = ({"model.embed_tokens.weight": rng.standard_normal((4, 3)), "h.0.w": rng.standard_normal(5)} for _ in "ab")
    w = tv.resize_vocab(tv.from_arrays(a, "a") - tv.from_arrays(b, "b"), 6)
    assert np.array_equal(w["h.0.w"], a["h.0.w"] - b["h.0.w"])
    difference = a["model.embed_tokens.weight"] - b["model.embed_tokens.weight"]
    assert np.array_equal(w["model.embed_tokens.weight"], np.concatenate([difference, np.zeros((2, 3))]))
    tv.save(w, tmp_path / "tau")
    assert tv.load(tmp_path / "tau").specs["h.0.w"].dtype == "F64"


def test_a_lora_is_viewed_as_its_model_is(build, models, tmp_path):
    rng = np.random.default_rng(3)
    factors = {
        f"base_model.model.model.layers.{k}.mlp.lora_{side}.weight": rng.standard_normal(shape).astype(np.float32)
        for k in (1, 2) for side, shape in (("A", (2, WIDTH)), ("B", (7, 2)))
    }  # fmt: skip
    lora, base = tv.load(build.lora(tmp_path / "lora", factors)), models["base"]
    one = saved(tv.take_layers(base + lora, 2, 4), tmp_path / "one")
    two = saved(tv.take_layers(base, 2, 4) + tv.take_layers(lora, 2, 4), tmp_path / "two")
    assert same(one, two) and not torch.equal(one["model.layers.0.mlp.weight"], content(0)["model.layers.2.mlp.weight"])
    assert same(saved(tv.resize_vocab(base, 20) + tv.resize_vocab(lora, 20), tmp_path / "wide"),
                saved(tv.resize_vocab(base + lora, 20), tmp_path / "wider"))  # fmt: skip
    with pytest.raises(RecipeError, match=r"cannot count the layers of .*lora.*stack\(base \+ lora"):
        tv.stack(lora, lora)


def test_the_command_line_takes_views(home, run, tmp_path):
    found = run("merge", "take_layers(m, 1, 3)", f"m={home / 'math'}", "-o", "out")
    assert found.code == 0, found.stderr
    assert "take_layers(m, 1, 3)" in run("log", "out").stdout and run("verify", "out").code == 0
    assert "take_layers(m, 1, 3)" in run("plan", "take_layers(m, 1, 3)", f"m={home / 'math'}").stdout
    assert "12 tensors" not in run("show", "out").stdout and "8" in run("show", "out").stdout
    wrong = run("merge", "take_layers(m, 1, 9)", f"m={home / 'math'}", "-o", "no")
    assert (wrong.code, wrong.stdout) == (1, "") and "stop is at most 4" in wrong.stderr
