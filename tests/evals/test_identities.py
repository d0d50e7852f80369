"""No test example may be used for validation, and what cannot be checked is said."""

import pytest

from searching.near import GRID, ONE, Near
from taskvec.errors import MismatchError, TaskvecError
from taskvec.evals import as_evaluator, require_apart
from taskvec.report.page import page
from taskvec.searching.records import read_record
from taskvec.searching.search import search


def test_test_examples_among_those_of_validation_are_refused_before_anything_runs():
    evaluate = Near(apart=False)
    with pytest.raises(MismatchError, match="test examples are among the validation examples") as error:
        search(ONE, evaluate, GRID)
    assert error.value.problems == ("a: 80 of 400", "b: 50 of 300") and not evaluate.calls


@pytest.mark.parametrize("told", [79, 81])
def test_fewer_identities_than_scores_are_refused_before_candidates_are_measured(told):
    evaluate = Near()
    evaluate.examples = lambda split: {**Near().examples(split), "a": [f"{split}{k}" for k in range(told)]}
    with pytest.raises(MismatchError, match="an identity for each example") as error:
        search(ONE, evaluate, GRID)
    assert error.value.problems == (f"a: {told} identities, 80 scores",) and len(evaluate.calls) == 1


def test_fewer_identities_than_test_scores_are_noted_everywhere(tmp_path):
    evaluate = Near()
    evaluate.examples = lambda split: {**Near().examples(split), "a": [f"{split}{k}" for k in range(80)]}
    result = search(ONE, evaluate, GRID, journal=tmp_path / "j")
    told = "test examples that are not told may be among those of validation; a: 80 identities, 400 scores"
    assert told in result.notes and told in result.as_dict()["notes"] and told in str(result)
    assert told in page({"j": read_record(tmp_path / "j")})


def test_a_metric_without_identities_is_noted():
    evaluate = Near()
    evaluate.examples = lambda split: {"a": Near().examples(split)["a"]}
    (note,) = search(ONE, evaluate, GRID, test=False).notes
    assert (
        note == "b, control: that validation and test examples differ is not checked, since its examples are not told"
    )
    (note,) = search(ONE, Near(), GRID, test=False).notes
    assert note.startswith("control: ")


@pytest.mark.parametrize("told", [["a0"], {"a": "a0"}, {"a": 3}, {"a": [["x"]]}, 7])
def test_what_are_no_identities_is_stated(told):
    evaluate = Near()
    evaluate.examples = lambda split: told
    with pytest.raises(TaskvecError, match="a list of identities for each metric"):
        search(ONE, evaluate, GRID)


def test_an_evaluator_that_tells_no_examples_is_noted():
    evaluate = Near()
    evaluate.examples = lambda split: None
    (note,) = search(ONE, evaluate, GRID, test=False).notes
    assert "does not tell its examples" in note


def evaluator(**by_split):
    def judge(weights, split):
        return {"a": [1.0] * len(by_split[split])}

    judge.examples = lambda split: {"a": by_split[split]}
    return as_evaluator(judge)


def test_an_example_of_several_documents_is_shared_where_one_of_them_is():
    one, two, three = frozenset({"x", "y"}), frozenset({"z"}), frozenset({"y", "q"})
    require_apart(evaluator(validation=[one], test=[two, "q"]))
    with pytest.raises(MismatchError) as error:
        require_apart(evaluator(validation=[one], test=[two, three]))
    assert error.value.problems == ("a: 1 of 2",)
    with pytest.raises(MismatchError):
        require_apart(evaluator(validation=["z"], test=[two]))


def test_what_is_told_of_each_split_is_counted_against_its_scores():
    told = require_apart(evaluator(validation=["v0", "v1"], test=["t0"]))
    told.require_all({"a": [1, 0], "n": 2.0}, "validation")
    with pytest.raises(MismatchError, match="a: 2 identities, 3 scores"):
        told.require_all({"a": [1, 0, 1]}, "validation")
    assert told.notes({"validation": {"a": [1, 0]}, "test": {"a": [1]}}) == []
    (note,) = told.notes({"validation": {"a": [1, 0]}, "test": {"a": [1, 1]}})
    assert note.endswith("a: 1 identities, 2 scores")
