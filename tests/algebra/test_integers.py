"""Tensors that cannot be summed: saved, read and loaded alike, and never those of one model in silence."""

import re

import numpy as np
import pytest
import torch

import taskvec as tv
from taskvec.errors import MismatchError


def model(name, number):
    rng = np.random.default_rng(number)
    return tv.from_arrays({"w": rng.standard_normal((3, 4)).astype("f4"), "n": np.array([number], np.int64)}, name)


A, B, C = model("a", 1), model("b", 2), model("c", 1)
APART = (
    "0.5*a + 0.5*b",
    "a + 0.5*(b - a)",
    "slerp(a, b)",
    "a + elect(a - b, a - c)",
    'rename(0.5*a + 0.5*b, {"w": "v"})',
)
ALIKE = {
    "0.5*a + 0.5*c": 1, "a + 0*b": 1, "b - b + a": 1, 'a + elect(drop(a, "n") - drop(b, "n"))': 1,
    'join(drop(0.5*a + 0.5*b, "n"), select(b, "n"))': 2, '0.5*a + 0.5*join(drop(b, "n"), select(a, "n"))': 1,
    "as_model(1.1*b)": 2,
}  # fmt: skip


def parsed(recipe):
    return tv.parse(
        recipe, **{name: w for name, w in (("a", A), ("b", B), ("c", C)) if re.search(rf"\b{name}\b", recipe)}
    )


def module(names):
    module = torch.nn.Module()
    for name in names:
        kind = torch.zeros(1, dtype=torch.int64) if name == "n" else torch.zeros(3, 4)
        module.register_buffer(name, kind)
    return module


@pytest.mark.parametrize("recipe", APART)
def test_what_differs_is_refused_wherever_it_is_used(recipe, tmp_path):
    weights = parsed(recipe)
    assert "n" in weights  # which computes nothing
    for use in (lambda: tv.save(weights, tmp_path / "out"), lambda: tv.load_into(module(weights), weights),
                lambda: weights["n"], lambda: dict(weights)):  # fmt: skip
        with pytest.raises(MismatchError, match=r"n \(I64\[1\]\) differs between a and b"):
            use()
    assert weights["w" if "w" in weights else "v"].shape == (3, 4)


@pytest.mark.parametrize("recipe", ALIKE)
def test_what_agrees_or_is_left_out_is_the_same_saved_read_and_loaded(recipe, tmp_path):
    weights = parsed(recipe)
    live = module(weights)
    tv.save(weights, tmp_path / "out")
    tv.load_into(live, weights)
    saved = tv.load(tmp_path / "out")
    for integers in (saved["n"], weights["n"], live.n.numpy()):
        assert integers.tolist() == [ALIKE[recipe]]


def test_the_way_out_that_the_error_names_works():
    with pytest.raises(MismatchError) as error:
        parsed("0.5*a + 0.5*b")["n"]
    proposal = re.search(r"- (join.*) in place of b", str(error.value))
    assert parsed(f"0.5*a + 0.5*{proposal[1]}")["n"].tolist() == [1]


def test_a_task_vector_does_without_them(tmp_path):
    tau = B - A
    tv.save(tau, tmp_path / "tau")
    tv.load_into(module(tau), tau)
    assert "n" not in tv.load(tmp_path / "tau") and tau["n"].shape == (1,)
