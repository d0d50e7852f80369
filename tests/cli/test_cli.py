"""The verbs as a user types them: what they print, what JSON they give, and the recipe that each stands for."""

import json

import numpy as np
import pytest

from commands import run, weight
from taskvec.cli import VERBS

VERB_LINES = {
    "merge": ["base + 0.5*(a - base)", "base=base", "a=a", "-o", "o1"],
    "plan": ["base + 0.5*(a - base)", "base=base", "a=a"],
    "diff": ["a", "base", "-o", "o2"],
    "negate": ["base", "a", "-o", "o3"],
    "add": ["base", "a", "b", "-o", "o4"],
    "analogy": ["base", "--a", "a", "--b", "b", "--c", "c", "-o", "o5"],
    "stats": ["base", "--data", "data.py:rows", "--kind", "fisher", "-o", "o6.safetensors"],
    "eval": ["base", "base=base", "--evaluate", "data.py:size"],
    "search": ["base + x*(a - base)", "base=base", "a=a", "--evaluate", "data.py:size", "--knob", "x=0:1:0.5"],
    "sweep": ["base + x*(a - base)", "base=base", "a=a", "--evaluate", "data.py:size"],
    "interference": ["base", "a", "b", "--evaluate", "data.py:signs", "--tasks", "one,two", "--alphas", "0,1"],
    "report": ["ended.jsonl"],
    "show": ["tau"],
    "check": ["base", "a"],
    "compare": ["a", "b", "--base", "base"],
    "verify": ["tau"],
    "log": ["tau"],
    "align": ["a", "b", "--spec", "units.json", "-o", "p.safetensors"],
    "lab": ["list"],
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "learn"])  # it needs a model: test_suite.py
def test_every_verb_speaks_json(home, ended, verb):
    assert isinstance(json.loads(run(home, verb, *VERB_LINES[verb], "--json")), dict)


def test_quiet_prints_nothing_and_the_rest_one_short_report(home):
    words = ["merge", "base + 0.1*(a - base)", "base=base", "a=a", "-o", "q", "--overwrite"]
    assert run(home, *words, "-q") == ""
    assert len(run(home, *words).splitlines()) == 2


MINUS = (
    "-0.4*(base - a) + base", "-(base - a) + base", "-lam*base + 1.5*a", "-base + a + base", "- base + 2*a",
    "-.5*base + 1.5*a",
)  # fmt: skip


@pytest.mark.parametrize("recipe", MINUS)
def test_a_recipe_may_begin_with_a_minus(home, tmp_path, recipe):
    names = [f"{name}={home / name}" for name in ("base", "a")]
    knob = ["--set", "lam=0.5"] * ("lam" in recipe)
    run(tmp_path, "merge", recipe, *names, *knob, "-q", "-o", "-out")
    run(tmp_path, "merge", *knob, "-q", "-o", "same", "--", recipe, *names)
    assert np.array_equal(weight(tmp_path, "-out"), weight(tmp_path, "same"))
    run(tmp_path, "plan", recipe, *names, *knob)


def test_options_that_there_are_not_are_no_recipes(home):
    for word in ("-x", "-ram=1GB", "--rum", "-threads"):
        assert "No such option" in run(home, "merge", word, "a=a", "-o", "out", code=2)
    assert "not in the range" in run(home, "merge", "a", "a=a", "-o", "out", "--threads", "-1", code=2)
