"""Vocabularies of another size: rows cut, rows padded, and what config.json says of them."""

import json

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
