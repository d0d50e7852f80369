"""Scores are read in one form, whatever an evaluator returns, and what are no scores is refused."""

import numpy as np
import pytest

from taskvec.errors import NonFiniteError, TaskvecError
from taskvec.evals import as_evaluator
from taskvec.evals.evaluator import checked, means


@pytest.mark.parametrize(
    ("scores", "kind", "what"),
    [
        (None, TaskvecError, "must return metrics"),
        ({}, TaskvecError, "must return metrics"),
        ([1, 2], TaskvecError, "must return metrics"),
        ({"a": "high"}, TaskvecError, "a: 'high' is no number"),
        ({"a": 10**400}, TaskvecError, "a: 1000.* is no number"),
        ({"a": [1, 10**400]}, TaskvecError, "a: .1, 1000.* is no number"),
        ({"a": [[1, 2]]}, TaskvecError, "a: \\[1, 2\\] numbers"),
        ({"a": []}, TaskvecError, "a: \\[0\\] numbers"),
        ({"a": [1, None]}, TaskvecError, "a: "),
        ({"a": [1, np.nan, np.inf], "b": 1}, NonFiniteError, "a: 2 of 3 numbers"),
        ({"a": float("nan")}, NonFiniteError, "a: 1 of 1"),
    ],
)
def test_what_is_no_metric_is_stated(scores, kind, what):
    with pytest.raises(kind, match=what):
        checked(scores, "tasks.py:f")


def test_arrays_lists_tensors_and_booleans_are_numbers():
    torch = pytest.importorskip("torch")
    scores = checked(
        {"a": torch.tensor([True, False]), "b": np.float32(0.5), "c": [True, 1], "d": torch.tensor(2)}, "f"
    )
    assert scores == {"a": [1, 0], "b": 0.5, "c": [1, 1], "d": 2}


def test_whole_numbers_of_lists_are_written_short_and_means_are_finite():
    assert repr(checked({"a": [1.0, 0.5], "b": 2}, "f")) == "{'a': [1, 0.5], 'b': 2.0}"
    assert means({"a": [1, 0], "b": 3.0, "huge": [1.7e308, 1.7e308]}) == {"a": 0.5, "b": 3, "huge": 1.7e308}


def test_what_an_evaluator_does_not_offer_is_none_or_empty():
    plain = as_evaluator(lambda weights, split: {"a": 1})
    assert plain.examples("test") is plain.part(0, 1) is plain.predictions(None, "test", ["a"]) is None
    assert not plain.shuffled and not plain.falling and plain(None, "test") == {"a": 1}


def test_a_part_is_called_as_the_whole_and_predictions_have_all_metrics():
    def judge(weights, split):
        return {"a": [1.0, 0.0]}

    judge.part = lambda start, stop: lambda weights, split: {"a": [start, stop]}
    judge.predictions = lambda weights, split: {"a": [3, 4]}
    evaluator = as_evaluator(judge)
    assert evaluator.part(0.25, 0.5).text == evaluator.text and evaluator.part(0.25, 0.5)(None, "test") == {
        "a": [0.25, 0.5]
    }
    assert evaluator.predictions(None, "test", ["a"])["a"].tolist() == [3, 4]
    with pytest.raises(TaskvecError, match="has no predictions for b"):
        evaluator.predictions(None, "test", ["a", "b"])
    judge.part = lambda start, stop: None
    assert as_evaluator(judge).part(0, 1) is None


@pytest.mark.parametrize("ability", ["examples", "part", "predictions"])
def test_an_ability_that_fails_says_where(ability):
    def judge(weights, split):
        return {"a": 1}

    setattr(judge, ability, lambda *args: 1 / 0)
    ask = {"examples": ("test",), "part": (0, 1), "predictions": (None, "test", ["a"])}[ability]
    with pytest.raises(TaskvecError, match=r"judge failed: ZeroDivisionError: .*\(test_evaluator.py, line \d+\)"):
        getattr(as_evaluator(judge), ability)(*ask)


def test_falling_names_metrics_that_there_are():
    def judge(weights, split):
        return {"ppl": 3.0, "hits": [1, 0]}

    judge.falling = "ppl"
    assert as_evaluator(judge)(None, "test")["ppl"] == 3
    judge.falling = ["ppl", "perplexity"]
    with pytest.raises(TaskvecError, match="judge: falling names perplexity, and the metrics are ppl, hits"):
        as_evaluator(judge)(None, "test")
