"""Expressions that nest deeply, or double in size, work or are refused with an error before any work is done."""

import time

import numpy as np
import pytest

import taskvec as tv
from taskvec.algebra.coefficients import DEEPEST as DEEPEST_COEFFICIENT
from taskvec.algebra.coefficients import knob, layers, per
from taskvec.algebra.derived import DEEPEST, MOST_CALLS
from taskvec.errors import RecipeError
from taskvec.recipes.recipe import parse


@pytest.fixture
def models():
    rng = np.random.default_rng(0)
    return {n: tv.from_arrays({"l.0.w": rng.standard_normal((3, 4)).astype("f4")}, name=n) for n in ("a", "base")}


def tower(lines, line, first="a - base", last="base + t{n}"):
    """t0 = first, then a line for each of t1, t2, ..., then the expression."""
    middle = [f"t{k} = " + line.format(t=f"t{k - 1}") for k in range(1, lines + 1)]
    return "\n".join([f"t0 = {first}", *middle, last.format(n=lines)])


CHAINS = {
    "methods": ("trim({t}, density=0.9)", "a - base", "base + t{n}"),
    "models": ("slerp({t}, base, t=0.5)", "a", "t{n}"),
    "views": ('select({t}, "*")', "a", "t{n} - t0 + base"),
    "both": ('trim({t} + select({t}, "*"), density=0.9)', "a - base", "base + t{n}"),
}


@pytest.mark.parametrize("name", ["methods", "models", "views"])
def test_calls_may_nest_as_deep_as_the_bound(name, models, tmp_path):
    """All that walks through them does so: text and back, knobs, plan, passes, values, lineage."""
    line, first, last = CHAINS[name]
    weights = parse(tower(DEEPEST, line, first, last), **models)
    again = parse(str(weights), **{n: w for n, w in models.items() if n in str(weights)})
    assert again == weights and hash(again) == hash(weights)
    assert np.isfinite(weights["l.0.w"]).all()
    saved = tv.save(weights, tmp_path / "out", durable=False)
    assert np.array_equal(tv.load(saved.path)["l.0.w"], weights["l.0.w"])


def test_knobs_deep_inside_are_bound(models):
    weights = parse(tower(DEEPEST, "trim({t}, density=d)"), **models)
    assert weights.bind(d=0.9) == parse(tower(DEEPEST, "trim({t}, density=0.9)"), **models)


@pytest.mark.parametrize("name", CHAINS)
def test_calls_that_nest_deeper_are_refused_in_words(name, models):
    line, first, last = CHAINS[name]
    with pytest.raises(RecipeError, match=r"at most \d+.*save a part of it.*line"):
        parse(tower(300, line, first, last), **models)


def test_calls_that_double_are_refused_before_they_are_written_out(models):
    began = time.process_time()
    with pytest.raises(RecipeError, match=f"at most {MOST_CALLS}"):
        parse(tower(40, "elect({t}, trim({t}, density=0.5))"), **models)
    assert time.process_time() - began < 10  # doubled without a bound it would be for ever


def test_a_call_that_is_shared_has_its_memory_once(models):
    def peak(lines):
        return tv.plan(parse(tower(lines, "elect({t}, trim({t}, density=0.5))"), **models), threads=1, ram="9GB").peak

    assert peak(7) - peak(4) < 3 * (10 << 20)  # three more calls of each; their text has eight times as many


@pytest.mark.parametrize(
    "deeper",
    [
        lambda c: 1 / (c + 1),
        lambda c: per({"*.w": c, "*": 0}),
        lambda c: layers(c, 1, outside=0),
        lambda c: 1 / per({"*": c + 1}),
    ],
)
def test_coefficients_nest_to_a_bound_and_are_refused_beyond(deeper, models):
    value, depth = knob("k") + 1, 0
    with pytest.raises(RecipeError, match=f"more than {DEEPEST_COEFFICIENT} deep"):
        while depth < 300:
            value, depth = deeper(value), depth + 1
    assert depth >= DEEPEST_COEFFICIENT // 2
    weights = value * models["a"]
    assert hash(weights) == hash(value * models["a"]) and weights == value * models["a"]
    bound = weights.bind(k=0.5)
    assert not bound.knobs and parse(str(bound), a=models["a"]).text() == bound.text()
    assert np.isfinite(bound["l.0.w"]).all()


def test_a_recipe_of_200_inverses_is_refused_with_its_line(models):
    text = "\n".join(["c0 = 1 + k", *(f"c{k} = 1/(c{k - 1} + 1)" for k in range(1, 200)), "a*c199 + base*(1 - c199)"])
    with pytest.raises(RecipeError, match=rf"{DEEPEST_COEFFICIENT} deep.*line"):
        parse(text, **models)


def test_the_deepest_expression_of_all_kinds_is_read_back(models, tmp_path):
    """Sums in calls in sums, and the deepest table of all in the innermost call."""
    density = "0.5"
    for _ in range(DEEPEST_COEFFICIENT):
        density = f'per({{"*.w": 0.1 + 0.5*{density}, "*": 1}})'
    innermost = f"trim(a - base, density={density})"
    text = tower(DEEPEST - 1, "trim(0.1*(a - base) + 0.9*{t}, density=0.9)", innermost, "base + 0.5*t{n}")
    weights = parse(text, **models)
    assert parse(str(weights), **models) == weights
    assert np.isfinite(weights["l.0.w"]).all()
    tv.save(weights, tmp_path / "out", durable=False)


def test_many_terms_and_many_sources_of_one_name_are_named_in_time(models):
    sources = [tv.from_arrays({"w": np.zeros(1, "f4")}, name="model") for _ in range(400)]
    total = sum(sources[1:], sources[0])
    assert len(set(total.names().values())) == len(sources)
