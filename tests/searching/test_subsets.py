"""Sums that are built term by term: greedy soup and forward selection, compared with plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import taskvec as tv
from taskvec.errors import RecipeError
from taskvec.searching.search import search
from taskvec.searching.spaces import Space, total

POINTS = np.array([[1.0, 0.0], [0.6, 0.5], [-0.8, 0.1], [0.1, 0.9]], np.float32)
NAMES = ("a", "b", "c", "d")
MODELS = {name: tv.from_arrays({"w": point}, name) for name, point in zip(NAMES, POINTS, strict=True)}
SOUP = tv.parse("(wa*a + wb*b + wc*c + wd*d)/(wa + wb + wc + wd)", **MODELS)
ZERO = tv.from_arrays({"w": np.zeros(2, np.float32)}, "base")
SUM = tv.parse("base + " + " + ".join(f"w{n}*({n} - base)" for n in NAMES), base=ZERO, **MODELS)
KNOBS = {f"w{name}": [0, 1] for name in NAMES}


def judged(target):
    """An evaluator whose score is the higher the nearer the weights are to a target."""

    def judge(weights, split):
        return {"near": -float(np.linalg.norm(weights["w"] - np.float32(target)))}

    return judge


def value(target, subset, mean=True):
    point = POINTS[list(subset)].mean(0) if mean else POINTS[list(subset)].sum(0) if subset else np.zeros(2)
    return -float(np.linalg.norm(point.astype(np.float32) - np.float32(target)))


def taken(knobs):
    return {k for k, name in enumerate(NAMES) if knobs[f"w{name}"]}


targets = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda t: np.float32(t).round(3))


@settings(deadline=None)
@given(targets)
def test_a_greedy_soup_is_that_of_the_paper(target):
    order = sorted(range(4), key=lambda k: value(target, [k]), reverse=True)
    soup = [order[0]]
    for k in order[1:]:
        if value(target, [*soup, k]) > value(target, soup):
            soup.append(k)
    result = search(SOUP, judged(target), KNOBS, objective="near", sampler="greedy", test=False)
    assert len(result.trials) == 7
    assert result.chosen.goodness == pytest.approx(value(target, soup), abs=1e-6)
    assert taken(result.chosen.knobs) == set(soup) or result.chosen.goodness >= value(target, soup) - 1e-6


@settings(deadline=None)
@given(targets)
def test_forward_selection_takes_the_best_vector_of_each_round_and_ends_when_none_helps(target):
    chosen = []
    while len(chosen) < 4:
        best = max((k for k in range(4) if k not in chosen), key=lambda k: value(target, [*chosen, k], mean=False))
        if value(target, [*chosen, best], mean=False) <= value(target, chosen, mean=False):
            break
        chosen.append(best)
    result = search(SUM, judged(target), KNOBS, objective="near", sampler="forward", test=False)
    assert taken(result.chosen.knobs) == set(chosen)
    assert len(result.trials) <= total({k: Space.of(v, k) for k, v in KNOBS.items()}, "forward", None) == 11


def test_forward_selection_may_choose_among_several_values():
    result = search(
        SUM, judged([0.5, 0]), {**KNOBS, "wa": [0, 0.25, 0.5, 1]}, objective="near", sampler="forward", test=False
    )
    assert result.chosen.knobs == {"wa": 0.5, "wb": 0, "wc": 0, "wd": 0}


def test_a_term_that_breaks_a_constraint_is_left_out():
    def judge(weights, split):
        return judged([1, 1])(weights, split) | {"first": float(weights["w"][0])}

    result = search(
        SUM, judge, KNOBS, objective="near", sampler="forward", constraints=["first <= base.first + 0.7"], test=False
    )
    assert taken(result.chosen.knobs) == {1} or result.chosen.metrics["first"] <= 0.7


def test_killed_and_called_again_a_greedy_soup_ends_the_same(tmp_path):
    target, calls = np.float32([0.7, 0.4]), []

    def mortal(weights, split):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return judged(target)(weights, split)

    options = {"objective": "near", "sampler": "greedy", "test": False}
    with pytest.raises(KeyboardInterrupt):
        search(SOUP, mortal, KNOBS, journal=tmp_path / "j", **options)
    again = search(SOUP, mortal, KNOBS, journal=tmp_path / "j", **options)
    uninterrupted = search(SOUP, judged(target), KNOBS, **options)
    assert again.chosen.knobs == uninterrupted.chosen.knobs and len(calls) == 5 + 8 - 4
    assert search(SOUP, mortal, KNOBS, journal=tmp_path / "j", **options).trials == again.trials  # nothing more is run


@pytest.mark.parametrize(
    ("sampler", "knobs", "what"),
    [
        ("greedy", {"wa": [1, 2]}, "each knob needs the value 0 and another one"),
        ("greedy", {"wa": [0, 1, 2]}, "one value beside 0"),
        ("forward", {"wa": (0, 1)}, "each knob needs the value 0 and another one"),
    ],
)
def test_knobs_that_are_no_terms_are_refused(sampler, knobs, what):
    with pytest.raises(RecipeError, match=what):
        total({k: Space.of(v, k) for k, v in knobs.items()}, sampler, None)
