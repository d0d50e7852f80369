"""A configuration as values: every key is checked, and all problems are said at once."""

import pytest

from mergekit_files import LINEAR, refused, written
from taskvec.recipes.mergekit.config import Reference, config


def test_a_key_that_is_there_twice_is_an_error_with_both_lines(home):
    said = refused(home, LINEAR.replace("weight: 1}", "weight: 1, weight: 2}") + "merge_method: slerp\n")
    assert "merge_method in line 2 and in line 6" in said and "weight in line 4 and in line 4" in said


def test_an_alias_bomb_is_refused_and_not_printed(home, run):
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"{c}: &{c} [{','.join([f'*{p}'] * 10)}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True)]
    done = run("merge", written(home, "\n".join([*lines, "merge_method: *i", "models: []"])), "-o", "out")
    assert done.code == 1 and "more than 100,000 values" in done.stderr and len(done.stderr) < 1000


def test_every_problem_of_a_file_is_said_at_once(home):
    text = """
merge_method: ties
base_model: nowhere
models:
  - {model: math, parameters: {weigth: 1, densty: 0.5}}
tokenizr: {source: base}
out_dtype: [1]
"""
    message = refused(home, text)
    for said in ("tokenizr", "out_dtype"):
        assert said in message
    assert "weigth" in refused(home, text.replace("tokenizr: {source: base}\n", "").replace("out_dtype: [1]\n", ""))


def test_a_model_is_a_path_a_revision_and_an_adapter(home):
    one = Reference("org/a", "main", Reference("org/l"))
    assert (
        str(one) == "org/a@main+org/l"
        and str(Reference("a")) == "a"
        and one == Reference("org/a", "main", Reference("org/l"))
    )


def test_models_are_named_once_each_the_base_first():
    problems = []
    made = config(
        {"merge_method": "ties", "base_model": "b", "models": [{"model": "m"}, {"model": "b"}], "dtype": "bfloat16"},
        problems,
    )
    assert not problems and [str(r) for r in made.references] == ["b", "m"] and made.dtype == "bfloat16"
    assert config([1], problems) is None and "a configuration is a table of keys" in problems[0]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"models": [{"model": "a"}]}, "merge_method"),
        ({"merge_method": "linear"}, "exactly one of models, slices and modules"),
        ({"merge_method": "linear", "models": []}, "models"),
        ({"merge_method": "linear", "models": [{"model": 3}]}, "models[0].model"),
        ({"merge_method": "linear", "models": [{"parameters": {}}]}, "models[0]"),
        ({"merge_method": "linear", "slices": [{"sources": [{"model": "a"}]}]}, "layer_range"),
        ({"merge_method": "linear", "slices": [{"sources": [{"model": "a", "layer_range": [0]}]}]}, "layer_range"),
        ({"merge_method": "linear", "models": [{"model": "a"}], "random_seed": 1.5}, "random_seed is a whole number"),
        ({"merge_method": "linear", "models": [{"model": "a"}], "chat_template": 1}, "chat_template is a text"),
    ],
)
def test_what_is_no_configuration_is_a_problem_with_its_place(document, said):
    problems = []
    config(document, problems)
    assert any(said in problem for problem in problems), problems
