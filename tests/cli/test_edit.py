"""The verbs that write: each stands for a recipe, and says what it wrote."""

import json

import numpy as np
import pytest

from commands import run, weight


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


def test_the_json_of_what_was_written_says_what_it_is_in_words(home):
    for recipe, kind, mass in (("a", "model", 1), ("a - base", "task vector", 0)):
        names = [f"{name}={name}" for name in ("a", "base") if name in recipe]
        printed = json.loads(run(home, "merge", recipe, *names, "-o", "said", "--overwrite", "--json"))
        assert (printed["kind"], printed["mass"]) == (kind, mass)
    assert "--overwrite replaces it (in Python overwrite=True)" in run(home, "merge", "a", "a=a", "-o", "said", code=1)
