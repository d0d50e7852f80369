"""From a configuration to the expression that it stands for: documents, slices, seeds."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import taskvec as tv
from mergekit_files import LINEAR, SHAPES, written
from taskvec.recipes.mergekit import read

DARE = """
merge_method: dare_linear
base_model: base
models:
  - {model: base}
  - {model: math, parameters: {weight: 1, density: 0.5}}
"""


@pytest.mark.parametrize(
    ("key", "option", "seed"), [("", (), 0), ("5", (), 5), ("null", (), 0), ("5", (7,), 7), ("5", (0,), 0)]
)
def test_a_random_seed_in_the_file_is_that_of_its_draws_unless_another_is_given(home, key, option, seed):
    (document,) = read(written(home, DARE + (f"random_seed: {key}" if key else "")), None, *option)
    assert document.weights == read(written(home, DARE), seed=seed)[0].weights
    assert document.weights != read(written(home, DARE), seed=seed + 1)[0].weights


def test_a_file_is_the_recipe_that_it_prints(home):
    (document,) = read(written(home, LINEAR))
    assert document.weights == tv.parse("(math + 3*code)/4", math="math", code="code")
    assert str(document.weights) == '0.25*load("math") + 0.75*load("code")'


def test_documents_are_made_of_one_another_in_one_pass(home, merge):
    text = """
name: half
merge_method: linear
models: [{model: math}, {model: code}]
parameters: {weight: 1}
---
merge_method: task_arithmetic
base_model: base
models: [{model: half, parameters: {weight: 0.4}}]
"""
    written(home, text)
    merge("config.yml", "-o", "out")
    wanted = tv.parse("base + 0.4*((math + code)/2 - base)", base="base", math="math", code="code")
    saved = load_file(home / "out" / "model.safetensors")
    assert all(np.array_equal(saved[name], wanted[name]) for name in SHAPES)
    merge("config.yml", "--document", "half", "-o", "half-out")
    assert not (home / "half").exists()


def test_a_stack_of_layers_says_so_in_its_configuration(home, merge):
    text = """
merge_method: passthrough
slices:
  - sources: [{model: math, layer_range: [0, 2]}]
  - sources: [{model: code, layer_range: [1, 3]}]
"""
    written(home, text)
    merge("config.yml", "-o", "out")
    saved = load_file(home / "out" / "model.safetensors")
    math, code = (load_file(home / name / "model.safetensors") for name in ("math", "code"))
    assert np.array_equal(saved["model.layers.3.mlp.up_proj.weight"], code["model.layers.2.mlp.up_proj.weight"])
    assert np.array_equal(saved["model.embed_tokens.weight"], math["model.embed_tokens.weight"])
    assert np.array_equal(saved["lm_head.weight"], code["lm_head.weight"])
    assert json.loads((home / "out" / "config.json").read_text())["num_hidden_layers"] == 4


def test_each_end_of_a_stack_is_merged_of_its_own_slice_s_sources(home, merge):
    text = """
merge_method: linear
parameters: {weight: 1}
slices:
  - sources: [{model: math, layer_range: [0, 1]}]
  - sources: [{model: math, layer_range: [1, 3]}, {model: code, layer_range: [1, 3]}]
"""
    written(home, text)
    merge("config.yml", "-o", "out")
    saved = load_file(home / "out" / "model.safetensors")
    math, code = (load_file(home / name / "model.safetensors") for name in ("math", "code"))
    assert np.array_equal(saved["model.embed_tokens.weight"], math["model.embed_tokens.weight"])
    assert np.allclose(saved["lm_head.weight"], (math["lm_head.weight"] + code["lm_head.weight"]) / 2, atol=1e-6)
