"""Vocabularies of another size: rows cut, rows padded, and what config.json says of them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import taskvec as tv
from small_llamas import CONFIG, EMBEDDING, HEAD, VOCAB, WIDTH, refused, same, saved
from taskvec.errors import MismatchError, RecipeError

QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(size=st.integers(1, 40), fill=st.sampled_from(["zero", "mean"]))
def test_rows_are_cut_or_padded(home, models, tmp_path_factory, size, fill):
    resized = saved(tv.resize_vocab(models["math"], size, fill=fill), tmp_path_factory.mktemp("rows") / "out")
    eager = load_file(home / "math/model.safetensors")
    for name in (EMBEDDING, HEAD):
        rows = eager[name][:size]
        mean = eager[name].double().mean(0).float().bfloat16()
        new = (mean if fill == "mean" else torch.zeros(WIDTH, dtype=torch.bfloat16)).expand(max(0, size - VOCAB), WIDTH)
        eager[name] = torch.cat([rows, new])
    assert same(resized, eager)


def test_padding_goes_to_the_next_multiple(models, tmp_path):
    for multiple, size in ((1, 11), (8, 16), (11, 11), (64, 64)):
        assert tv.pad_vocab(models["math"], multiple).specs[HEAD].shape == (size, WIDTH)
    tv.save(tv.pad_vocab(models["math"], 8), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text()) == CONFIG | {"vocab_size": 16}


# ---- what is refused ------------------------------------------------------------------------------
WRONG = [
    ("resize_vocab(math, 0)", RecipeError, "size must be a whole number of at least 1, not 0"),
    ("resize_vocab(math, 2.5)", RecipeError, "whole number"),
    ('resize_vocab(math, "7")', RecipeError, "whole number"),
    ('resize_vocab(math, 7, fill="random")', RecipeError, "fill is one of zero, mean"),
    ('resize_vocab(math, 7, embedding="wte")', RecipeError, "has no tensor wte"),
    ('resize_vocab(rename(math, {"lm_head.*": "h.*", "model.embed_tokens.*": "e.*"}), 7)', RecipeError, "name them"),
    ('resize_vocab(math, 7, embedding="model.positions")', MismatchError, "model.positions is I64"),
    ("pad_vocab(math, 0)", RecipeError, "multiple must be"),
    ("resize_vocab(math, 20) + math - base", MismatchError, r"\[20, 6\].*resize_vocab or align_vocab"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "kind", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_what_cannot_be_done_is_a_stated_error(models, tmp_path, recipe, kind, message):
    refused(recipe, models, tmp_path, kind, message)


def test_sizes_go_up_to_what_an_index_of_31_bits_has(models):
    most = 2**31 - 1
    assert tv.resize_vocab(models["math"], most).specs[HEAD].shape[0] == most
    for call in (tv.resize_vocab, tv.pad_vocab):
        with pytest.raises(RecipeError, match=rf"{call.__name__}: .* must be at most {most}, not {most + 1}"):
            call(models["math"], most + 1)


NAMED = f'resize_vocab(%s, 7, head="{HEAD}", embedding="{EMBEDDING}")'


@pytest.mark.parametrize(
    "call", ["resize_vocab(%s, 7)", 'resize_vocab(%s, 30, fill="mean")', "pad_vocab(%s, 8)", NAMED]
)
def test_they_print_as_they_are_written_and_bind_knobs_within(models, call):
    base, math = models["base"].named("base"), models["math"].named("math")
    free = tv.parse(call % "base + lam*(math - base)", base=base, math=math)
    bound = tv.parse(call % "math", math=math)
    assert free.bind(lam=1) == bound and bound.text(bound.names()) == call % "math"


def test_a_head_that_is_named_takes_its_bias_along():
    arrays = {"a.weight": np.ones((5, 3), "f4"), "a.bias": np.ones(5, "f4"), "b.weight": np.ones((5, 3), "f4")}
    resized = tv.resize_vocab(
        tv.from_arrays(arrays | {"b.bias": np.ones(5, "f4")}), 7, head="a.weight", embedding="b.weight"
    )
    assert {n: s.shape[0] for n, s in resized.specs.items()} == {"a.weight": 7, "a.bias": 7, "b.weight": 7, "b.bias": 5}


def test_a_lora_without_a_vocabulary_stays_and_says_nothing_of_one(build, tmp_path):
    factors = {"model.layers.0.mlp.lora_A.weight": (2, 4), "model.layers.0.mlp.lora_B.weight": (7, 2)}
    arrays = {f"base_model.model.{n}": np.ones(shape, np.float32) for n, shape in factors.items()}
    lora = tv.load(build.lora(tmp_path / "lora", arrays))
    for w in (tv.resize_vocab(lora, 9), tv.pad_vocab(lora, 8)):
        (source,) = w.terms
        assert {n: s.shape for n, s in w.specs.items()} == {n: s.shape for n, s in lora.specs.items()}
        assert source.settled()[0] == {}


@pytest.mark.parametrize("call", [tv.resize_vocab, tv.pad_vocab])
def test_what_is_no_model_is_said_with_the_call(call):
    with pytest.raises(RecipeError, match=f"^{call.__name__} works on models or task vectors, not on int"):
        call(1, 8)
