"""Tables that people write in files: every mistake is one sentence, and all of them are told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from taskvec.places.fields import fits, fits_throughout, keys_of, problems_of, required_keys, unknown, wanted


@dataclass
class House:
    name: str
    rooms: int
    height: float = 2.5
    lit: bool = False
    age: int | None = None
    tenants: Sequence[str] = ()
    plan: Mapping[str, Sequence[float]] = field(default_factory=dict)
    number: int = field(default=0, init=False)


GOOD = {"name": "a", "rooms": 3, "height": 3, "lit": True, "age": None, "tenants": ["b"], "plan": {"hall": [1, 2.5]}}


def test_a_table_that_fits_has_no_problems():
    assert problems_of(GOOD, House, "house") == problems_of({"name": "", "rooms": 0}, House, "house") == []


def test_every_problem_is_told_at_once():
    assert problems_of({"rooms": 2.5, "hieght": 3, "tenants": "bob"}, House, "house") == [
        "house: no key hieght (did you mean height?)",
        "house: name is missing",
        "house: rooms is a whole number, not 2.5",
        "house: tenants is a list of texts, not 'bob'",
    ]


def test_the_keys_are_the_fields_that_can_be_given():
    assert "number" not in keys_of(House) and [*keys_of(House)][:3] == ["name", "rooms", "height"]
    assert required_keys(House) == ["name", "rooms"]


def test_an_unknown_key_that_is_like_no_other_is_told_with_all_that_there_are():
    assert unknown("zzz", ["b", "a"], "here") == "here: no key zzz; there is a, b"
    assert unknown(3, ["31"], "here") == "here: no key 3 (did you mean 31?)"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (str, ["", "a"], [1, None, ["a"]]),
        (bool, [True, False], [0, "yes", None]),
        (int, [0, -3], [1.0, True, "1", None]),
        (float, [1, 0.5], [True, float("nan"), float("inf"), "1", None]),
        (int | None, [None, 1], [1.5, False]),
        (float | None, [None, 1.5], ["x", float("nan")]),
        (Sequence[str], [[], ["a"]], ["a", [1], [None], {"a": "b"}]),
        (Sequence[float], [[1, 2.5]], [["a"], 1.0, [True]]),
        (Mapping[str, str], [{}, {"a": "b"}, {1: "b"}], [[], {"a": 1}, "a"]),
        (Mapping[str, Sequence[str]], [{"a": ["b"]}], [{"a": "b"}, {"a": [1]}]),
        (Mapping[str, Any], [{"a": object()}], [[], None]),
        (Any, [None, 1, "a"], []),
    ],
)
def test_a_value_is_of_a_type_with_everything_in_it(kind, good, bad):
    assert all(fits(value, kind) and fits_throughout(value, kind) for value in good)
    assert not [value for value in bad if fits_throughout(value, kind)]


def test_a_list_alone_is_not_looked_into():
    assert fits([1], Sequence[str]) and fits({"a": 1}, Mapping[str, str])
    assert not fits("a", Sequence[str]) and not fits(["a"], Mapping[str, str])


@pytest.mark.parametrize(
    ("kind", "words"),
    [(str, "a text"), (bool, "true or false"), (int | None, "a whole number"), (Sequence[float], "a list of numbers"),
     (Mapping[str, Any], "a table"), (Mapping[str, Sequence[str]], "a table of lists of texts"), (Any, "anything")],
)  # fmt: skip
def test_a_type_has_words(kind, words):
    assert wanted(kind) == words


def test_a_long_value_is_shortened_in_the_sentence():
    (problem,) = problems_of({"name": ["x" * 500], "rooms": 1}, House, "house")
    assert len(problem) < 120
