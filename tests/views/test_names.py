"""Views of names: there and back, which pattern counts, and the head that is stored once or twice."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

import taskvec as tv
from small_llamas import CONFIG, EMBEDDING, HEAD, WIDTH, content, refused, same, saved, write
from taskvec.errors import MismatchError, RecipeError
from taskvec.views.view import VIEW_TILE


def test_renaming_there_and_back_is_nothing(home, models, tmp_path):
    there = tv.rename(models["math"], {"model.layers.*.weight": "h.*.w", "model.*": "m.*"})
    assert {"h.0.mlp.w", "m.norm.weight", HEAD} <= there.keys() and not any(n.startswith("model.") for n in there)
    back = tv.rename(there, {"h.*.w": "model.layers.*.weight", "m.*": "model.*"})
    assert same(saved(back, tmp_path / "out"), load_file(home / "math/model.safetensors"))


def test_the_first_pattern_that_fits_counts(models):
    table = {"model.norm.*": "model.second.*", "*.norm.weight": "*.first.weight"}
    renamed = tv.rename(models["math"], table)
    assert {"model.second.weight", "model.layers.0.first.weight"} <= renamed.keys()
    table = {"model.layers.*.norm.weight": "model.layers.*.first.weight", "model.norm.*": "model.second.*"}
    assert [*tv.rename(models["math"], table)] == [*renamed] and tv.rename(models["math"], table) != renamed
    turned = {"*.norm.weight": "*.first.weight", "model.norm.*": "model.second.*"}
    with pytest.raises(RecipeError, match=r'renamed by "model\.norm'):  # the first pattern leaves it nothing
        tv.rename(models["math"], turned)


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
    with pytest.raises(MismatchError, match=f"tie: {HEAD} is not equal to {EMBEDDING} in .*elements 0 to 65"):
        tv.save(tv.take_layers(tv.tie(model), 0, 2), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_name_that_two_tables_know_must_be_said():
    arrays = {"model.decoder.embed_tokens.weight": np.ones((3, 2), np.float32)}
    with pytest.raises(RecipeError, match=r'several of these .*head="lm_head\.weight".*head="proj_out\.weight"'):
        tv.untie(tv.from_arrays(arrays, "opt"))
    assert "lm_head.weight" in tv.untie(tv.from_arrays(arrays, "opt"), head="lm_head.weight")


# ---- what is refused ------------------------------------------------------------------------------
WRONG = [
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
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_cannot_be_done_is_a_stated_error(models, tmp_path, recipe, kind, message):
    refused(recipe, models, tmp_path, kind, message)


# ---- as calls -------------------------------------------------------------------------------------
CALLS = [
    'rename(%s, {"model.*": "m.*", "lm_head.weight": "head"})',
    f'untie(rename(%s, {{"lm_head.weight": "x"}}), head="{HEAD}", embedding="{EMBEDDING}")',
    f'tie(%s, head="{HEAD}", embedding="{EMBEDDING}")',
    "untie(tie(%s))",
]


@pytest.mark.parametrize("call", CALLS)
def test_they_print_as_they_are_written_and_bind_knobs_within(models, call):
    base, math = models["base"].named("base"), models["math"].named("math")
    free = tv.parse(call % "base + lam*(math - base)", base=base, math=math)
    bound = tv.parse(call % "math", math=math)
    assert free.bind(lam=1) == bound and bound.text(bound.names()) == call % "math"


def test_a_misspelt_pattern_is_named_with_the_nearest_tensor(models):
    table = {"model.norm.*": "x.*", "lm_haed.weight": "y"}
    with pytest.raises(RecipeError, match=r'renamed by "lm_haed\.weight".*lm_head\.weight') as error:
        tv.rename(models["math"], table)
    assert "model.norm" not in str(error.value)


def test_a_model_without_an_embedding_cannot_be_untied(models):
    with pytest.raises(RecipeError, match=r"untie needs an embedding, and .* has none of these \(name them\): head="):
        tv.untie(tv.rename(models["math"], {EMBEDDING: "x", HEAD: "y"}))


def test_a_lora_that_does_not_change_the_embedding_is_tied_and_untied_as_it_is(build, tmp_path):
    factors = {"model.layers.0.mlp.lora_A.weight": (2, WIDTH), "model.layers.0.mlp.lora_B.weight": (7, 2)}
    arrays = {f"base_model.model.{n}": np.ones(shape, np.float32) for n, shape in factors.items()}
    lora = tv.load(build.lora(tmp_path / "lora", arrays))
    for view in (tv.tie, tv.untie):
        assert [*view(lora)] == [*lora]
        (source,) = view(lora).terms
        assert source.unmeasured == 0
        source.prepare(1)


def test_config_json_says_so_where_it_said_it_and_nothing_else(tmp_path):
    nested = CONFIG | {"tie_word_embeddings": True, "text_config": {"tie_word_embeddings": True, "n": 1}}
    tied = tv.load(write(tmp_path / "tied", content(5, head=False), nested))
    for w, says in ((tv.untie(tied), False), (tv.tie(tv.untie(tied)), True)):
        tv.save(w, tmp_path / "out", overwrite=True)
        inner = {"tie_word_embeddings": says, "n": 1}
        wanted = CONFIG | {"tie_word_embeddings": says, "text_config": inner}
        assert json.loads((tmp_path / "out/config.json").read_text()) == wanted
        (source,) = w.terms
        assert source.settled()[0]["tie_word_embeddings"] is says


# ---- a head that must be the embedding ------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_head_and_embedding_are_compared_to_the_last_element_and_once(dtype):
    rows = VIEW_TILE // 3 + 5
    table = np.random.default_rng(0).standard_normal((rows, 3)).astype(dtype)
    source = next(iter(tv.tie(tv.from_arrays({EMBEDDING: table, HEAD: table.copy()})).terms))
    seen = []
    assert source.unmeasured == table.size
    source.prepare(1, seen.append)
    assert sum(seen) == table.size and source.unmeasured == 0
    source.prepare(1, seen.append)
    assert sum(seen) == table.size
    other = table.copy()
    other[-1, -1] += 1
    with pytest.raises(MismatchError, match=f"among the elements {VIEW_TILE} to {table.size - 1}$"):
        next(iter(tv.tie(tv.from_arrays({EMBEDDING: table, HEAD: other})).terms)).prepare(1)


def test_what_is_beneath_is_measured_before_it(models):
    inner = tv.resize_vocab(tv.untie(tv.tie(tv.untie(tv.rename(models["math"], {HEAD: "x"})))), 20, fill="mean")
    source, seen = next(iter(tv.tie(inner).terms)), []
    wanted = source.unmeasured
    source.prepare(1, seen.append)
    assert sum(seen) == wanted > 2 * 20 * WIDTH


def test_a_difference_at_the_end_of_a_tile_is_seen():
    table = np.zeros((VIEW_TILE + 1, 1), np.float32)
    other = table.copy()
    other[VIEW_TILE - 1] = 1
    with pytest.raises(MismatchError, match=f"among the elements 0 to {VIEW_TILE - 1}$"):
        next(iter(tv.tie(tv.from_arrays({EMBEDDING: table, HEAD: other})).terms)).prepare(1)


def test_what_is_no_model_is_said_with_the_call():
    for call, name in (
        (lambda: tv.rename(1, {"a": "b"}), "rename"),
        (lambda: tv.untie(1), "untie"),
        (lambda: tv.tie(1), "tie"),
    ):
        with pytest.raises(RecipeError, match=f"^{name} works on models or task vectors, not on int"):
            call()
