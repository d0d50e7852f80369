"""The verbs that look: what they say of models and vectors."""

import json
import subprocess
import sys

import numpy as np
from safetensors.numpy import save_file

from commands import run


def test_show_and_log_say_what_a_vector_is(home):
    shown = json.loads(run(home, "show", "tau", "--json"))
    assert (shown["kind"], shown["mass"], shown["recipe"]) == ("task vector", 0, "tuned - base")
    assert shown["base"] == json.loads(run(home, "show", "base", "--json"))["fingerprint"]
    assert "l.0.w  F32[6, 5]" in run(home, "show", "tau", "--tensors")
    assert run(home, "log", "tau").startswith("tau = tuned - base")


def test_check_lists_everything_and_exits_with_one(home):
    (home / "odd").mkdir(exist_ok=True)
    save_file({"l.0.w": np.zeros((6, 4), "f4"), "extra": np.zeros(1, "f4")}, home / "odd" / "model.safetensors")
    message = run(home, "check", "base", "odd", code=1)
    assert "l.0.w" in message and "extra" in message
    assert json.loads(subprocess.run(
        [sys.executable, "-m", "taskvec", "check", "base", "odd", "--json"], cwd=home, capture_output=True, text=True
    ).stdout)["mergeable"] is False  # fmt: skip


def test_compare_writes_the_picture(home):
    run(home, "compare", "a", "b", "c", "--base", "base", "--plot", "cosine.png", "-q")
    assert (home / "cosine.png").read_bytes().startswith(b"\x89PNG")


def test_no_name_in_the_tables_of_compare_is_cut_short(home, monkeypatch):
    """A narrow terminal folds them: of "model.lay..." nobody knows which layer it is."""
    monkeypatch.setenv("COLUMNS", "30")
    printed = run(home, "compare", "a", "b", "c", "--base", "base")
    assert "…" not in printed and "sign conflict" in printed
