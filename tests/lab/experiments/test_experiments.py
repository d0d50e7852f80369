"""The list of experiments, and the settings that a suite may give them."""

from dataclasses import replace

import pytest

from taskvec.errors import RecipeError
from taskvec.lab.experiments import EXPERIMENTS, planned


def names(work):
    return [experiment.name for experiment, _ in work]


def test_without_names_all_that_are_not_long_are_planned_and_else_each_once_in_the_order_given(finished):
    assert names(planned([], finished.suite)) == [e.name for e in EXPERIMENTS if e.name != "methods"]
    assert names(planned(["methods"], finished.suite)) == ["methods"]


def test_without_names_an_experiment_for_which_a_suite_says_nothing_is_left_out_if_it_has_nothing_to_do(finished):
    bare = replace(finished.suite, experiments={})
    assert names(planned([], bare)) == ["negation", "addition", "discussion", "sequential"]
    with pytest.raises(RecipeError, match="analogies: the suite names neither"):
        planned(["analogies"], bare)
    assert names(planned(["addition", "negation", "addition"], finished.suite)) == ["addition", "negation"]


def test_settings_are_those_of_the_suite_and_else_the_defaults(finished):
    ((_, settings),) = planned(["negation"], finished.suite)
    assert (settings.grid, settings.keep, settings.ascent) == ("0:1:0.25", 0.95, True)
    ((experiment, settings),) = planned(["negation"], replace(finished.suite, experiments={}))
    assert settings == experiment.settings()


def test_everything_that_is_wrong_is_told_at_once(finished):
    suite = replace(finished.suite, experiments={"negatoin": {}, "addition": {"gird": "0:1:1", "joint": "yes"}})
    known = ", ".join(e.name for e in EXPERIMENTS)
    with pytest.raises(RecipeError, match=rf"cannot be run \(there is {known}\)") as error:
        planned(["adition"], suite)
    text = str(error.value)
    for problem in (
        "no experiment is called adition (did you mean addition?)",
        f"{suite.path}: no experiment is called negatoin (did you mean negation?)",
        f"{suite.path}, addition: no key gird (did you mean grid?)",
        f"{suite.path}, addition: joint is a whole number, not 'yes'",
    ):
        assert problem in text


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_experiment_says_what_was_asked_done_and_found(finished, experiment):
    (findings,) = [f for f in finished.result.findings if f.experiment == experiment.name]
    assert findings.question == experiment.question and experiment.question.endswith("?")
    assert findings.protocol and findings.tables and findings.claims
    assert all(len(row) == len(table.columns) for table in findings.tables for row in table.rows)
    assert all({*table.plain} <= {*table.columns} for table in findings.tables)
    assert all(claim.claim and claim.paper and claim.here and claim.verdict for claim in findings.claims)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_experiment_says_that_few_seeds_have_no_interval(finished, bench, experiment, tmp_path):
    from taskvec.lab.bench import Bench

    one = Bench(finished.suite, [0], tmp_path, finished.cache)
    ((_, settings),) = planned([experiment.name], finished.suite)
    findings = experiment.run(one, settings)
    assert "1 seed of fine-tuning: an interval over seeds needs 3." in findings.limits
    assert one.vectors.trained == []
