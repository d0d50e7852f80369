"""A task vector beside a base that is not the one it was made from: whether only the dtype differs is said."""

import re
import shlex

import ml_dtypes
import numpy as np
import pytest

import taskvec as tv
from conftest import model, tensors
from taskvec.algebra.bases import fingerprint_in
from taskvec.numbers.dtypes import LONG_NAMES

SHAPES = {f"model.layers.{k}.w": (40, 60) for k in range(3)} | {"model.norm.weight": (7,)}
KINDS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def stored(folder, seed, kind, through=None):
    """A model with zeros of both signs, its numbers rounded to `through` before."""
    content = tensors(seed, SHAPES) | {"model.norm.weight": np.array([0.0, -0.0, 1, -1, 1e-3, 3e-39, 6e4], np.float32)}
    content = {n: a.astype(KINDS[through or kind]).astype(KINDS[kind]) for n, a in content.items()}
    model(folder, content | {"ids": np.arange(5)})
    return tv.load(folder)


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_the_fingerprint_in_another_dtype_is_that_of_the_file_in_it(tmp_path, old, new):
    (source,) = stored(tmp_path / "old", 0, old).terms
    (other,) = stored(tmp_path / "new", 0, new, old).terms
    assert fingerprint_in(source, LONG_NAMES[new]) == other.fingerprint


@pytest.mark.parametrize(
    ("made", "met", "through"),
    [("bfloat16", "float32", None), ("float32", "bfloat16", "bfloat16"), ("float16", "float32", None)],
)
def test_a_base_in_another_dtype_is_told_with_a_line_that_makes_the_right_one(tmp_path, run, made, met, through):
    stored(tmp_path / "base", 0, made, through)
    stored(tmp_path / "tuned", 1, made, through)
    stored(tmp_path / "other", 0, met)
    assert run("diff", "tuned", "base", "-o", "tau").code == 0
    done = run("add", "other", "tau", "-o", "out")
    assert done.code == 1 and f'load("other") is that model in another dtype: as {made}' in done.stderr
    words = shlex.split(re.search(r"taskvec (merge .*)", done.stderr)[1])
    assert run(*words).code == 0 and run("add", words[-1], "tau", "-o", "out").code == 0


def test_another_model_is_not_called_the_same(tmp_path, run):
    for seed, name in enumerate(("base", "tuned")):
        stored(tmp_path / name, seed, "bfloat16")
    stored(tmp_path / "other", 2, "float32")
    stored(tmp_path / "rounded", 0, "bfloat16", "float16")
    assert run("diff", "tuned", "base", "-o", "tau").code == 0
    for name in ("other", "rounded", "tuned"):
        done = run("add", name, "tau", "-o", "out")
        assert done.code == 1 and "was made from the model" in done.stderr and "dtype" not in done.stderr
