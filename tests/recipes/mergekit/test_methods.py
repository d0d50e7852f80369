"""mergekit's methods, a row each: every one is a recipe that reads back."""

import json

import numpy as np
import pytest
import yaml

import taskvec as tv
from conftest import model, tensors
from mergekit_files import NAMES, SHAPES, written
from taskvec.errors import MismatchError
from taskvec.notes import collected
from taskvec.recipes.mergekit import read
from taskvec.recipes.mergekit.methods import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prints_a_recipe_that_reads_back(home, method):
    row = METHODS[method]
    names = NAMES[: row.most or 3]
    own = {key: 0.3 if key == "epsilon" else 0.5 for key, (scope, _) in row.numbers.items() if scope != "shared"}
    shared = {key: 0.3 for key, (scope, default) in row.numbers.items() if scope == "shared" and default is None}
    if method == "slerp" or row.most == 1:
        own = {}
    entries = [{"model": name, "parameters": own} for name in names]
    config = {"merge_method": method, "models": entries, "parameters": shared}
    if row.base != "ignored":
        config["base_model"] = "base"
    (document,) = read(written(home, yaml.safe_dump(config)))
    assert tv.parse(str(document.weights)) == document.weights
    assert document.weights.kind() == 1


def test_multislerp_of_one_model_says_that_its_base_has_no_part(home):
    one = {"model": "math", "parameters": {"weight": 0.5}}
    text = json.dumps({"merge_method": "multislerp", "base_model": "base", "models": [one]})
    with collected() as notes:
        (document,) = read(written(home, text))
    assert document.weights == tv.load("math") and "its base and its weight have no effect" in next(iter(notes))


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_the_base_gives_its_files_wherever_it_stands(home, method):
    models = [{"model": n, "parameters": {"weight": 1} if method == "linear" else {}} for n in ("math", "base", "code")]
    (document,) = read(written(home, json.dumps({"merge_method": method, "models": models, "base_model": "base"})))
    assert document.weights.donor.folder.name == "base"
    (document,) = read(written(home, json.dumps({"merge_method": method, "models": models})))
    assert document.weights.donor.folder.name == "math"


def mixed(method, names=NAMES):
    """A file with the method on as many of the models as it takes, all of whose parameters have some value."""
    row = METHODS[method]
    own = {key: 0.2 if key == "epsilon" else 0.5 for key, (scope, _) in row.numbers.items() if scope != "shared"}
    shared = {key: 0.3 for key, (scope, default) in row.numbers.items() if scope == "shared" and default is None}
    models = [{"model": name, "parameters": own} for name in names[: row.most or 3]]
    base = {} if row.base == "ignored" else {"base_model": names[0]}
    return json.dumps({"merge_method": method, "models": models, "parameters": shared} | base)


@pytest.mark.parametrize("method", [m for m, row in METHODS.items() if row.most != 1])
def test_integers_that_differ_are_an_error_in_every_method(home, method):
    for k, name in enumerate(NAMES, 7):
        model(home / name, tensors(k, SHAPES) | {"model.counter": np.array(k)})
    (document,) = read(written(home, mixed(method)))
    with pytest.raises(MismatchError, match=r"model\.counter \(I64\[\]\) differs between"):
        tv.save(document.weights, home / "out", dtype=document.dtype)
    assert not (home / "out").exists()
