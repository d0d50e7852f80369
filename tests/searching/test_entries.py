"""Each line of a journal is checked before it is used, and an error names the lines that are wrong."""

import pytest

from taskvec.errors import FormatError
from taskvec.searching.entries import judged_before, require_fitting, require_sound, unlike

ABOUT = {"knobs": {"lam": "0, 1"}}


def trial(number, **more):
    return {"trial": number, "knobs": {"lam": 0.5}, "seconds": 1} | more


BASE = {"reference": "base", "split": "validation", "scores": {"a": [1, 0], "b": 3.0}}
TEST = {"test": {"lam": 0.5}, "scores": {"a": [1, 1, 0], "b": 2.0}}


def test_lines_that_a_search_writes_are_sound_and_fit():
    lines = [BASE, trial(0, scores={"a": [0, 1], "b": 1.0}), TEST]
    require_sound(lines, "search", "j", 2)
    require_fitting(ABOUT, lines, "j")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ({"hello": 1}, "line 7: .* says nothing that is known"),
        (trial(-1, scores={"a": 1}), "line 7: trial is -1, not a whole number"),
        ({"trial": 0, "scores": {"a": 1}}, "line 7: knobs is missing"),
        (trial(0), "line 7: a trial has scores of all examples, or of a part of them"),
        (trial(0, scores={"a": 1}, partial={"a": [1]}), "line 7: a trial has scores of all examples, or of a part"),
        (trial(0, scores={"a": []}), "line 7: scores is .*, not a number or a list of numbers for each metric"),
        (trial(0, scores={"a": [float("inf")]}), "line 7: scores is"),
        ({**BASE, "split": "train"}, "line 7: split is 'train', not validation or test"),
    ],
)
def test_a_line_that_no_search_writes_is_told_with_its_number(line, what):
    with pytest.raises(FormatError, match=f"j: no search writes this:\n  - {what}"):
        require_sound([BASE, line], "search", "j", 6)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (trial(0, knobs={"mu": 1.0}, scores=BASE["scores"]), "does not have a number for each knob"),
        (trial(0, scores={"a": [1], "b": 1.0}), "a: 1 examples, 2 examples before"),
        (trial(0, scores={"a": [1, 0]}), "b: no metric, a single number before"),
        (trial(0, partial={"a": [1, 0, 1], "b": 1.0}), "a: these cannot be the scores of a part of the examples"),
        (trial(0, scores=BASE["scores"], seeds={"c": [1, 2]}), "seeds of metrics that no model was judged by: c"),
    ],
)
def test_a_line_that_does_not_go_with_the_others_is_told_with_its_number(line, what):
    with pytest.raises(FormatError, match=f"line 3: .*{what}"):
        require_fitting(ABOUT, [BASE, line], "j")


def test_the_first_model_of_a_split_says_by_which_examples_all_are_judged():
    lines = [{"claim": 0}, BASE, trial(0, scores={"a": [0, 0], "b": 0.0}), TEST]
    assert judged_before(lines, "validation") == BASE["scores"] and judged_before(lines, "test") == TEST["scores"]
    assert judged_before(lines[:1], "validation") == judged_before(lines[:3], "test") == {}


def test_what_differs_between_two_models_is_said_in_words():
    assert unlike({"a": [1, 2], "b": 1.0}, {"a": [3, 4], "b": 0.0}) == []
    assert unlike({"a": [1, 2], "b": 1.0}, {"a": [1], "c": 1.0}) == [
        "a: 1 examples, 2 examples before", "b: no metric, a single number before",
        "c: a single number, no metric before",
    ]  # fmt: skip
