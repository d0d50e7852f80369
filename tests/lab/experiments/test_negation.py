"""Forgetting: the protocol of the paper, checked against the journal and against the models themselves."""

from dataclasses import replace
from statistics import mean

import numpy as np
import pytest

from taskvec.errors import RecipeError
from taskvec.lab.bench import Bench
from taskvec.lab.experiments.negation import MODELS, Settings, run
from taskvec.lab.results import UNTESTED

SETTINGS = Settings(grid="0:1:0.25", sensitivity="0:2:0.5")


@pytest.fixture(scope="module")
def findings(finished):
    return finished.result.findings[0]


def rows(table):
    """First cell -> the other cells by the names of their columns."""
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def accuracy(bench, model, tasks, split="test"):
    return mean(mean(bench.scores(model, [task], split)[task]) for task in tasks)


def test_all_models_of_the_paper_are_judged(findings):
    assert [row[0] for row in findings.tables[0].rows] == [*MODELS]
    without = findings.tables[0].columns
    assert without == ("model", "target", "control", "λ")


def test_without_gradient_ascent_there_is_no_such_model_and_no_claim_of_it(finished, bench):
    found = run(bench, replace(SETTINGS, ascent=False))
    assert "gradient ascent" not in rows(found.tables[0])
    assert not any("ascent" in claim.claim for claim in found.claims)


def test_both_published_rules_are_applied_to_validation_examples(findings, bench):
    """The largest λ, and the λ of the lowest target, of all that keep 95 % of the base's control accuracy."""
    lams = {rule: [] for rule in ("largest λ", "lowest target")}
    for task in bench.suite.tasks:
        for seed in bench.seeds:
            tau = bench.vector(task, seed)
            scores = {
                lam: [accuracy(bench, bench.base - lam * tau, [name], "validation") for name in (task, "voices")]
                for lam in (0, 0.25, 0.5, 0.75, 1)
            }
            kept = [lam for lam, (_, control) in scores.items() if control >= 0.95 * scores[0][1]]
            lams["largest λ"].append(max(kept))
            lams["lowest target"].append(min(kept, key=lambda lam, scores=scores: (scores[lam][0], lam)))
    for rule, values in lams.items():
        assert rows(findings.tables[0])[f"negative vector, {rule}"]["λ"].mean == pytest.approx(mean(values))


def test_each_target_has_the_accuracies_before_and_after(findings, bench):
    table = rows(findings.tables[1])
    assert [*table] == bench.suite.tasks
    for task, cells in table.items():
        tuned = [accuracy(bench, bench.base + bench.vector(task, seed), [task]) for seed in bench.seeds]
        assert cells["fine-tuned"].values == pytest.approx(tuned)
        assert cells["pre-trained"].mean == pytest.approx(accuracy(bench, bench.base, [task]))
        assert cells["control before"].mean == pytest.approx(accuracy(bench, bench.base, ["voices"]))
        assert 0 <= cells["p"] <= 1


def test_the_random_vector_has_the_norm_of_the_vector_in_each_tensor(bench):
    from taskvec.methods import FUNCTIONS

    tau = bench.vector("food", 0)
    noise = FUNCTIONS["random_like"](tau, seed=0)
    for name in tau.specs:
        norms = [np.linalg.norm(each[name]) for each in (tau, noise)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_the_curve_over_the_coefficient_begins_at_the_base(findings, bench):
    (curves,) = findings.curves
    for line, tasks in (("target", bench.suite.tasks), ("control", ["voices"])):
        points = curves.lines[line]
        assert [point[0] for point in points] == [0, 0.5, 1, 1.5, 2]
        assert points[0][1] == pytest.approx(accuracy(bench, bench.base, tasks, "validation"))
    (marked,) = curves.marks.values()
    assert marked == pytest.approx(rows(findings.tables[0])["negative vector, lowest target"]["λ"].mean)


def test_gain_and_drop_of_each_target_are_points(findings):
    (scatter,) = findings.points
    for task, cells in rows(findings.tables[1]).items():
        gain = cells["fine-tuned"].mean - cells["pre-trained"].mean
        assert scatter.points[task] == pytest.approx((gain, cells["pre-trained"].mean - cells["negative"].mean))


def test_without_controls_in_the_suite_the_other_tasks_are_the_controls_and_this_is_a_limit(finished, tmp_path):
    specs = {name: finished.suite.specs[name] for name in ("food", "home")}
    bench = Bench(replace(finished.suite, specs=specs), [0], tmp_path, finished.cache)
    found = run(bench, replace(SETTINGS, ascent=False))
    assert "Targets: food, home. Controls: home." in found.protocol[0]
    assert any("no control task" in limit for limit in found.limits)


def test_one_target_has_no_correlation_and_the_claim_cannot_be_tested(bench):
    found = run(bench, replace(SETTINGS, targets=["food"], ascent=False))
    (claim,) = [claim for claim in found.claims if claim.claim.startswith("What fine-tuning did not gain")]
    assert claim.verdict == UNTESTED


def test_what_a_suite_names_must_be_there(bench, finished, tmp_path):
    with pytest.raises(RecipeError, match=r"no task is called fod .did you mean food.., vois .did you mean voices"):
        run(bench, replace(SETTINGS, targets=["fod"], controls=["vois"]))
    alone = Bench(replace(finished.suite, specs={"food": finished.suite.specs["food"]}), [0], tmp_path, finished.cache)
    with pytest.raises(RecipeError, match="negation: food has no control task; a suite needs a second task"):
        run(alone, SETTINGS)
