"""Analogies: which vectors predict which, what they are compared with, and both questions of the review."""

from dataclasses import replace
from statistics import mean

import pytest

from taskvec.errors import RecipeError
from taskvec.lab.experiments.analogies import (
    AUXILIARY,
    BASE,
    MODELS,
    ONE,
    OWN,
    SEVERAL,
    SINGLE,
    SUM,
    Settings,
    _domains,
    _quadrants,
    run,
)  # fmt: skip

QUADRANT = ["films_good", "films_bad", "meals_good", "meals_bad"]
DOMAINS = Settings(domains=["films", "meals"], objectives=["masked"], grid="0:1:0.5", several_grid="0:1:0.5")


@pytest.fixture(scope="module")
def findings(finished):
    return finished.result.findings[2]


def table_of(findings, title):
    (table,) = [table for table in findings.tables if title in table.title]
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def accuracy(bench, model, task, split="test"):
    return mean(bench.scores(model, [task], split)[task])


def best(bench, direction, task, grid=(0, 0.5, 1)):
    """(validation accuracy, model) of the smallest best λ."""
    models = {lam: bench.base + lam * direction for lam in grid}
    lam = max(grid, key=lambda lam: (accuracy(bench, models[lam], task, "validation"), -lam))
    return accuracy(bench, models[lam], task, "validation"), models[lam]


def test_a_domain_is_predicted_from_the_other_s_labels_and_the_difference_of_their_texts(bench):
    settings = _domains(bench, DOMAINS)
    assert {(s.target, s.terms) for s in settings} == {
        ("meals", (("films", "labels", 1), ("meals", "masked", 1), ("films", "masked", -1))),
        ("films", (("meals", "labels", 1), ("films", "masked", 1), ("meals", "masked", -1))),
    }


def test_of_four_subpopulations_each_is_predicted_from_the_three_others(bench):
    settings = _quadrants(bench, Settings(quadrants={"moods": QUADRANT}))
    told = {s.target: {task: sign for task, _, sign in s.terms} for s in settings}
    assert told == {
        "meals_bad": {"meals_good": 1, "films_bad": 1, "films_good": -1},
        "meals_good": {"meals_bad": 1, "films_good": 1, "films_bad": -1},
        "films_bad": {"films_good": 1, "meals_bad": 1, "meals_good": -1},
        "films_good": {"films_bad": 1, "meals_good": 1, "meals_bad": -1},
    }


def test_the_analogy_and_all_that_it_is_compared_with_are_chosen_on_validation_examples(findings, bench):
    table = table_of(findings, "domains, masked")["films to meals"]
    for seed in bench.seeds:
        label, target, source = (
            bench.vector("films", seed), bench.vector("meals", seed, "masked"), bench.vector("films", seed, "masked")
        )  # fmt: skip
        wanted = {
            BASE: bench.base,
            AUXILIARY: bench.base + label,
            SINGLE: max((best(bench, v, "meals") for v in (label, target, source)), key=lambda pair: pair[0])[1],
            SUM: best(bench, label + target + source, "meals")[1],
            ONE: best(bench, label + target - source, "meals")[1],
            OWN: bench.base + bench.vector("meals", seed),
        }
        for model, weights in wanted.items():
            assert table[model].values[seed] == pytest.approx(accuracy(bench, weights, "meals")), model


def test_several_coefficients_are_at_least_as_good_on_validation_examples_as_one(finished, bench):
    """The grid of several coefficients contains that of one."""
    for settings in (_domains(bench, DOMAINS), _quadrants(bench, Settings(quadrants={"moods": QUADRANT}))):
        from taskvec.lab.experiments.analogies import _models

        models = _models(bench, DOMAINS, settings[0], 0)
        validated = {m: accuracy(bench, models[m], settings[0].target, "validation") for m in (ONE, SEVERAL)}
        assert validated[SEVERAL] >= validated[ONE]


def test_all_settings_are_reported_and_their_mean_is_the_first_row(findings):
    assert [table.title for table in findings.tables] == [
        "Analogies: sentiment across domains, contrastive", "Analogies: sentiment across domains, masked",
        "Analogies: subpopulations, moods",
    ]  # fmt: skip
    for table, count in zip(findings.tables, (2, 2, 4), strict=True):
        rows = table_of(findings, table.title)
        settings = [*rows][1:]
        assert next(iter(rows)) == "mean of all" and len(settings) == count
        for model in MODELS:
            assert rows["mean of all"][model].mean == pytest.approx(mean(rows[s][model].mean for s in settings))


def test_both_questions_of_the_review_are_answered_for_each_kind_of_analogy(findings):
    for kind in ("domains, contrastive", "domains, masked", "subpopulations, moods"):
        claims = [claim for claim in findings.claims if kind in claim.claim]
        rows = table_of(findings, kind)["mean of all"]
        for claim, other in zip(claims, (BASE, SINGLE, AUXILIARY), strict=True):
            gap = rows[ONE].minus(rows[other])
            assert f"{100 * gap.mean:.1f}" in claim.here and "over test examples; better in" in claim.here
            assert (claim.verdict == "fails") == (gap.mean <= 0)
        assert sum("review, major 2" in claim.claim for claim in claims) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": []}, "names neither `domains` nor `quadrants`"),
        ({"domains": ["films", "maels"]}, "analogies: no task is called maels"),
        ({"domains": ["films", "food"]}, "the domains must have the same classes"),
        ({"objectives": ["mask"]}, "no objective is called mask; there is labels, ascent, contrastive, masked"),
        ({"quadrants": {"q": ["films_good"]}}, "the quadrants q are four tasks"),
        ({"quadrants": {"q": [*QUADRANT[:3], "x"]}}, "no task is called x"),
    ],
)
def test_what_a_suite_names_must_be_there(bench, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(bench, replace(DOMAINS, **changes))
