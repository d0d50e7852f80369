"""mergekit's parameters as coefficients: scalars, gradients over the layers, filters by substring."""

import pytest

from mergekit_files import LINEAR, SHAPES, written
from taskvec.notes import collected
from taskvec.recipes.mergekit import read
from taskvec.recipes.mergekit.parameters import Names, flag, number
from taskvec.sources.positions import places
from taskvec.sources.source import Spec
from taskvec.sources.text import literal


def test_a_gradient_runs_from_the_first_layer_to_the_last_and_a_filter_is_a_substring(home):
    text = """
merge_method: linear
models:
  - model: math
    parameters:
      weight:
        - {filter: mlp, value: [0, 1]}
        - {value: 0.5}
  - {model: code, parameters: {weight: 1}}
parameters: {normalize: false}
"""
    (document,) = read(written(home, text))
    (source,) = document.weights.terms
    parts = {name: {s.text: float(c) for (s, _), c in source.origin(name).items()} for name in SHAPES}
    assert parts["model.layers.1.mlp.up_proj.weight"]['load("math")'] == 0.5
    assert parts["model.layers.2.mlp.up_proj.weight"]['load("math")'] == 1
    assert 'load("math")' not in parts["model.layers.0.mlp.up_proj.weight"]
    assert parts["model.layers.2.self_attn.q_proj.weight"]['load("math")'] == 0.5


def test_a_parameter_of_another_method_is_noted(home, merge):
    written(home, LINEAR + "parameters: {density: 0.5}\n")
    assert "parameters.density has no effect: linear has weight, normalize" in merge("config.yml", "-o", "o").stderr


SEEN = Names({f"layers.{k}.{part}.w": f"layers.{k + 4}.{part}.w" for k in range(3) for part in ("mlp", "attn")})
PLAIN = Names({name: name for name in (*SEEN.seen, "head")})


def value(setting, name, names=PLAIN, default=None):
    """What a parameter with this setting is at one tensor."""
    problems = []
    coefficient = number("k", [{"k": setting}] if setting is not None else [], names, default, "here", problems)
    assert not problems, problems
    return float(coefficient.at(places(dict.fromkeys(names.seen, Spec((1,), "F32")))[name]))


@pytest.mark.parametrize(
    ("setting", "name", "wanted"),
    [
        (0.5, "head", 0.5),
        ("1e-5", "head", 1e-5),
        ([0, 1], "layers.1.mlp.w", 0.5),
        ([0, 1], "head", 0),
        ([{"filter": "mlp", "value": 2}, {"value": 3}], "layers.0.mlp.w", 2),
        ([{"filter": "mlp", "value": 2}, {"value": 3}], "layers.0.attn.w", 3),
        ([{"filter": "layers", "value": 1}, {"filter": "mlp", "value": 2}, {"value": 3}], "layers.0.mlp.w", 1),
        ([{"filter": "*", "value": 4}, {"filter": "mlp", "value": 2}], "layers.0.mlp.w", 4),
        ({"value": 7}, "head", 7),
        ([5, 5], "head", 5),
        (None, "head", 9),
    ],
)
def test_a_setting_is_one_number_at_each_tensor(setting, name, wanted):
    assert value(setting, name, default=9) == pytest.approx(wanted)


def test_the_settings_of_a_model_count_before_those_of_the_file():
    coefficient = number("k", [{"k": [{"filter": "mlp", "value": 1}]}, {"k": 2}], PLAIN, None, "here", [])
    at = places(dict.fromkeys(PLAIN.seen, Spec((1,), "F32")))
    assert [float(coefficient.at(at[n])) for n in ("layers.0.mlp.w", "head")] == [1, 2]


def test_a_layer_by_its_number_is_that_of_the_model_and_one_layer_has_the_last_point():
    assert value([{"filter": "layers.5.", "value": 2}, {"value": 3}], "layers.1.mlp.w", SEEN) == 2
    assert value([{"filter": "layers.5.", "value": 2}, {"value": 3}], "layers.2.mlp.w", SEEN) == 3
    assert value([0, 1], "layers.0.mlp.w", Names({"layers.0.mlp.w": "layers.4.mlp.w"}, single=True)) == 1


def test_what_gives_no_number_is_a_problem_with_its_place():
    for setting, said in (
        ("x", "here.k is a number, not 'x'"),
        ([{"filter": "mlp"}], "here.k[0] is {filter: substring, value: number}"),
        ([{"filter": "mlp", "value": 1, "scale": 2}], "here.k[0] is"),
        ([{"filter": "mlp", "value": 1}], "here: k has no value for layers.0.attn.w"),
        (float("nan"), "here.k: a coefficient must be finite"),
        (None, "here: k has no value"),
    ):
        problems = []
        number("k", [{"k": setting}], PLAIN, None, "here", problems)
        assert any(said in problem for problem in problems), (setting, problems)


def test_a_filter_is_taken_by_its_letters():
    assert literal("a*[b]?") == "a[*][[]b][?]"
    with collected() as notes:
        value([{"filter": "nlp", "value": 1}, {"value": 2}], "head")
    assert "the filter 'nlp' fits no tensor" in next(iter(notes))


def test_a_flag_is_true_or_false_in_any_of_its_spellings():
    for given, wanted in ((True, True), ("False", False), ("true", True), (0, False), (1, True), (None, True)):
        assert flag("f", [{"f": given}], True, "here", []) is wanted
    problems = []
    assert flag("f", [{"f": "yes"}], False, "here", problems) is False and "true or false" in problems[0]
