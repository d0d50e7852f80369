"""A shell command judges a folder with the model and prints JSON."""

import sys

import pytest

from evals.tiny import described, model
from taskvec.errors import TaskvecError
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
    found = suite(w, "test")
    assert found["mine_bias"] == pytest.approx(float(w["embeddings.LayerNorm.bias"].sum()), rel=1e-5)
    assert found["mine_split"] == 4 and suite.untold == ["mine"] and suite.part(0, 0.5) is None
    for run, what in (
        ("exit 3 # {model} {split}", "ended with 3"),
        ("echo hello {model} {split} | cut -c1-5", "no JSON but 'hello'"),
    ):
        with pytest.raises(TaskvecError, match=what):
            suite_from(described(home, f"tasks:\n  mine: {{kind: command, run: '{run}'}}", "bad.yml"))(w, "test")
