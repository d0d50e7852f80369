"""Learning by addition: sums, pairs, subsets, joint training and target improvement."""

from dataclasses import replace
from itertools import combinations
from statistics import mean

import numpy as np
import pytest

from lab.tiny import sentences
from taskvec.errors import RecipeError
from taskvec.lab.bench import Bench
from taskvec.lab.experiments.addition import AVERAGE, ENSEMBLE, FIXED, JOINT, MATCHED, SUM, Settings, run
from taskvec.lab.suite import suite_from

SETTINGS = Settings(
    grid="0:1:0.5", pairs_grid="0:1:0.5", sensitivity="0:2:1", pairs=False, subsets=False, joint=0, improvement=False
)


@pytest.fixture(scope="module")
def findings(finished):
    return finished.result.findings[1]


def table_of(findings, title):
    (table,) = [table for table in findings.tables if table.title.startswith(title)]
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def accuracy(bench, model, tasks, split="test"):
    return mean(mean(bench.scores(model, [task], split)[task]) for task in tasks)


def tuned(bench, task, seed=0):
    return bench.base + bench.vector(task, seed)


def chosen(bench, direction, tasks, grid):
    """The smallest λ of the best mean validation accuracy."""
    return max(grid, key=lambda lam: (accuracy(bench, bench.base + lam * direction, tasks, "validation"), -lam))


def test_one_model_for_all_tasks_is_made_in_every_way(findings, bench):
    table = table_of(findings, "One model for all 3 tasks")
    assert [*table] == [
        "pre-trained",
        AVERAGE,
        SUM,
        MATCHED,
        FIXED,
        JOINT,
        "fine-tuned, each on its own task",
        ENSEMBLE,
    ]
    tasks = bench.suite.tasks
    for seed in bench.seeds:
        total = sum((bench.vector(task, seed) for task in tasks[1:]), bench.vector(tasks[0], seed))
        lam = chosen(bench, total, tasks, (0, 0.25, 0.5, 0.75, 1))
        for name, model in {
            AVERAGE: bench.base + total / 3, FIXED: bench.base + total * 0.4, SUM: bench.base + total * lam,
        }.items():  # fmt: skip
            assert table[name]["accuracy"].values[seed] == pytest.approx(accuracy(bench, model, tasks))
            shares = [accuracy(bench, model, [t]) / accuracy(bench, tuned(bench, t, seed), [t]) for t in tasks]
            assert table[name]["normalised"].values[seed] == pytest.approx(mean(shares))
            assert table[name]["worst task, normalised"].values[seed] == pytest.approx(min(shares))
        assert table[SUM]["λ"].values[seed] == lam
    assert table["fine-tuned, each on its own task"]["normalised"].mean == pytest.approx(1)
    assert table[MATCHED]["λ"] is None and table[FIXED]["λ"].mean == pytest.approx(0.4)


def test_joint_training_has_so_many_seeds_as_the_suite_says(findings, bench):
    joint = table_of(findings, "One model")[JOINT]["accuracy"]
    assert joint.values == pytest.approx(
        [accuracy(bench, bench.base + bench.joint(bench.suite.tasks, 0), bench.suite.tasks)]
    )
    assert "Joint training was done with 1 of 3 seeds." in findings.limits
    without = run(bench, SETTINGS)
    assert JOINT not in table_of(without, "One model") and not any("Joint" in c.claim for c in without.claims)


def test_every_pair_has_its_coefficient_and_their_mean_is_the_first_row(findings, bench):
    table = table_of(findings, "Pairs")
    pairs = [*combinations(bench.suite.tasks, 2)]
    assert [*table] == ["mean of all pairs", *map(" + ".join, pairs)]
    for pair in pairs:
        for seed in bench.seeds:
            total = bench.vector(pair[0], seed) + bench.vector(pair[1], seed)
            lam = chosen(bench, total, pair, (0, 0.5, 1))
            model = bench.base + lam * total
            wanted = mean(accuracy(bench, model, [t]) / accuracy(bench, tuned(bench, t, seed), [t]) for t in pair)
            assert table[" + ".join(pair)]["normalised"].values[seed] == pytest.approx(wanted)
    means = [table[" + ".join(pair)]["normalised"].mean for pair in pairs]
    assert table["mean of all pairs"]["normalised"].mean == pytest.approx(mean(means))


def test_the_ensemble_of_the_single_models_stands_beside_their_sum_with_one_seed(findings, bench):
    tasks = bench.suite.tasks
    hits = bench.ensemble([tuned(bench, task) for task in tasks], tasks, "test")
    cells = table_of(findings, "One model")[ENSEMBLE]
    assert cells["accuracy"].values == pytest.approx([mean(mean(hits[task]) for task in tasks)]) and cells["λ"] is None
    (scatter,) = findings.points
    assert [*scatter.points] == [" + ".join(pair) for pair in combinations(tasks, 2)]
    for pair in combinations(tasks, 2):
        both = bench.ensemble([tuned(bench, task) for task in pair], pair, "test")
        total = bench.vector(pair[0], 0) + bench.vector(pair[1], 0)
        summed = bench.base + chosen(bench, total, pair, (0, 0.5, 1)) * total
        wanted = mean(mean(both[task]) for task in pair), accuracy(bench, summed, pair)
        assert scatter.points[" + ".join(pair)] == pytest.approx(wanted)


def test_subsets_of_one_are_the_single_models_and_the_rest_lies_between_worst_and_best(findings):
    (subsets,) = [c for c in findings.curves if c.title.startswith("Normalised accuracy of the sums of all subsets")]
    (line,) = subsets.lines.values()
    assert line[0] == pytest.approx((1, 1, 1, 1)) and [point[0] for point in line] == [1, 2, 3]
    assert all(low <= middle <= high for _, middle, low, high in line)
    assert line[2][1] == line[2][2] == line[2][3], "there is one subset of all tasks"


def test_subsets_may_be_judged_on_a_share_of_the_examples(bench):
    found = run(bench, replace(SETTINGS, subsets=True, subset_share=0.5))
    (subsets,) = [c for c in found.curves if "subsets" in c.title]
    assert "the first 50% of each" in subsets.note
    assert any("seed 0 alone" in limit for limit in found.limits)


def test_the_sensitivity_begins_at_the_base_and_says_where_it_is_flat(findings, bench):
    (curves,) = [c for c in findings.curves if c.title.startswith("Sensitivity")]
    (line,) = curves.lines.values()
    assert [point[0] for point in line] == [0, 0.5, 1, 1.5, 2]
    assert line[0][1] == pytest.approx(accuracy(bench, bench.base, bench.suite.tasks, "validation"))
    best = max(point[1] for point in line)
    flat = [point[0] for point in line if point[1] >= best - 0.01]
    assert curves.note == f"Within one point of its best for λ from {min(flat):g} to {max(flat):g}."
    assert [*curves.marks.values()] == pytest.approx([table_of(findings, "One model")[SUM]["λ"].mean])


def test_target_improvement_is_never_worse_on_validation_examples(findings, bench):
    table = table_of(findings, "Target improvement")
    assert [*table] == bench.suite.tasks
    for task, cells in table.items():
        assert cells["fine-tuned"].values == pytest.approx(
            [accuracy(bench, tuned(bench, task, s), [task]) for s in bench.seeds]
        )
        for seed, added in enumerate(cells["added, seed by seed"].split(", ")):
            model = tuned(bench, task, seed)
            if added != "none":
                lam, other = added.split()
                assert other != task and float(lam) > 0
                better = model + float(lam) * bench.vector(other, seed)
                validated = [accuracy(bench, m, [task], "validation") for m in (model, better)]
                assert validated[1] > validated[0]
                model = better
            assert cells["with another vector"].values[seed] == pytest.approx(accuracy(bench, model, [task]))


def test_the_review_s_first_major_point_is_answered_by_name(findings):
    (claim,) = [claim for claim in findings.claims if claim.claim.startswith("Review, major 1")]
    table = table_of(findings, "One model")
    lost = 100 * (table[SUM]["accuracy"].mean - table[FIXED]["accuracy"].mean)
    assert f"λ = 0.4 loses {lost:.1f} [" in claim.here and np.isfinite(lost)


def test_a_single_model_that_gets_nothing_right_is_a_stated_error(own_suite, tmp_path):
    """Its test examples have each other's labels, and so whoever has learned the task gets all of them wrong."""
    rows = sentences("food")
    other = {"sweet": "salty", "salty": "sweet"}
    for name, part in (("a", rows[:100]), ("b", rows[100:120]), ("c", [(t, other[label]) for t, label in rows[120:]])):
        text = "".join(f"{text},{label}\n" for text, label in part)
        (own_suite.parent / f"{name}.csv").write_text(f"text,label\n{text}")
    text = own_suite.read_text().replace("{file: food.csv}", "{train: a.csv, validation: b.csv, test: c.csv}")
    own_suite.write_text(text.replace("epochs: 4", "epochs: 30"))
    bench = Bench(suite_from(str(own_suite)), [0], tmp_path / "out", tmp_path / "cache")
    with pytest.raises(RecipeError, match="addition: the model fine-tuned on food gets no test example right"):
        run(bench, SETTINGS)


def test_one_task_cannot_be_added(finished, tmp_path):
    alone = Bench(replace(finished.suite, specs={"food": finished.suite.specs["food"]}), [0], tmp_path, finished.cache)
    with pytest.raises(RecipeError, match="addition: a suite needs two tasks at least"):
        run(alone, SETTINGS)
