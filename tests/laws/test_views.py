"""Views are sources like the rest: they print, parse, add, take knobs, stream to the same bytes, and refuse; and they
are the same tensors, bit for bit, as a dict taken apart and put together by hand."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import taskvec as tv
from taskvec.errors import FingerprintError, MassError, MismatchError, RecipeError, TaskvecError, UnboundKnob

LAYERS, VOCAB, WIDTH = 4, 11, 6
CONFIG = {
    "model_type": "llama", "torch_dtype": "bfloat16", "num_hidden_layers": LAYERS, "vocab_size": VOCAB,
    "layer_types": ["full", "sliding", "full", "sliding"], "eos_token_id": [1, 2, 3, 4],
}  # fmt: skip
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def content(seed, layers=LAYERS, vocab=VOCAB, head=True):
    """A Llama's tensors in bfloat16, and positions that are not floating point."""
    noise = torch.Generator().manual_seed(seed)
    shapes = {EMBEDDING: (vocab, WIDTH), "model.norm.weight": (WIDTH,)} | ({HEAD: (vocab, WIDTH)} if head else {})
    for k in range(layers):
        shapes[f"model.layers.{k}.mlp.weight"] = (7, WIDTH)
        shapes[f"model.layers.{k}.norm.weight"] = (WIDTH,)
    found = {name: torch.randn(shape, generator=noise).bfloat16() for name, shape in shapes.items()}
    return found | {"model.positions": torch.arange(5)}


def write(folder, tensors, config=CONFIG):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    words = [f"t{k}" for k in range(VOCAB - 2)]
    if folder.name == "code":  # another order, one word of its own, one less
        words = [*reversed(words[1:]), "own"]
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "WordLevel", "vocab": {w: k for k, w in enumerate(words)}}, "added_tokens": []})
    )
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("views")
    for seed, name in enumerate(("base", "math", "code")):
        write(home / name, content(seed))
    return home


@pytest.fixture(scope="module")
def models(home):
    return {name: tv.load(home / name) for name in ("base", "math", "code")}


def parsed(recipe, models):
    return tv.parse(recipe, **{name: w for name, w in models.items() if re.search(rf"\b{name}\b", recipe)})


def saved(w, folder, **options):
    tv.save(w, folder, **options)
    return load_file(folder / "model.safetensors")


def same(one, two):
    """Two dicts of tensors, bit for bit."""
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype and torch.equal(tensor, two[name]), name
    return True


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
def cut(tensors, start, stop):
    found = {}
    for name, tensor in tensors.items():
        at = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if not at:
            found[name] = tensor
        elif start <= int(at[1]) < stop:
            found[f"model.layers.{int(at[1]) - start}.{at[2]}"] = tensor
    return found


def piled(*parts):
    found, offset = {}, 0
    for part in parts:
        layers = {name: int(at[1]) for name in part if (at := re.match(r"model\.layers\.(\d+)\.", name))}
        for name, layer in layers.items():
            found[name.replace(f".{layer}.", f".{layer + offset}.", 1)] = part[name]
        offset += max(layers.values()) + 1
    outside = {name: t for name, t in parts[-1].items() if ".layers." not in name}
    return found | outside | {EMBEDDING: parts[0][EMBEDDING]} | {"model.positions": parts[0]["model.positions"]}


RANGES = st.integers(0, LAYERS - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, LAYERS)))
QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(parts=st.lists(st.tuples(st.sampled_from(["base", "math", "code"]), RANGES), min_size=1, max_size=4))
def test_any_pile_of_any_parts_is_the_dict_put_together_by_hand(home, models, tmp_path_factory, parts):
    w = tv.stack(*(tv.take_layers(models[name], *bounds) for name, bounds in parts))
    eager = piled(*(cut(load_file(home / name / "model.safetensors"), *bounds) for name, bounds in parts))
    folder = tmp_path_factory.mktemp("pile") / "out"
    assert same(saved(w, folder), eager)
    config = json.loads((folder / "config.json").read_text())
    kinds = [kind for _, (a, b) in parts for kind in CONFIG["layer_types"][a:b]]
    total = sum(b - a for _, (a, b) in parts)
    assert config == CONFIG | {"num_hidden_layers": total, "layer_types": kinds}
    assert w == tv.parse(str(w))


@QUIET
@given(cuts=st.sets(st.integers(1, LAYERS - 1)))
def test_a_model_cut_anywhere_and_piled_up_again_is_the_model(home, models, tmp_path_factory, cuts):
    edges = [0, *sorted(cuts), LAYERS]
    w = tv.stack(*(tv.take_layers(models["math"], a, b) for a, b in pairwise(edges)))
    folder = tmp_path_factory.mktemp("cut") / "out"
    assert same(saved(w, folder), load_file(home / "math/model.safetensors"))
    assert json.loads((folder / "config.json").read_text()) == CONFIG


def test_renaming_there_and_back_is_nothing(home, models, tmp_path):
    there = tv.rename(models["math"], {"model.layers.*.weight": "h.*.w", "model.*": "m.*"})
    assert {"h.0.mlp.w", "m.norm.weight", HEAD} <= there.keys() and not any(n.startswith("model.") for n in there)
    back = tv.rename(there, {"h.*.w": "model.layers.*.weight", "m.*": "model.*"})
    assert same(saved(back, tmp_path / "out"), load_file(home / "math/model.safetensors"))


def test_the_first_pattern_that_fits_counts(models):
    table = {"model.norm.*": "model.second.*", "*.norm.weight": "*.first.weight"}
    found = tv.rename(models["math"], table)
    assert {"model.second.weight", "model.layers.0.first.weight"} <= found.keys()
    table = {"model.layers.*.norm.weight": "model.layers.*.first.weight", "model.norm.*": "model.second.*"}
    assert [*tv.rename(models["math"], table)] == [*found] and tv.rename(models["math"], table) != found
    turned = {"*.norm.weight": "*.first.weight", "model.norm.*": "model.second.*"}
    with pytest.raises(RecipeError, match=r'renamed by "model\.norm'):  # the first pattern leaves it nothing
        tv.rename(models["math"], turned)


@pytest.mark.parametrize(
    "recipe", ['resize_vocab(a, 1900, fill="mean")', "align_vocab(a, b, c, b)", "align_vocab(a - c, b)"]
)
def test_rows_that_lie_across_blocks_are_whole(tmp_path, recipe):
    rng, models, order = np.random.default_rng(0), {}, {}
    words = [f"w{k}" for k in range(2000)]
    for name in "abc":
        order[name] = rng.permutation(words)[:1500].tolist()
        tensors = {EMBEDDING: torch.from_numpy(rng.standard_normal((1500, 333))).bfloat16()}
        folder = write(tmp_path / name, tensors)
        vocabulary = {w: k for k, w in enumerate(order[name])}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary}}))
        models[name] = tv.load(folder)
    w = parsed(recipe, models)
    found = []
    least = tv.plan(w, threads=3, ram="4GB", dtype="float32").peak
    for threads, ram in ((1, 4 << 30), (3, least - 1)):
        todo = tv.plan(w, threads=threads, ram=ram, dtype="float32")
        tv.save(w, tmp_path / f"out{threads}", threads=threads, ram=ram, dtype="float32")
        found.append((todo.block, tv.load(tmp_path / f"out{threads}")[EMBEDDING]))
    assert found[0][0] > found[1][0] and np.array_equal(found[0][1], found[1][1])
    assert np.array_equal(found[0][1], w[EMBEDDING])


def test_untied_is_the_embedding_twice_and_tied_is_once(tmp_path):
    plain = content(5, head=False)
    tied = tv.load(write(tmp_path / "tied", plain, CONFIG | {"tie_word_embeddings": True}))
    untied = saved(tv.untie(tied), tmp_path / "untied")
    assert same(untied, plain | {HEAD: plain[EMBEDDING]})
    assert json.loads((tmp_path / "untied/config.json").read_text())["tie_word_embeddings"] is False
    assert same(saved(tv.tie(tv.load(tmp_path / "untied")), tmp_path / "again"), plain)
    assert json.loads((tmp_path / "again/config.json").read_text())["tie_word_embeddings"] is True
    assert same(saved(tv.tie(tv.untie(tied)), tmp_path / "both"), plain)


def test_a_head_of_its_own_is_not_dropped(tmp_path):
    tensors = content(5)
    tensors[HEAD] = tensors[EMBEDDING].clone()
    tensors[HEAD][-1, -1] += 1
    model = tv.load(write(tmp_path / "m", tensors))
    with pytest.raises(MismatchError, match=f"tie: {HEAD} is not {EMBEDDING} in .*elements 0 to 65"):
        tv.save(tv.take_layers(tv.tie(model), 0, 2), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@QUIET
@given(size=st.integers(1, 40), fill=st.sampled_from(["zero", "mean"]))
def test_rows_are_cut_or_padded(home, models, tmp_path_factory, size, fill):
    found = saved(tv.resize_vocab(models["math"], size, fill=fill), tmp_path_factory.mktemp("rows") / "out")
    eager = load_file(home / "math/model.safetensors")
    for name in (EMBEDDING, HEAD):
        rows = eager[name][:size]
        mean = eager[name].double().mean(0).float().bfloat16()
        new = (mean if fill == "mean" else torch.zeros(WIDTH, dtype=torch.bfloat16)).expand(max(0, size - VOCAB), WIDTH)
        eager[name] = torch.cat([rows, new])
    assert same(found, eager)


def test_padding_goes_to_the_next_multiple(models, tmp_path):
    for multiple, size in ((1, 11), (8, 16), (11, 11), (64, 64)):
        assert tv.pad_vocab(models["math"], multiple).specs[HEAD].shape == (size, WIDTH)
    tv.save(tv.pad_vocab(models["math"], 8), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text()) == CONFIG | {"vocab_size": 16}


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


# ---- what is refused ------------------------------------------------------------------------------
WRONG = [
    ("take_layers(math, 2, 2)", RecipeError, "no layer l with 2 <= l < 2"),
    ("take_layers(math, 3, 1)", RecipeError, "no layer l with 3 <= l < 1.*line 1"),
    ("take_layers(math, 0, 5)", RecipeError, "has the layers 0 to 3 in model.layers, so stop is at most 4, not 5"),
    ("take_layers(math, -1, 2)", RecipeError, "start must be a whole number of at least 0, not -1"),
    ("take_layers(math, 0.5, 2)", RecipeError, "start must be a whole number"),
    ("take_layers(math, 0, lam)", RecipeError, "stop must be a whole number of at least 1, not lam"),
    ("take_layers(math, 0)", RecipeError, "stop"),
    ("take_layers(0, 0, 1)", RecipeError, "works on models or task vectors, not on Coefficient"),
    ('take_layers(math, 0, 1, stack="encoder")', RecipeError, 'no stack "encoder"; it has stack="model.layers"'),
    ("take_layers(math, 0, 1, stack=3)", RecipeError, 'stack must be a text, stack="..."'),
    ('take_layers(rename(math, {"model.layers.*": "model.layer*"}), 0, 1)', RecipeError, "has no layers"),
    ("take_layers(0.5*math, 0, 1)", MassError, "mass 0.5"),
    ("stack()", RecipeError, "at least one"),
    ("stack(math, math - base)", MassError, "not on both: their masses are \\[1, 0\\]"),
    ('stack(math, rename(code, {"model.layers.*": "h.*"}))', MismatchError, "model.layers in.*h in"),
    ('stack(math, rename(code, {"lm_head.weight": "x"}))', MismatchError, "lm_head.weight is not in rename.*untie"),
    ("rename(math, {})", RecipeError, "needs a table"),
    ('rename(math, "model")', RecipeError, "needs a table"),
    ('rename(math, {"a*": "b"})', RecipeError, "must have one \\* each, or none"),
    ('rename(math, {"*a*": "*b*"})', RecipeError, "must have one \\* each"),
    ('rename(math, {"model.*": 1})', RecipeError, "names are texts"),
    ('rename(math, {"a": "__metadata__"})', RecipeError, "__metadata__"),
    ('rename(math, {"modle.*": "m.*", "lm_head.*": "h.*"})', RecipeError, 'is renamed by "modle.\\*"$|by "modle'),
    ('rename(math, {"model.norm.weight": "lm_head.weight"})', MismatchError, "lm_head.weight: .*model.norm.weight"),
    ("untie(math)", RecipeError, "has a head already, lm_head.weight"),
    ('untie(math, head="x")', RecipeError, "needs the other"),
    ('untie(math, head="x", embedding="y")', RecipeError, 'none of these.*embedding="y"'),
    ('tie(rename(math, {"lm_head.weight": "x"}))', RecipeError, "needs a head and its embedding"),
    ('tie(math, head="model.norm.weight", embedding="lm_head.weight")', MismatchError, "head that is the embedding"),
    ("resize_vocab(math, 0)", RecipeError, "size must be a whole number of at least 1, not 0"),
    ("resize_vocab(math, 2.5)", RecipeError, "whole number"),
    ('resize_vocab(math, "7")', RecipeError, "whole number"),
    ('resize_vocab(math, 7, fill="random")', RecipeError, "fill is one of zero, mean"),
    ('resize_vocab(math, 7, embedding="wte")', RecipeError, "has no tensor wte"),
    ('resize_vocab(rename(math, {"lm_head.*": "h.*", "model.embed_tokens.*": "e.*"}), 7)', RecipeError, "name them"),
    ('resize_vocab(math, 7, embedding="model.positions")', MismatchError, "model.positions is I64"),
    ("pad_vocab(math, 0)", RecipeError, "multiple must be"),
    ("align_vocab(math, code - base)", MassError, "masses are \\[1, 0\\]"),
    ("align_vocab(math - base, code, code - base)", MassError, "masses are \\[0, 1, 0\\]"),
    ("align_vocab(math)", RecipeError, "needs the model whose vocabulary"),
    ("align_vocab(math, code, source=2)", RecipeError, "source=2, and there are 1 models"),
    ('align_vocab(math, code, source="first")', RecipeError, "source must be a whole number"),
    ("align_vocab(math, code, base=0)", RecipeError, "base must be a whole number"),
    ("resize_vocab(math, 20) + math - base", MismatchError, r"\[20, 6\].*resize_vocab or align_vocab"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_a_view_cannot_take_is_a_stated_error(models, tmp_path, recipe, kind, message):
    with pytest.raises(TaskvecError) as found:
        tv.save(parsed(recipe, models), tmp_path / "out")
    assert isinstance(found.value, kind) and re.search(message, str(found.value), re.DOTALL), found.value
    assert not list(tmp_path.iterdir())


def test_of_several_stacks_one_must_be_named_and_the_others_stay():
    arrays = {f"{side}.block.{k}.w": np.full(2, k, np.float32) for side in ("encoder", "decoder") for k in range(3)}
    model = tv.from_arrays(arrays, "t5")
    with pytest.raises(RecipeError, match=r'2 stacks.*stack="encoder.block" \(3 layers\), stack="decoder.block"'):
        tv.take_layers(model, 0, 1)
    found = tv.take_layers(model, 1, 3, stack="decoder.block")
    assert {n: found[n][0] for n in found if "decoder" in n} == {"decoder.block.0.w": 1, "decoder.block.1.w": 2}
    assert len(found) == 5


def test_layers_of_another_width_do_not_stand_on_one_another(tmp_path, models):
    small = {n: t[:3] if ".mlp." in n else t for n, t in content(9).items()}
    other = tv.load(write(tmp_path / "small", {n: t.contiguous() for n, t in small.items()}))
    with pytest.raises(MismatchError, match=r"model.layers.0.mlp.weight is \[3, 6\] in .*small.*, \[7, 6\] in"):
        tv.stack(models["math"], other)


def test_a_name_that_two_tables_know_must_be_said():
    arrays = {"model.decoder.embed_tokens.weight": np.ones((3, 2), np.float32)}
    with pytest.raises(RecipeError, match=r'several of these .*head="lm_head\.weight".*head="proj_out\.weight"'):
        tv.untie(tv.from_arrays(arrays, "opt"))
    assert "lm_head.weight" in tv.untie(tv.from_arrays(arrays, "opt"), head="lm_head.weight")


def test_the_command_line_takes_views(home, run, tmp_path):
    found = run("merge", "take_layers(m, 1, 3)", f"m={home / 'math'}", "-o", "out")
    assert found.code == 0, found.stderr
    assert "take_layers(m, 1, 3)" in run("log", "out").stdout and run("verify", "out").code == 0
    assert "take_layers(m, 1, 3)" in run("plan", "take_layers(m, 1, 3)", f"m={home / 'math'}").stdout
    assert "12 tensors" not in run("show", "out").stdout and "8" in run("show", "out").stdout
    wrong = run("merge", "take_layers(m, 1, 9)", f"m={home / 'math'}", "-o", "no")
    assert (wrong.code, wrong.stdout) == (1, "") and "stop is at most 4" in wrong.stderr
