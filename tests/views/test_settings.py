"""config.json as views of layers leave it."""

import json

import pytest

import taskvec as tv
from taskvec.errors import RecipeError


def config_of(tmp_path, build, recipe, table):
    """The config.json that a recipe on a model of four layers leaves."""
    model = build.model(tmp_path / "m", {f"model.layers.{k}.w": build.tensors(k, {"w": (2,)})["w"] for k in range(4)})
    (model / "config.json").write_text(json.dumps(table))
    tv.save(tv.parse(recipe, m=tv.load(model)), tmp_path / "out")
    return json.loads((tmp_path / "out/config.json").read_text())


def test_parts_that_cannot_be_said_alone_may_be_said_together(tmp_path, build):
    table = {"num_hidden_layers": 4, "attn_layer_period": 4}
    again = "stack(take_layers(m, 0, 1), take_layers(m, 1, 4))"
    assert config_of(tmp_path, build, again, table) == table
    with pytest.raises(RecipeError, match=r"cannot say what these layers are.*-o NAME\.safetensors(.|\n)*period of 4"):
        tv.save(tv.parse("take_layers(m, 1, 3)", m=tv.load(tmp_path / "m")), tmp_path / "part")
    assert not (tmp_path / "part").exists()
    tv.save(tv.parse("take_layers(m, 1, 3)", m=tv.load(tmp_path / "m")), tmp_path / "part.safetensors")


def test_a_table_by_number_is_replaced_and_not_mixed(tmp_path, build):
    table = {"num_hidden_layers": 4, "per_layer_config": {"0": {"a": 1}, "3": {"a": 2}}}
    config = config_of(tmp_path, build, "take_layers(m, 2, 4)", table)
    assert config == {"num_hidden_layers": 2, "per_layer_config": {"1": {"a": 2}}}


def test_layers_that_predict_further_tokens_are_counted_apart(tmp_path, build):
    table = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1, "layer_types": ["a", "b", "c"]}
    config = config_of(tmp_path, build, "stack(take_layers(m, 0, 2), take_layers(m, 1, 4))", table)
    assert config == table | {"num_hidden_layers": 4, "layer_types": ["a", "b", "b", "c"]}
    tv.save(tv.take_layers(tv.load(tmp_path / "m"), 1, 3), tmp_path / "less")
    config = json.loads((tmp_path / "less/config.json").read_text())
    assert config == {"num_hidden_layers": 2, "num_nextn_predict_layers": 0, "layer_types": ["b", "c"]}
    with pytest.raises(RecipeError, match="stands before others"):
        tv.save(tv.parse("stack(m, m)", m=tv.load(tmp_path / "m")), tmp_path / "no")


def test_methods_between_do_not_hide_where_layers_are_from(tmp_path, build):
    """Neither part alone stands where it did in its period, and both together do."""
    table = {"num_hidden_layers": 4, "attn_layer_period": 4}
    parts = ("take_layers(m, 0, 1)", "take_layers(m, 1, 4)")
    slerps = ", ".join(f"slerp({part}, {part})" for part in parts)
    assert config_of(tmp_path, build, f"stack({slerps})", table) == table


def test_the_layers_of_a_vision_tower_are_never_counted_in_the_text_models_entries(tmp_path, build):
    tensors = {f"visual.blocks.{k}.w": build.tensors(k, {"w": (2,)})["w"] for k in range(4)}
    model = build.model(tmp_path / "m", tensors)
    (model / "config.json").write_text(json.dumps({"num_hidden_layers": 9, "vision_config": {"depth": 4}}))
    tv.save(tv.take_layers(tv.load(model), 0, 3), tmp_path / "out")
    result = json.loads((tmp_path / "out/config.json").read_text())
    assert result == {"num_hidden_layers": 9, "vision_config": {"depth": 3}}
    (model / "config.json").write_text(json.dumps({"num_hidden_layers": 9, "vision_config": {"width": 2}}))
    with pytest.raises(RecipeError, match=r"visual\.blocks: vision_config does not say how many layers there are"):
        tv.save(tv.take_layers(tv.load(model), 0, 3), tmp_path / "no")
