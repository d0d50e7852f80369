"""Debiasing, on the tiny suite: the two domains are the groups."""

from dataclasses import replace

import pytest

from lab.tiny import tiny_suite
from taskvec.errors import RecipeError
from taskvec.lab.bench import Bench
from taskvec.lab.experiments import debiasing
from taskvec.lab.experiments.debiasing import BALANCED, BASE, DEBIASED, FREE, FROM_BASE, NEGATED, NOISE, SKEWED, SMALLER
from taskvec.lab.experiments.fairness import ByCell, accuracies, groups_of
from taskvec.lab.results import HOLDS, Estimate

SET = {"groups": ["films", "meals"], "size": 40, "skew": 0.95}
SETTINGS = debiasing.Settings({"domain": SET}, grid="0:2:0.5", base_grid="-1:1:0.5")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debiasing")
    return Bench(tiny_suite(folder), [0, 1, 2], folder / "out", folder / "cache")


@pytest.fixture(scope="module")
def findings(bench):
    return debiasing.run(bench, SETTINGS)


@pytest.fixture
def groups(bench):
    return groups_of(bench.suite, SET["groups"], "debiasing")


def rows_of(findings, title):
    (table,) = [t for t in findings.tables if t.title == title]
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def test_the_vectors_are_of_the_skewed_and_the_balanced_set(bench, findings, groups):
    names = {name.rpartition("_")[0] for name in bench.vectors.trained}
    assert names == {"domain_skewed", "domain_balanced"}, "nothing else is trained"
    assert bench.drawn(groups.drawn("domain_skewed", 40, 0.95), 0) != bench.drawn(
        groups.drawn("domain_balanced", 40, 0.5), 0
    )


def test_training_on_skewed_data_is_unfair_and_subtracting_the_bias_is_fairer(findings):
    rows = rows_of(findings, "Debiasing: domain")
    assert rows[SKEWED]["parity difference"].mean > 0.5 > rows[DEBIASED]["parity difference"].mean
    assert rows[DEBIASED]["worst group"].mean > rows[SKEWED]["worst group"].mean + 0.2
    unfair, _, fairer, *_ = findings.claims
    assert "unfair" in unfair.claim and unfair.verdict == fairer.verdict == HOLDS


def test_the_numbers_of_a_model_are_those_of_its_cells(bench, findings, groups):
    rows, cells = rows_of(findings, "Debiasing: domain"), rows_of(findings, "Accuracy in each cell: domain")
    for name, row in rows.items():
        for seed in range(3):
            h = {(g, c): cells[name][f"{c}, {g}"].values[seed] for g, c in groups.cells}
            assert row["worst group"].values[seed] == min(h.values())
            assert row["accuracy"].values[seed] == pytest.approx(sum(h.values()) / 4)
            assert row["parity difference"].values[seed] == pytest.approx(groups.parity(h))
            assert row["equalised-odds difference"].values[seed] == pytest.approx(groups.odds(h))


def test_the_balanced_model_is_the_skewed_one_less_its_bias(bench, groups):
    skewed, balanced = (bench.drawn(groups.drawn(*about), 0) for about in (("skewed", 40, 0.95), ("balanced", 40, 0.5)))
    assert bench.base + skewed - 1 * (skewed - balanced) == bench.base + balanced


def test_the_chosen_lam_has_the_best_worst_group_that_keeps_the_control(bench, findings, groups):
    judge, seed = ByCell(bench, groups, ("voices",)), 1
    tau, even = (
        bench.drawn(groups.drawn("domain_skewed", 40, 0.95), seed),
        bench.drawn(groups.drawn("domain_balanced", 40, 0.5), seed),
    )
    least = 0.95 * bench.means(bench.base, ["voices"], "validation")["voices"]
    worst = {}
    for lam in (0, 0.5, 1, 1.5, 2):
        model = bench.base + tau - lam * (tau - even)
        if bench.means(model, ["voices"], "validation")["voices"] >= least:
            worst[lam] = min(accuracies(judge.hits(model, "validation")).values())
    chosen = rows_of(findings, "Debiasing: domain")[DEBIASED]["λ"].values[seed]
    assert chosen == min(worst, key=lambda lam: (-worst[lam], lam))


def test_whatever_the_control_the_worst_group_on_validation_examples_is_no_worse(bench, groups):
    strict = debiasing.run(bench, replace(SETTINGS, keep=1.7))
    rows = rows_of(strict, "Debiasing: domain")
    assert rows[FREE]["λ"].mean > 0 == rows[DEBIASED]["λ"].mean
    assert rows[FREE]["worst group"].mean > rows[BASE]["worst group"].mean


def test_a_base_that_is_biased_the_other_way_may_take_a_negative_lam(findings):
    curves = [c for c in findings.curves if FROM_BASE in c.title]
    assert [x for x, *_ in curves[0].lines["accuracy"]] == [-1, -0.5, 0, 0.5, 1]


def test_the_curves_are_drawn_against_lam_with_the_chosen_one_marked(findings):
    curves, gaps = findings.curves[:2]
    assert curves.title.startswith(f"domain, {DEBIASED}") and "accuracy" in curves.title
    lams = rows_of(findings, "Debiasing: domain")[DEBIASED]["λ"]
    assert curves.marks == gaps.marks == {"mean of the chosen λ": lams.mean}
    assert {line for chart in (curves, gaps) for line in chart.lines} == {
        "worst group", "accuracy", "control", "parity difference", "equalised-odds difference",
    }  # fmt: skip
    assert [x for x, *_ in curves.lines["worst group"]] == [0, 0.5, 1, 1.5, 2]


def test_without_a_lam_there_is_none_in_the_table(findings):
    rows = rows_of(findings, "Debiasing: domain")
    assert [rows[name]["λ"] for name in (BASE, SKEWED, BALANCED)] == [None] * 3
    assert all(isinstance(rows[name]["λ"], Estimate) for name in (NEGATED, SMALLER, NOISE))


def test_a_control_that_no_model_keeps_is_said(bench):
    strict = debiasing.run(bench, replace(SETTINGS, keep=1.7, controls=("voices",)))
    assert any(
        limit.startswith(f"domain, {DEBIASED}: with 3 of 3 seeds no λ kept the control") for limit in strict.limits
    )
    rows = rows_of(strict, "Debiasing: domain")
    assert rows[DEBIASED]["worst group"].values == rows[BASE]["worst group"].values


def test_a_second_run_trains_and_judges_nothing_and_finds_the_same(bench, findings):
    again = Bench(bench.suite, bench.seeds, bench.folder, bench.cache)
    assert debiasing.run(again, SETTINGS) == findings
    assert again.judged == 0 and not again.vectors.trained


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"groups": ["films", "meels"]}, "debiasing, domain: no task is called meels"),
        ({"skew": 0.5}, "debiasing, domain: skew is above 0.5 and at most 1, not 0.5"),
        ({"size": 2}, "debiasing, domain: size is at least 4"),
        ({"siez": 2}, "debiasing, domain: no key siez.*did you mean size"),
        ({"size": "many"}, "debiasing, domain: size is a whole number, not 'many'"),
    ],
)
def test_what_is_wrong_in_a_set_is_said(bench, changes, says):
    with pytest.raises(RecipeError, match=says):
        debiasing.run(bench, replace(SETTINGS, sets={"domain": SET | changes}))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (debiasing.Settings(), "names no `sets`"),
        (debiasing.Settings({"domain": ["films", "meals"]}), "domain: a set is a table"),
        (debiasing.Settings({"domain": SET}, controls=("voicse",)), "no task is called voicse"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said(bench, settings, says):
    with pytest.raises(RecipeError, match=says):
        debiasing.run(bench, settings)


def test_several_sets_have_tables_charts_and_claims_of_their_own(bench):
    turned = debiasing.run(
        bench, replace(SETTINGS, sets={"domain": SET, "turned": SET | {"groups": ["meals", "films"]}})
    )
    assert len(turned.tables) == 4 and len(turned.curves) == 8
    assert {claim.claim.partition(":")[0] for claim in turned.claims} == {"domain", "turned"}
    assert rows_of(turned, "Debiasing: domain")[BASE] == rows_of(turned, "Debiasing: turned")[BASE]
