"""A folder with four small models, a task vector and a journal, which the tests of the command line share."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from commands import DATA, TRIED, run


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    for seed, name in enumerate(["base", "a", "b", "c"]):
        rng = np.random.default_rng(seed)
        (folder / name).mkdir()
        save_file({"l.0.w": rng.standard_normal((6, 5)).astype("f4")}, folder / name / "model.safetensors")
    (folder / "units.json").write_text('{"rows": [["l.0.w", 0]]}')
    run(folder, "diff", "a", "base", "-o", "tau")
    (folder / "data.py").write_text(DATA)
    return folder


@pytest.fixture(scope="session")
def ended(home):
    """The journal of a search."""
    run(home, "search", *TRIED, "--journal", "ended.jsonl")
    return home / "ended.jsonl"
