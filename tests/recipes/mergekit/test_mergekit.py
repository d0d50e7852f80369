"""mergekit's YAML as a user meets it: what is read, what is refused, and what differs from mergekit on purpose."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import model, tensors
from mergekit_files import LINEAR, SHAPES, refused, written

DARE = """
merge_method: dare_linear
base_model: base
models:
  - {model: base}
  - {model: math, parameters: {weight: 1, density: 0.5}}
"""


def test_the_command_line_takes_the_seed_of_the_file_too(home, merge):
    config = written(home, DARE + "random_seed: 5")
    assert (
        merge(config, "--print-recipe").stdout
        == merge(written(home, DARE, "o.yml"), "--seed", 5, "--print-recipe").stdout
    )
    assert "random_seed is a whole number, not 'five'" in refused(home, DARE + "random_seed: five")


# ---- the file itself ------------------------------------------------------------------------------------------------


# ---- what a file stands for -----------------------------------------------------------------------------------------


def test_print_recipe_is_a_recipe_file(home, merge):
    written(home, LINEAR)
    text = merge("config.yml", "--print-recipe").stdout
    (home / "recipe.py").write_text(text)
    merge("recipe.py", "-o", "one")
    merge("config.yml", "-o", "two")
    one, two = (load_file(home / out / "model.safetensors") for out in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in SHAPES)


def test_models_of_another_machine_are_said_beside_the_file(home, merge):
    written(home, LINEAR.replace("model: math", "model: org/math@main"))
    merge("config.yml", "org/math=math", "-o", "out")
    assert (home / "out" / "model.safetensors").is_file()


# ---- what differs from mergekit on purpose ------------------------------------------------------------------
def test_without_a_base_the_first_model_lends_its_files(home, merge):
    (home / "math" / "tokenizer.json").write_text('{"of": "math"}')
    written(home, LINEAR)
    merge("config.yml", "-o", "out")
    assert json.loads((home / "out" / "tokenizer.json").read_text()) == {"of": "math"}


def test_the_output_has_the_dtype_of_the_models_in_every_method(home, merge):
    import ml_dtypes

    for seed, name in enumerate(("base", "math")):
        model(home / f"{name}16", {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors(seed, SHAPES).items()})
    written(home, "merge_method: arcee_fusion\nbase_model: base16\nmodels: [{model: math16}]\n")
    merge("config.yml", "-o", "out")
    assert {a.dtype.name for a in load_file(home / "out" / "model.safetensors").values()} == {"bfloat16"}


# ---- what is refused -----------------------------------------------------------------------------------------
REFUSED = [
    (
        "merge_methd: linear\nmodels: [{model: math}]",
        r"merge_methd is no key of mergekit's (did you mean merge_method?)",
    ),
    (LINEAR.replace("linear", "liner"), "no method is named liner (did you mean linear?)"),
    (LINEAR.replace("weight: 1", "wieght: 1"), "models[0].parameters.wieght is no parameter (did you mean weight?)"),
    (LINEAR.replace("weight: 1", "weight: [0, x]"), "weight is a number, not 'x'"),
    (LINEAR.replace("weight: 1", "weight: .nan"), "a coefficient must be finite, not nan"),
    (LINEAR.replace(", parameters: {weight: 1}", ""), "models: math: weight has no value"),
    (LINEAR.replace("model: math", "model: nowhere"), "nowhere does not exist"),
    (LINEAR.replace("model: code", "model: math"), "models: math is named twice"),
    (LINEAR + "slices: []\nmodules: {a: {models: [{model: math}]}}", "exactly one of models, slices and modules"),
    (LINEAR + "dtype: 3", "dtype is a text, not 3"),
    (LINEAR + "chat_template: chatmil", "no chat_template is named chatmil (did you mean chatml?)"),
    (LINEAR + "tokenizer: {source: union, padding: 3}", "tokenizer.padding is no key of mergekit's"),
    (LINEAR + "tokenizer_source: base\ntokenizer: {source: base}", "exclude one another"),
    ("[1, 2]", "a configuration is a table of keys"),
    ("a: [", "is no YAML"),
    ("", "the file is empty"),
    ("merge_method: ties\nmodels: [{model: math, parameters: {weight: 1}}]", "ties needs a base_model"),
    ("merge_method: slerp\nbase_model: base\nmodels: [{model: base}]\nparameters: {t: 1}", "takes 2 models"),
    ("merge_method: passthrough\nmodels: [{model: math}, {model: code}]", "passthrough takes"),
    (
        "merge_method: ties\nbase_model: base\nmodels: [{model: math, parameters: {weight: 1, density: 1.5}}]",
        "density must lie in (0, 1], not 1.5",
    ),
    (
        "merge_method: passthrough\nslices:\n  - sources: [{model: math, layer_range: [2, 9]}]",
        'load("math") has the layers 0 to 2',
    ),
    ("merge_method: passthrough\nslices:\n  - sources: [{model: math, layer_range: [2, 1]}]", "has no layers"),
    (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n"
        "  - sources: [{model: math, layer_range: [0, 2]}, {model: code, layer_range: [0, 3]}]",
        "its sources have different numbers of layers: [2, 3]",
    ),
    ("name: a\nmerge_method: passthrough\nmodels: [{model: a}]", "made of one another: a -> a"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_cannot_be_merged_is_said(home, text, said):
    assert said in refused(home, text)


def test_a_zero_vector_has_no_angle_in_a_recipe_and_is_mergekit_s_right_angle_in_a_file(home, run, merge):
    zero = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    model(home / "zero", zero)
    failed = run("merge", "slerp(math, zero)", "math=math", "zero=zero", "-o", "out")
    assert "one of the two is zero" in failed.stderr
    written(
        home, "merge_method: slerp\nbase_model: math\nmodels: [{model: math}, {model: zero}]\nparameters: {t: 0.5}\n"
    )
    merge("config.yml", "-o", "out")


def test_nothing_appears_where_a_file_is_refused(home, run):
    written(home, LINEAR.replace("weight: 1", "wieght: 1"))
    before = sorted(p.name for p in home.iterdir())
    failed = run("merge", "config.yml", "-o", "out")
    assert failed.code == 1 and "Traceback" not in failed.stderr
    assert sorted(p.name for p in home.iterdir()) == before


# ---- models that a method leaves out ---------------------------------------------------------------------------------
