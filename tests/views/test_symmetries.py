"""Rules of symmetry as data: what a file of them may say, where they do not fit a model, and what a plain stack is."""

import json

import pytest

from small_stacks import SHAPES
from taskvec.errors import MismatchError, RecipeError, TaskvecError
from taskvec.sources.source import Spec
from taskvec.views.symmetries import Axis, Group, Rule, Symmetry, fitting, from_json, groups, is_axis, layer_name, stack


def specs(shapes):
    return {name: Spec(shape, "F32") for name, shape in shapes.items()}


def groups_in(path, shapes=SHAPES, config=(), heads=None):
    """The groups of a model by the rules in a file."""
    return groups(from_json(path), specs(shapes), dict(config), heads, False)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("[", "is not JSON"),
        ('{"g": [["fc1.*", 0]], "g": [["fc2.bias", 0]]}', "keys twice.*- g"),
        ("[]", "must map names of groups"),
        ("{}", "must map names of groups"),
        ('{"g": []}', "g: needs a list of"),
        ('{"g": 3}', "g: needs a list of"),
        ('{"g": [["w"]]}', r"\['w'\] is not \[pattern, axis\]"),
        ('{"g": [["w", -1]]}', "is not .pattern, axis."),
        ('{"g": [["w", 0, 0]]}', "is not .pattern, axis."),
        ('{"g": [["w", true]]}', "is not .pattern, axis."),
        ('{"g": {"axes": [["w", 0]], "units": 0}}', "units is a number or a key"),
        ('{"g": {"axes": [["w", 0]], "units": [3]}}', "units is a number or a key"),
        ('{"g": {"axes": [["w", 0]], "unit": 2}}', "has axes and units, not unit"),
        ('{"g": [["fc9.*", 0]]}', 'g: "fc9.*" fits no tensor'),
        ('{"g": [["fc1.*", 0], ["fc2.wieght", 1]]}', 'g: "fc2.wieght" fits no tensor; the nearest: fc1.weight'),
        ('{"{layer}.g": [["fc1.*", 0]]}', 'g: "fc1.*" fits no tensor'),
        ('{"g": [["fc1.*", 0], ["fc2.weight", 0]]}', "fc2.weight has 7 units, fc1.weight has 6"),
        ('{"g": [["fc1.bias", 1]]}', "has no axis 1"),
        (
            '{"g": {"axes": [["fc2.weight", 0]], "units": 2}}',
            r"axis 0 of fc2.weight \[7, 6\] is not divided by 2 units",
        ),
        ('{"g": {"axes": [["fc1.bias", 0, 4]]}}', "is not divided by 4 parts of equal units"),
        ('{"g": {"axes": [["fc1.bias", 0, 2]], "units": 2}}', "is not divided by 2 parts of 2 units"),
        ('{"g": {"axes": [["fc1.bias", 0]], "units": ["heads"]}}', r"how many units g has \(heads\)"),
    ],
)
def test_rules_that_cannot_be_read_or_do_not_fit(tmp_path, rules, message):
    path = tmp_path / "rules.json"
    path.write_text(rules)
    with pytest.raises(TaskvecError, match=f"(?s){message}"):
        groups_in(path)


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text('{"a": [], "b": [["w"]], "c": {"axes": [["w", 0]], "units": -1}}')
    with pytest.raises(TaskvecError) as error:
        from_json(path)
    assert all(f"{name}: " in str(error.value) for name in "abc")


def test_units_are_a_number_or_the_first_key_of_the_configuration_unless_heads_are_given(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"g": {"axes": [["fc1.bias", 0]], "units": ["kv", "heads"]}}))
    assert groups_in(path, config={"heads": 3, "kv": 2})["g"].units == 2
    assert groups_in(path, config={"heads": 3, "kv": True})["g"].units == 3
    assert groups_in(path, config={"heads": 3}, heads=6)["g"].units == 6
    path.write_text(json.dumps({"g": {"axes": [["fc1.bias", 0], ["fc2.weight", 1, 2]], "units": 3}}))
    assert groups_in(path, heads=6) == {"g": Group(3, (("fc1.bias", 0, 1), ("fc2.weight", 1, 2)))}


def test_without_units_every_index_of_a_part_is_one(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text('{"g": [["fc1.bias", 0, 2]]}')
    assert groups_in(path)["g"].units == 3


def test_a_rule_with_layer_in_its_name_makes_a_group_a_layer_and_leaves_other_tensors():
    shapes = {f"m.layers.{k}.w": (4, 4) for k in (0, 3)} | {"w": (4, 4)}
    rule = Rule("{layer}.units", (Axis("{layer}.w", 0),))
    assert groups(Symmetry("s", (rule,)), specs(shapes), {}, None, False) == {
        f"m.layers.{k}.units": Group(4, ((f"m.layers.{k}.w", 0, 1),)) for k in (0, 3)
    }
    one = Rule("all", (Axis("*w", 1),))
    assert len(groups(Symmetry("s", (one,)), specs(shapes), {}, None, False)["all"].axes) == 3


def test_optional_rules_are_asked_for_and_then_know_every_tensor():
    shapes = specs({"a": (4,), "b": (5,)})
    rules = Symmetry("s", (Rule("a", (Axis("a", 0),)), Rule("r", (Axis("a", 0),), aside=("c",), optional=True)))
    assert groups(rules, shapes, {}, None, False).keys() == {"a"}
    with pytest.raises(MismatchError, match="r: s does not know b"):
        groups(rules, shapes, {}, None, True)


def test_vectors_that_all_units_share_are_as_wide_as_one():
    rule = Rule("{layer}.h", (Axis("{layer}.w", 0),), units=2, shared=("{layer}.norm",))
    shapes = {"h.0.w": (6, 2), "h.0.norm": (3,), "h.1.w": (6, 2), "h.1.norm": (3,)}
    assert len(groups(Symmetry("s", (rule,)), specs(shapes), {}, None, False)) == 2
    with pytest.raises(MismatchError, match=r"h.1.norm is \[6\], no vector of one unit's width \(3\)"):
        groups(Symmetry("s", (rule,)), specs(shapes | {"h.1.norm": (6,)}), {}, None, False)


def test_the_rules_of_a_stack_join_each_matrix_s_rows_to_the_next_one_s_columns():
    rules = stack(specs(SHAPES))
    assert {r.name: [(a.pattern, a.axis) for a in r.axes] for r in rules.rules} == {
        "fc1": [("fc1.weight", 0), ("fc1.bias", 0), ("fc2.weight", 1)],
        "fc2": [("fc2.weight", 0), ("fc2.bias", 0), ("fc3.weight", 1)],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"head.weight": (3, 3)},  # no number
        {"out4.weight": (3, 3)},  # another name before the number
        {"fc2.weight": (7, 5)},  # does not fit on the one before
        {"fc2.bias": (6,)},  # as wide as no units
        {"fc2.weight": (7, 6, 3)},  # no matrix
    ],
)
def test_what_is_no_plain_stack_has_no_rules(change):
    assert stack(specs(SHAPES | change)) is None


def test_one_matrix_alone_is_no_stack_and_counters_do_not_count():
    assert stack(specs({"fc1.weight": (6, 5), "fc1.bias": (6,)})) is None
    assert stack(specs(SHAPES | {"fc2.num_batches_tracked": ()})) == stack(specs(SHAPES))


def test_layers_and_axes_are_told_by_their_form():
    assert layer_name("model.layers.3.mlp.up.weight") == "model.layers.3" and layer_name("norm.weight") is None
    assert layer_name("3.weight") == "3"
    assert is_axis(["w", 0]) and is_axis(["w", 1, 3])
    assert not any(map(is_axis, (["w"], ["w", 0, 1, 1], [0, 0], ("w", 0), "w0", ["w", 1.0])))


def test_an_axis_without_elements_is_divided_by_nothing():
    shapes = specs({"w": (0, 3)})
    assert fitting("g", 0, [("w", 0, 1)], shapes) and not fitting("g", 3, [("w", 1, 1)], shapes)


def test_nobody_says_how_many_heads():
    rule = Rule("h", (Axis("w", 0),), units=("n_head",))
    with pytest.raises(RecipeError, match=r"how many units h has \(n_head\): say how many heads"):
        groups(Symmetry("s", (rule,)), specs({"w": (4,)}), {"n_head": 0}, None, False)


def test_rules_for_a_family_may_name_tensors_that_a_model_lacks_but_not_all_of_them():
    rules = Symmetry("s", (Rule("h", (Axis("w", 0), Axis("bias", 0))),))
    assert groups(rules, specs({"w": (4,)}), {}, None, False) == {"h": Group(4, (("w", 0, 1),))}
    with pytest.raises(RecipeError, match="no tensor fits a rule of s"):
        groups(rules, specs({"v": (4,)}), {}, None, False)
