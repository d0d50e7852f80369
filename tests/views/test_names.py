"""Views of names: there and back, which pattern counts, and the head that is stored once or twice."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

import taskvec as tv
from small_llamas import CONFIG, EMBEDDING, HEAD, content, refused, same, saved, write
from taskvec.errors import MismatchError, RecipeError


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
