"""Where a tensor stands in a model, told by its name."""

from fractions import Fraction

import pytest

from taskvec.sources.positions import BIASES, HEADS, TIED, Place, by_token, layer_of, places


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up.weight", ("model.layers", 3)), ("h.10.ln.bias", ("h", 10)), ("0.weight", ("", 0)),
        ("blocks.7", ("blocks", 7)), ("12", ("", 12)), ("a.1.b.2.c", ("a", 1)), ("model.norm.weight", None),
        ("layer3.weight", None), ("a.3b.weight", None), ("", None), ("conv1d.weight", None), ("a..4.b", ("a.", 4)),
        ("encoder.-1.w", None),
    ],
)  # fmt: skip
def test_the_layer_is_the_first_number_in_a_name(name, layer):
    assert layer_of(name) == layer


def test_depths_run_from_the_first_layer_that_is_named_to_the_last_in_each_stack():
    names = ["embed", "enc.0.w", "enc.4.w", "enc.1.b", "enc.2.w", "dec.0.w", "0.w", "1.w"]
    where = places(names)
    assert [*where] == names and all(place.name == name for name, place in where.items())
    assert [place.depth for place in where.values()] == [None, 0, 1, Fraction(1, 4), Fraction(1, 2), 0, 0, 1]
    assert places([]) == {} and places(["x.5.w"])["x.5.w"] == Place("x.5.w", Fraction(1))


def test_a_place_outside_the_layers_has_no_depth():
    assert Place("embed").depth is None and hash(Place("a", Fraction(1, 2))) == hash(Place("a", Fraction(2, 4)))


@pytest.mark.parametrize(
    "name",
    ["lm_head.weight", "language_model.lm_head.weight", "lm_head.decoder.weight", "cls.predictions.decoder.weight",
     "embed_out.weight", "proj_out.weight", "output.weight", "lm_head.bias", "output.bias", "cls.predictions.bias",
     "model.embed_tokens.weight", "transformer.wte.weight", "bert.embeddings.word_embeddings.weight",
     "gpt_neox.embed_in.weight", "tok_embeddings.weight", "backbone.embeddings.weight", "shared.weight"],
)  # fmt: skip
def test_the_embeddings_and_heads_of_known_families_have_a_row_for_each_token(name):
    assert by_token(name)


def test_heads_embeddings_and_biases_of_heads_have_a_row_for_each_token():
    assert tuple(TIED) == HEADS and "lm_head.weight" in HEADS
    assert BIASES[:2] == ("lm_head.bias", "language_model.lm_head.bias") and "cls.predictions.bias" in BIASES
    embeddings = [name for names in TIED.values() for name in names]
    for name in (*HEADS, *BIASES, *embeddings, "wte.weight", "deep.within.embed_in.weight"):
        assert by_token(name), name


@pytest.mark.parametrize(
    "name",
    ["model.norm.weight", "my_wte.weight", "wte.weight.scale", "transformer.wte.bias", "decoder.lm_head.weight",
     "layers.0.embed_tokens.weight", "model.layers.2.shared.weight", "weight"],
)  # fmt: skip
def test_what_only_looks_like_one_has_not(name):
    assert not by_token(name)
