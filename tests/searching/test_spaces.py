"""Which values a knob may have, and which are tried next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvec.errors import RecipeError
from taskvec.searching.spaces import Space, propose, total
from taskvec.searching.trial import Trial


def test_the_paper_s_grid_has_21_points_and_ends_in_one():
    space = Space.of("0:1:0.05", "lam")
    assert space.values == tuple(round(0.05 * k, 2) for k in range(21)) and space.values[-1] == 1
    assert space == Space.of((0, 1, 0.05), "lam")


@given(st.integers(-50, 50), st.integers(0, 60), st.integers(1, 30))
def test_a_step_is_exact_in_decimals(low, width, step):
    first, last, by = low / 100, (low + width) / 100, step / 100
    assert Space.of((first, last, by), "k").values == tuple((low + step * k) / 100 for k in range(width // step + 1))


@pytest.mark.parametrize(
    ("given", "low", "high", "values"),
    [
        ("-1:2", -1, 2, ()),
        ((0, 1), 0, 1, ()),
        ([0.3, 0.1, 0.3], 0.1, 0.3, (0.3, 0.1)),
        ("0.1, 0.4", 0.1, 0.4, (0.1, 0.4)),
        (0.3, 0.3, 0.3, (0.3,)),
        ("0.5:0.5", 0.5, 0.5, (0.5,)),
        ("0:1:0.3", 0, 1, (0, 0.3, 0.6, 0.9)),
    ],
)
def test_ranges_lists_and_texts(given, low, high, values):
    space = Space.of(given, "k")
    assert (space.low, space.high, space.values) == (low, high, values)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("1:0", "low not above high"),
        ("0:1:0", "step 0 is not positive"),
        ("0:1:-0.1", "not positive"),
        ("0:1:0.1:3", "low:high:step"),
        ("a:b", "'a' is not a number"),
        ("", "no values"),
        ([], "no values"),
        ("nan", "no value to try"),
        ((0, float("inf")), "no value to try"),
        ("0:1:1e-9", "more than 1000000"),
        ([None], "None is not a number"),
    ],
)
def test_what_is_no_space_is_refused(given, what):
    with pytest.raises(RecipeError, match=what):
        Space.of(given, "lam")


def tried(number, knobs, good, memo, breach=0.0):
    return Trial(number, knobs, {}, 0.0, (good,), {"bound": breach} if breach else {}, memo)


def spaces(**given):
    return {name: Space.of(value, name) for name, value in given.items()}


def test_a_grid_is_all_points_in_order():
    there = spaces(a="0:1:0.5", b=[3, 1])
    assert total(there, "grid", None) == 6
    points = [propose(there, "grid", 0, k, [])[0] for k in range(6)]
    assert points == [{"a": a, "b": b} for a in (0, 0.5, 1) for b in (3, 1)]
    assert total(there, "grid", 4) == 4 and total(there, "grid", 99) == 6


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_a_proposal_depends_on_seed_number_and_history_alone(sampler):
    if sampler != "random":
        pytest.importorskip("optuna")
    there = spaces(a="0:1", b="-1:1")
    past = []
    for k in range(12):
        knobs, memo = propose(there, sampler, 3, k, past)
        assert (knobs, memo) == propose(there, sampler, 3, k, past[::-1])
        assert all(there[n].low <= v <= there[n].high for n, v in knobs.items())
        past.append(tried(k, knobs, -((knobs["a"] - 0.3) ** 2) - knobs["b"] ** 2, memo))
    assert len({tuple(t.knobs.values()) for t in past}) == 12
    assert propose(there, sampler, 4, 0, []) != propose(there, sampler, 3, 0, [])


@pytest.mark.parametrize(("sampler", "near"), [("tpe", 0.15), ("cmaes", 0.05)])
def test_samplers_find_a_bowl_s_bottom(sampler, near):
    pytest.importorskip("optuna")
    there, past = spaces(a="0:2", b="-1:1"), []
    for k in range(60):
        knobs, memo = propose(there, sampler, 0, k, past)
        past.append(tried(k, knobs, -((knobs["a"] - 1.7) ** 2) - (knobs["b"] + 0.6) ** 2, memo))
    best = max(past, key=lambda t: t.goods)
    assert best.goods[0] > -(near**2)


def test_tpe_keeps_to_the_steps_and_heeds_constraints():
    pytest.importorskip("optuna")
    there, past = spaces(a="0:1:0.1", kind=[5, 1, 3]), []
    for k in range(40):
        knobs, memo = propose(there, "tpe", 0, k, past)
        assert knobs["a"] in there["a"].values and knobs["kind"] in there["kind"].values
        past.append(tried(k, knobs, knobs["a"], memo, max(0.0, knobs["a"] - 0.5)))
    late = [t.knobs["a"] for t in past[20:]]
    assert sum(a <= 0.5 for a in late) > len(late) / 2


@pytest.mark.parametrize(
    ("given", "sampler", "trials", "what"),
    [
        ({"a": "0:1"}, "grid", None, "a grid needs a step: a is 0 to 1"),
        ({"a": "0:1"}, "random", None, "say how many trials"),
        ({"a": "0:1"}, "grad", 3, "no sampler is called grad"),
        ({"a": "0:1:0.1"}, "grid", 0, "at least 1"),
        ({}, "grid", None, "no knobs"),
        (dict.fromkeys("abcd", "0:1:0.01"), "grid", None, "more than 1000000"),
    ],
)
def test_what_cannot_be_searched_is_stated(given, sampler, trials, what):
    with pytest.raises(RecipeError, match=what):
        total(spaces(**given), sampler, trials)


def test_cmaes_needs_ranges():
    pytest.importorskip("optuna")
    with pytest.raises(RecipeError, match="cmaes needs ranges without a step: b"):
        propose(spaces(a="0:1", b="0:1:0.1"), "cmaes", 0, 0, [])


@pytest.mark.parametrize("count", [1, 2, 5, 21, 121])
def test_scattered_places_are_all_of_them_far_apart_ones_first(count):
    from taskvec.searching.spaces import scattered

    places = scattered(count)
    assert sorted(places) == list(range(count)) and places[0] == 0
    assert count < 5 or count // 3 < places[1] < count
