"""Models of several vocabularies, and heads that some of them lack."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import model, tensors
from mergekit_files import LINEAR, SHAPES, refused, written
from taskvec.recipes.mergekit import read


def test_a_union_of_tokenizers_says_which_end_token_and_template_it_loses(home, merge):
    words = {"x": 0, "end": 1, "stop": 2}
    for name, ends in (("base", 1), ("math", 2)):
        (home / name / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": words}}))
        (home / name / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    (home / "math" / "chat_template.jinja").write_text("{{ messages }}")
    text = LINEAR.replace("code", "base") + "base_model: base\n"
    said = merge(written(home, text + "tokenizer_source: union"), "-o", "out").stderr
    assert 'math has the end token "stop", not "end", a chat template, which the output has not' in said
    said = merge(written(home, text + "tokenizer_source: union\nchat_template: auto"), "-o", "two").stderr
    assert "the end token" in said and "a chat template," not in said
    assert (home / "two/chat_template.jinja").read_text() == "{{ messages }}"


def test_vocabularies_that_differ_say_what_brings_them_together(home):
    wide = {
        k: (v if "embed" not in k and "lm_head" not in k else np.zeros((16, 4), "f4"))
        for k, v in tensors(9, SHAPES).items()
    }
    model(home / "wide", wide)
    assert "tokenizer: {source: base}" in refused(home, LINEAR.replace("model: code", "model: wide"))


def test_a_model_without_a_head_gets_one_where_another_has_one(home):
    tied = {n: v for n, v in tensors(5, SHAPES).items() if n != "lm_head.weight"}
    model(home / "tied", tied)
    (document,) = read(written(home, LINEAR.replace("model: code", "model: tied")))
    embedding = tied["model.embed_tokens.weight"]
    wanted = 0.25 * load_file(home / "math/model.safetensors")["lm_head.weight"] + 0.75 * embedding
    np.testing.assert_allclose(document.weights["lm_head.weight"], wanted, rtol=1e-6, atol=1e-6)
    model(home / "other", tied)
    (document,) = read(
        written(home, LINEAR.replace("model: code", "model: tied").replace("model: math", "model: other"))
    )
    assert "lm_head.weight" not in document.weights.specs


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("tokenizer: {source: {path: base}}", "tokenizer.source"),
        ("tokenizer: {source: union, pad_to_multiple_of: 0}", "pad_to_multiple_of is a whole number from 1 on, not 0"),
        ("tokenizer: {source: union, tokens: {x: {source: base}}}", "tokenizer.tokens.x: base is none of the models"),
        ("tokenizer: {source: nowhere}", "tokenizer.source: nowhere is none of the models"),
    ],
)
def test_a_tokenizer_that_is_none_is_a_problem_with_its_place(home, block, said):
    assert said in refused(home, LINEAR + block)
