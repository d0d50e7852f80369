"""Some of the tensors, parts that are put together again, and an expression that is taken for a model."""

import json

import numpy as np
import pytest

import taskvec as tv
from small_llamas import EMBEDDING, HEAD, saved
from taskvec.errors import MassError, MismatchError, RecipeError

SIDES = (("A", (2, 4)), ("B", (3, 2)))  # of an adapter


def test_what_is_selected_and_the_rest_joined_again_is_the_model(models, tmp_path):
    m = models["math"]
    some, rest = tv.select(m, "*.mlp.*", HEAD), tv.drop(m, "*.mlp.*", HEAD)
    assert {*some} == {n for n in m if ".mlp." in n or n == HEAD} and {*rest} == {*m} - {*some}
    whole = tv.join(rest, some)
    assert [*whole] == [*rest, *some] and all(np.array_equal(whole[n], m[n]) for n in m)
    assert saved(whole, tmp_path / "out").keys() == {*m}


def test_the_order_is_that_of_the_model_whatever_the_order_of_the_patterns(models):
    m = models["math"]
    assert [*tv.select(m, HEAD, "model.embed*")] == [n for n in m if n in (HEAD, EMBEDDING)]
    assert tv.select(m, HEAD, EMBEDDING) != tv.select(m, HEAD)
    assert [*tv.select(m, "model.layers.[02].mlp.weigh?")] == ["model.layers.0.mlp.weight", "model.layers.2.mlp.weight"]


def test_they_print_as_what_parses_to_the_same(models):
    m = models["math"]
    for w in (tv.select(m, "*.mlp.*", HEAD), tv.drop(m, HEAD), tv.join(tv.drop(m, HEAD), tv.select(m, HEAD))):
        assert tv.parse(str(w)) == w
    assert str(tv.drop(m, HEAD)).startswith("drop(") and f'"{HEAD}"' in str(tv.drop(m, HEAD))


def test_a_part_of_a_vector_is_a_vector_and_parts_of_both_kinds_are_not_joined(models):
    m, tau = models["math"], models["math"] - models["base"]
    assert tv.select(tau, HEAD).mass == tv.drop(tau, HEAD).mass == 0
    with pytest.raises(MassError, match=r"not on both: their masses are \[1, 0\]"):
        tv.join(tv.drop(m, HEAD), tv.select(tau, HEAD))


def test_a_joined_model_has_the_settings_that_each_part_changed(models, tmp_path):
    m = models["math"]
    layers = tv.take_layers(tv.drop(m, HEAD, EMBEDDING), 0, 2)
    w = tv.join(tv.resize_vocab(tv.select(m, HEAD, EMBEDDING), 20), layers)
    tv.save(w, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["vocab_size"], config["num_hidden_layers"]) == (20, 2)


def test_a_joined_model_has_the_problems_of_each_part_and_no_entry_with_two_values(models, tmp_path, build):
    m = models["math"]
    w = tv.join(tv.resize_vocab(tv.select(m, HEAD), 20), tv.resize_vocab(tv.drop(m, HEAD), 30))
    with pytest.raises(RecipeError, match=r"(?s)config.json cannot say.*vocab_size is 20 by one part and 30 by anoth"):
        tv.save(w, tmp_path / "no")
    model = build.model(tmp_path / "m", {f"h.{k}.w": np.ones(2, "f4") for k in range(4)} | {"out": np.ones(2, "f4")})
    (model / "config.json").write_text('{"num_hidden_layers": 4, "attn_layer_period": 4}')
    m = tv.load(model)
    with pytest.raises(RecipeError, match="period of 4"):
        tv.save(tv.join(tv.select(m, "out"), tv.take_layers(tv.drop(m, "out"), 1, 3)), tmp_path / "no")


def test_as_model_keeps_the_numbers_and_counts_as_one_model(models):
    m = models["math"]
    scaled = tv.as_model(1.1 * m)
    assert scaled.mass == 1 and np.array_equal(scaled[HEAD], (1.1 * m)[HEAD])
    assert (0.5 * scaled + 0.5 * m).mass == 1 and tv.as_model(scaled - m).mass == 1
    with pytest.raises(MassError):
        tv.select(1.1 * m, HEAD)


def test_a_lora_taken_for_a_model_names_every_tensor(build, tmp_path):
    factors = {f"base_model.model.fc.lora_{side}.weight": np.ones(shape, "f4") for side, shape in SIDES}
    lora = tv.load(build.lora(tmp_path / "lora", factors))
    (source,), (whole,) = lora.terms, tv.as_model(lora).terms
    assert source.partial and not whole.partial


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda m: tv.select(m), RecipeError, r'select: patterns are texts such as "model.vision.\*", not \[\]'),
        (lambda m: tv.select(m, ""), RecipeError, "patterns are texts"),
        (lambda m: tv.drop(m, 3), RecipeError, r'drop: patterns are texts such as "\*.inv_freq", not \[3\]'),
        (lambda m: tv.select(m, HEAD, "*.nlp.*"), RecipeError, r'select: no tensor of .* fits "\*\.nlp\.\*"'),
        (lambda m: tv.drop(m, "lm_haed.weight"), RecipeError, 'drop: no tensor of .* fits "lm_haed.weight"'),
        (lambda m: tv.drop(m, "*"), RecipeError, "nothing of .* would be left"),
        (lambda m: tv.join(), RecipeError, "join takes at least one"),
        (
            lambda m: tv.join(m, tv.select(m, HEAD)),
            MismatchError,
            f"(?s)join gives several tensors one name.*{HEAD}: {HEAD}, {HEAD}",
        ),
        (lambda m: tv.as_model("math"), RecipeError, "as_model works on .* not on str"),
    ],
)
def test_what_cannot_be_a_part_is_a_stated_error(models, call, kind, message):
    with pytest.raises(kind, match=message):
        call(models["math"])


@pytest.mark.parametrize("call", ['select(%s, "*.mlp.*")', f'drop(%s, "{HEAD}")', "join(%s)", "as_model(%s)"])
def test_knobs_within_a_part_are_bound_there(models, call):
    base, math = models["base"], models["math"]
    free = tv.parse(call % "base + lam*(math - base)", base=base, math=math)
    assert free.bind(lam=1) == tv.parse(call % "math", math=math)
    assert free.bind(lam=0.5) == tv.parse(call % "0.5*base + 0.5*math", base=base, math=math)
    assert str(free).startswith(call.partition("(")[0] + "(")
