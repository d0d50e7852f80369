"""The figures of the discussion: cosines, rates, vectors along the training, seeds, disentanglement."""

from dataclasses import replace
from itertools import combinations
from statistics import mean

import numpy as np
import pytest

from taskvec.errors import RecipeError
from taskvec.lab.experiments.discussion import Settings, run
from taskvec.searching.interference import disentanglement

SETTINGS = Settings(few=["food"], rates=[1.0], shares=[1.0], grid="0:1:1", pairs=1, alphas="0:1:0.25")


@pytest.fixture(scope="module")
def findings(finished):
    (findings,) = [f for f in finished.result.findings if f.experiment == "discussion"]
    return findings


def table_of(findings, title):
    (table,) = [table for table in findings.tables if table.title.startswith(title)]
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def accuracy(bench, model, tasks, split="test"):
    return mean(mean(bench.scores(model, [task], split)[task]) for task in tasks)


def cosine(one, two):
    a, b = (np.concatenate([v[name].ravel() for name in sorted(one.specs)]).astype(np.float64) for v in (one, two))
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_cosines_are_those_of_the_vectors_and_on_the_diagonal_those_between_seeds(findings, bench):
    table = table_of(findings, "Cosines")
    tasks = bench.suite.tasks
    for one, two in combinations(tasks, 2):
        wanted = cosine(bench.vector(one, 0), bench.vector(two, 0))
        assert table[one][two] == table[two][one] == pytest.approx(wanted, abs=1e-5)
    for task in tasks:
        seeds = [bench.vector(task, seed) for seed in bench.seeds]
        assert table[task][task] == pytest.approx(mean(cosine(a, b) for a, b in combinations(seeds, 2)), abs=1e-5)


def test_every_rate_has_the_single_models_and_their_sum(findings, bench):
    table = table_of(findings, "Learning rate")
    assert [*table] == ["0.0006", "0.003"]
    vectors = {task: bench.vector(task, 0, rate=0.2 * bench.suite.training.rate) for task in ("food", "home")}
    own = mean(accuracy(bench, bench.base + vector, [task]) for task, vector in vectors.items())
    cells = table["0.0006"]
    assert cells["single models"] == pytest.approx(own)
    summed = bench.base + cells["λ"] * (vectors["food"] + vectors["home"])
    assert cells["their sum"] == pytest.approx(accuracy(bench, summed, [*vectors]))
    assert cells["normalised"] == pytest.approx(cells["their sum"] / own)


def test_the_last_vector_of_a_training_is_the_vector_itself(findings, bench):
    (curves,) = findings.curves
    cosines = curves.lines["cosine with the last vector"]
    assert [point[0] for point in cosines] == [0.25, 1.0] and cosines[-1][1] == pytest.approx(1)
    early = [cosine(bench.vector(t, 0, until=0.25), bench.vector(t, 0)) for t in ("food", "home")]
    assert cosines[0][1] == pytest.approx(mean(early), abs=1e-5) and cosines[0][1] < 1


def test_the_average_over_seeds_stands_beside_the_single_ones(findings, bench):
    for task, cells in table_of(findings, "Seeds of").items():
        vectors = [bench.vector(task, seed) for seed in bench.seeds]
        assert cells["single seeds"].values == pytest.approx([accuracy(bench, bench.base + v, [task]) for v in vectors])
        average = bench.base + (vectors[0] + vectors[1] + vectors[2]) / 3
        assert cells["average of their vectors"] == pytest.approx(accuracy(bench, average, [task]))


def test_disentanglement_is_that_of_the_pair_in_the_middle_and_at_the_end(bench):
    table = table_of(run(bench, SETTINGS), "Disentanglement")
    wanted = disentanglement(
        bench.base, bench.vector("food", 0), bench.vector("home", 0), bench.judge(["food", "home"]), ["food", "home"],
        alphas="0:1:0.25",
    )  # fmt: skip
    assert table == {"food and home": {"α = 0.5 for both": wanted.xi[2, 2], "α = 1 for both": wanted.xi[4, 4]}}


@pytest.mark.parametrize(
    ("alphas", "names"),
    [("0:2:1", ["α = 1 for both", "α = 2 for both"]), ("0:1:1", ["α = 0 for both", "α = 1 for both"])],
)
def test_the_columns_of_disentanglement_are_named_by_the_coefficients_that_were_measured(bench, alphas, names):
    assert [*table_of(run(bench, replace(SETTINGS, alphas=alphas)), "Disentanglement")["food and home"]] == names


def test_what_a_suite_names_must_be_there(bench):
    with pytest.raises(RecipeError, match="discussion: no task is called fod"):
        run(bench, replace(SETTINGS, few=["fod"]))
