"""The verbs as a user types them: what they print, what JSON they give, and the recipe that each stands for."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from taskvec.cli import VERBS

DATA = """
import torch
from safetensors.torch import load_file


def rows(path):
    module = torch.nn.Module()
    module.l = torch.nn.ModuleList([torch.nn.Module()])
    module.l[0].w = torch.nn.Parameter(load_file(path + "/model.safetensors")["l.0.w"])
    return module.eval(), [{"x": torch.eye(5)}], lambda module, batch: batch["x"] @ module.l[0].w.T


def signs(weights, split):
    return {"one": [1.0, 0.0], "two": [0.0, 1.0]}


def size(weights, split):
    return {"size": float(abs(weights["l.0.w"]).max())}
"""


TRIED = ["base + x*(a - base)", "base=base", "a=a", "--evaluate", "data.py:size", "--knob", "x=0:1:0.5"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    for seed, name in enumerate(["base", "a", "b", "c"]):
        rng = np.random.default_rng(seed)
        (folder / name).mkdir()
        save_file({"l.0.w": rng.standard_normal((6, 5)).astype("f4")}, folder / name / "model.safetensors")
    (folder / "units.json").write_text('{"rows": [["l.0.w", 0]]}')
    run(folder, "diff", "a", "base", "-o", "tau")
    (folder / "data.py").write_text(DATA)
    run(folder, "search", *TRIED, "--journal", "ended.jsonl")
    return folder


def run(folder, *words, code=0):
    done = subprocess.run([sys.executable, "-m", "taskvec", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def weight(folder, name):
    found = load_file(folder / name / "model.safetensors")
    return found["l.0.w"]


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
}


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "learn"])  # it needs a model: test_suite.py
def test_every_verb_speaks_json(home, verb):
    assert isinstance(json.loads(run(home, verb, *VERB_LINES[verb], "--json")), dict)


def test_the_three_operations_of_the_paper(home):
    base, a, b, c = (weight(home, n).astype("f8") for n in ("base", "a", "b", "c"))
    out = run(home, "negate", "base", "tau", "--scale", "0.3", "-o", "n")
    assert "base - 0.3*vector" in out
    assert np.allclose(weight(home, "n"), base - 0.3 * (a - base), atol=1e-6)
    assert "0.2*base + 0.4*a + 0.4*b" in run(home, "add", "base", "a", "b", "--scale", "0.4", "-o", "s")
    assert np.allclose(weight(home, "s"), base + 0.4 * (a + b - 2 * base), atol=1e-6)
    assert "- 0.5*a" in run(home, "analogy", "base", "--a", "a", "--b", "b", "--c", "c", "--scale", "0.5", "-o", "d")
    assert np.allclose(weight(home, "d"), base + 0.5 * (c + b - a - base), atol=1e-6)


def test_a_sum_without_a_scale_is_as_long_as_one_of_its_vectors(home):
    base, a, b = (weight(home, n).astype("f8") for n in ("base", "a", "b"))
    assert "norm_matched(" in run(home, "add", "base", "a", "b", "-o", "sum")
    norms = [np.linalg.norm(x - base) for x in (a, b, weight(home, "sum"))]
    assert norms[2] == pytest.approx((norms[0] + norms[1]) / 2, rel=1e-4)
    run(home, "add", "base", "a", "-o", "one")
    assert np.array_equal(weight(home, "one"), weight(home, "a"))  # of one vector the scale is 1


def test_negation_of_a_model_and_of_its_stored_vector_agree(home):
    run(home, "negate", "base", "tau", "--scale", "1/3", "-o", "n1")
    run(home, "negate", "base", "a", "--scale", "1/3", "-o", "n2")
    assert np.allclose(weight(home, "n1"), weight(home, "n2"), atol=1e-6)


def test_dry_run_is_the_plan_and_writes_nothing(home):
    words = ["base + 0.5*(a - base)", "base=base", "a=a"]
    assert run(home, "merge", *words, "-o", "never", "--dry-run") == run(home, "plan", *words)
    assert not (home / "never").exists()


def test_a_recipe_file_with_knobs(home):
    (home / "recipe.py").write_text('"""Half way."""\nskill = a - base\nbase + lam*skill  # lam is a knob\n')
    run(home, "merge", "recipe.py", "base=base", "a=a", "--set", "lam=1/2", "-o", "k")
    assert np.allclose(weight(home, "k"), (weight(home, "base") + weight(home, "a")) / 2, atol=1e-6)


def test_quiet_prints_nothing_and_the_rest_one_short_report(home):
    words = ["merge", "base + 0.1*(a - base)", "base=base", "a=a", "-o", "q", "--overwrite"]
    assert run(home, *words, "-q") == ""
    assert len(run(home, *words).splitlines()) == 2


def test_show_and_log_say_what_a_vector_is(home):
    shown = json.loads(run(home, "show", "tau", "--json"))
    assert (shown["kind"], shown["mass"], shown["recipe"]) == ("task vector", 0, "tuned - base")
    assert shown["base"] == json.loads(run(home, "show", "base", "--json"))["fingerprint"]
    assert "l.0.w  F32[6, 5]" in run(home, "show", "tau", "--tensors")
    assert run(home, "log", "tau").startswith("tau = tuned - base")


def test_check_lists_everything_and_exits_with_one(home):
    (home / "odd").mkdir(exist_ok=True)
    save_file({"l.0.w": np.zeros((6, 4), "f4"), "extra": np.zeros(1, "f4")}, home / "odd" / "model.safetensors")
    said = run(home, "check", "base", "odd", code=1)
    assert "l.0.w" in said and "extra" in said
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


def test_the_json_of_what_was_written_says_what_it_is_in_words(home):
    for recipe, kind, mass in (("a", "model", 1), ("a - base", "task vector", 0)):
        names = [f"{name}={name}" for name in ("a", "base") if name in recipe]
        found = json.loads(run(home, "merge", recipe, *names, "-o", "said", "--overwrite", "--json"))
        assert (found["kind"], found["mass"]) == (kind, mass)
    assert "--overwrite replaces it (in Python overwrite=True)" in run(home, "merge", "a", "a=a", "-o", "said", code=1)
