"""A call over expressions as a source: its text, its hash, what it is of, and how far calls may nest."""

from fractions import Fraction

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.coefficients import Coefficient, knob
from taskvec.algebra.derived import DEEPEST, MOST_CALLS, as_parameter, base_of, parameter_text, reads
from taskvec.errors import RecipeError

SHAPES = {"h.0.w": (3, 4), "norm": (4,)}


def model(name, seed, mass=1):
    rng = np.random.default_rng(seed)
    return tv.from_arrays({n: rng.standard_normal(s).astype("f4") for n, s in SHAPES.items()}, name, mass)


A, B, C = model("a", 0), model("b", 1), model("c", 2)


def call(weights):
    (call,) = weights.terms
    return call


def test_equal_calls_are_one_source_and_others_are_not():
    trim = call(tv.trim(B - A, density=0.5))
    same = call(tv.trim(B - A, density=Fraction(1, 2)))
    assert trim == same and hash(trim) == hash(same) and trim.fingerprint == same.fingerprint
    others = [tv.trim(B - A, density=0.4), tv.trim(C - A, density=0.5), tv.dare(B - A, drop=0.5)]
    assert len({trim, *map(call, others)}) == 4 and len({trim.fingerprint, *(call(o).fingerprint for o in others)}) == 4
    assert tv.trim(B - A, density=0.5) - tv.trim(B - A, density=0.5) == 0 * A - 0 * A


def test_parameters_that_have_their_default_are_not_written():
    assert call(tv.trim(B - A, density=0.5)).text == "trim(b - a, density=0.5)"
    dare = call(tv.dare(B - A, drop=0.25, seed=3))
    assert dare.text == "dare(b - a, drop=0.25, seed=3)" and "seed" not in call(tv.dare(B - A, drop=0.25, seed=0)).text
    sources = {next(iter(A.terms)): "base"}
    assert dare.written(sources) == "dare(b - base, drop=0.25, seed=3)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(Coefficient.of(0.5), "0.5"), ('a"b', '"a\\"b"'), ((), "()"), ((Coefficient.of(1),), "(1,)"),
     ((Coefficient.of(1), "x"), '(1, "x")'),
     ({"a.*": Coefficient.of(2), "*": knob("k")}, '{"a.*": 2, "*": k}'), ({}, "{}")],
    ids=str,
)  # fmt: skip
def test_a_parameter_is_written_as_a_recipe_reads_it(value, text):
    assert parameter_text(value) == text


def test_a_default_compares_with_what_was_given():
    assert as_parameter(0.5) == Coefficient.of(0.5) and as_parameter("x") == "x" and as_parameter(None) is None
    assert as_parameter((1, 0.5)) == (Coefficient.of(1), Coefficient.of(0.5))


def test_the_base_is_the_model_that_is_subtracted_or_that_of_the_vectors(tmp_path):
    a, b = (next(iter(w.terms)).fingerprint for w in (A, B))
    assert base_of(B - A) == base_of(2 * B - 2 * A) == a and base_of(A - B) == b
    assert base_of(2 * C - A - B) is None and base_of(A) is None and base_of(A + B) is None
    for name, w in (("x", B - A), ("y", C - A), ("z", C - B)):
        tv.save(w, tmp_path / f"{name}.safetensors", durable=False)
    x, y, z = (tv.load(tmp_path / f"{name}.safetensors") for name in "xyz")
    assert base_of(x + y) == a and base_of(x + z) is None
    assert call(tv.ties(x, y, density=0.5)).base == a and call(tv.ties(x, z, density=0.5)).base is None


def test_a_call_is_of_the_mass_and_the_files_of_its_arguments():
    ties = call(tv.ties(B - A, C - A, density=0.5))
    assert ties.mass == 0 and call(tv.slerp(A, B)).mass == 1
    assert [leaf.text for leaf in ties.leaves] == ["b", "a", "c"] and not ties.partial and ties.folder is None


def test_knobs_within_a_call_are_bound_there():
    w = tv.trim(knob("s") * (B - A), density=knob("d"))
    assert w.knobs == {"s", "d"} and str(w.bind(s=2, d=0.5)) == "trim(2*b - 2*a, density=0.5)"
    assert w.bind(d=0.5).knobs == {"s"}


def test_calls_within_calls_are_told_each_once():
    inner = tv.trim(B - A, density=0.5)
    outer = call(tv.dare(inner + tv.trim(C - A, density=0.5), drop=0.5))
    assert [c.name for c in outer.calls()] == ["dare", "trim", "trim"]
    twice = call(tv.elect(inner, 2 * inner))
    assert len(twice.calls()) == 2 and twice.nesting == 2 and twice.in_text == 3


def test_a_stamp_is_that_of_the_call_and_of_all_that_it_reads():
    content = {n: np.ones(s, "f4") for n, s in SHAPES.items()}
    made = call(tv.trim(tv.from_arrays(content, "x") - A, density=0.5))
    before = made.stamp()
    assert before == made.stamp() and before != call(tv.trim(B - A, density=0.5)).stamp()
    content["norm"][0] = 2
    assert made.stamp() != before
    with pytest.raises(tv.TaskvecError, match="an array in memory changed"):
        made.require_unchanged()


def test_calls_nest_to_a_bound_and_are_counted_as_they_are_written():
    deep = B - A
    for _ in range(DEEPEST):
        deep = tv.trim(deep, density=0.5)
    with pytest.raises(
        RecipeError, match=rf"stand within one another {DEEPEST + 1} deep \(at most {DEEPEST}\), the last is"
    ):
        tv.trim(deep, density=0.5)
    wide = B - A
    with pytest.raises(RecipeError, match=rf"times in the expression when it is written out \(at most {MOST_CALLS}\)"):
        for _ in range(DEEPEST):
            wide = tv.elect(wide, 2 * wide)


def test_a_sum_reads_its_files_once_and_a_call_once_more_for_each_pass():
    size = 4 * 12
    assert reads(A + B - C, "h.0.w") == 3 * size and reads(A - A, "h.0.w") == 0
    trim = tv.trim(B - A, density=0.5)
    assert call(trim).passes == 1 and reads(trim, "h.0.w") == 2 * 2 * size
    assert reads(A + trim, "h.0.w") == 5 * size
    assert call(tv.trim(trim, density=0.5)).passes == 2
