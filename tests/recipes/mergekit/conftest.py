"""Three models, and the command that merges them by a file of mergekit's."""

import json

import pytest

from conftest import model, tensors
from mergekit_files import NAMES, SHAPES


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with three models, and the current one."""
    for seed, name in enumerate(NAMES):
        model(tmp_path / name, tensors(seed, SHAPES))
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 3}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def merge(run):
    """merge("config.yml", ...) -> what the command said, which must have worked."""

    def done(*arguments):
        done = run("merge", *arguments)
        assert done.code == 0, done.stderr
        return done

    return done
