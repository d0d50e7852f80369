"""A shell command judges a folder with the model and prints JSON."""

import sys

import pytest

from evals.tiny import described, model
from taskvec.errors import RecipeError, TaskvecError
from taskvec.evals.command import _metrics
from taskvec.evals.suite import suite_from


def test_a_command_gets_a_folder_and_prints_json(home):
    (home / "look.py").write_text(
        "import json, sys\nfrom transformers import AutoModel\n"
        "m = AutoModel.from_pretrained(sys.argv[1])\nprint('loading...')\n"
        "print(json.dumps({'bias': float(m.embeddings.LayerNorm.bias.sum()), 'split': len(sys.argv[2])}))\n"
    )
    run = f"{sys.executable} look.py {{model}} {{split}}"
    suite = suite_from(described(home, f"tasks:\n  mine: {{kind: command, run: '{run}'}}"))
    w = model(home, "encoder")
    scores = suite(w, "test")
    assert scores["mine_bias"] == pytest.approx(float(w["embeddings.LayerNorm.bias"].sum()), rel=1e-5)
    assert scores["mine_split"] == 4 and suite.untold == ["mine"] and suite.part(0, 0.5) is None
    for run, what in (
        ("exit 3 # {model} {split}", "ended with 3"),
        ("echo hello {model} {split} | cut -c1-5", "no JSON but 'hello'"),
    ):
        with pytest.raises(TaskvecError, match=what):
            suite_from(described(home, f"tasks:\n  mine: {{kind: command, run: '{run}'}}", "bad.yml"))(w, "test")


@pytest.mark.parametrize(
    ("printed", "metrics"),
    [
        ("0.5\n", {"": 0.5}),
        ("loading\n100\n[1, 0]\n", {"": [1, 0]}),
        ('{"a": 1}\nwrote 3 files\n\n', {"a": 1}),
        ("[\n  1,\n  0\n]\n", {"": [1, 0]}),  # its last number is no result
        ('step 1\n{\n "a": [\n  1,\n  0\n ]\n}\ndone', {"a": [1, 0]}),
        ('{"a": 1}\n\n  {"a": 2}', {"a": 2}),
        ("[INFO] 3 of 4\n7", {"": 7}),
    ],
)
def test_the_last_value_that_is_printed_counts_also_over_several_lines(printed, metrics):
    assert _metrics(printed, "mine") == metrics


@pytest.mark.parametrize("printed", ["", "done", '"text"', "null", "[1, 2", "0.5 seconds"])
def test_what_is_no_metric_is_shown(printed):
    with pytest.raises(TaskvecError, match="mine: the command printed no JSON but '"):
        _metrics(printed, "mine")


def test_a_key_that_has_no_effect_on_a_command_is_an_error(home):
    text = "limit: 3\ntasks: {mine: {kind: command, run: '{model} {split}', limit: 4}}"
    with pytest.raises(RecipeError, match=r"(?s)mine: no key limit; there is run, timeout.*the file: no key limit"):
        suite_from(described(home, text, "idle.yml"))
