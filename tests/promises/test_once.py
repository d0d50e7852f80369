"""Keys and parameters that are given twice are refused, as one of the two values would be lost without a word."""

import json

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError, RecipeError


@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        ('base + per({"*.up.*": 1, "*.up.*": 0, "*": 0})*(t - base)', r"the table has \*\.up\.\* twice"),
        ('rename(base, {"embed.weight": "x", "embed.weight": "y"})', "the table has embed.weight twice"),
        ("base + trim(t - base, density=0.1, density=0.9)", "trim is given density twice"),
        ("load(\"a\", revision='1', revision='2')", "load is given revision twice"),
    ],
)
def test_keys_and_parameters_of_a_recipe(recipe, what):
    models = {name: tv.from_arrays({"embed.weight": np.ones((2, 2), np.float32)}, name) for name in ("base", "t")}
    with pytest.raises(RecipeError, match=what):
        tv.parse(recipe, **{name: w for name, w in models.items() if name in recipe})


def test_a_tensor_in_an_index(tmp_path, build):
    build.model(tmp_path / "m", build.tensors(0))
    name = next(iter(build.tensors(0)))
    rows = ", ".join(f'{json.dumps(n)}: "model.safetensors"' for n in [*build.tensors(0), name])
    (tmp_path / "m/model.safetensors").rename(tmp_path / "m/model-00001-of-00001.safetensors")
    rows = rows.replace("model.safetensors", "model-00001-of-00001.safetensors")
    (tmp_path / "m/model.safetensors.index.json").write_text(f'{{"weight_map": {{{rows}}}}}')
    with pytest.raises(FormatError, match="keys twice"):
        tv.load(tmp_path / "m")
