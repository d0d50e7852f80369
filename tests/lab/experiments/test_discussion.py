"""The figures of the discussion, on the tiny suite."""

import pytest

import taskvec as tv
from lab.tiny import tiny_suite
from taskvec.errors import RecipeError
from taskvec.lab.bench import Bench
from taskvec.lab.experiments import discussion

SETTINGS = discussion.Settings(few=("food", "home"), rates=(0.5, 1.0), shares=(0.25, 1.0), grid="0:1:0.5", pairs=1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discussion")
    return Bench(tiny_suite(folder), [0, 1], folder / "out", folder / "cache")


@pytest.fixture(scope="module")
def findings(bench):
    return discussion.run(bench, SETTINGS)


def table(findings, title):
    (found,) = [t for t in findings.tables if t.title.startswith(title)]
    return found


def test_cosines_are_those_of_compare_and_the_diagonal_is_between_seeds(bench, findings):
    rows = {row[0]: dict(zip(bench.suite.tasks, row[1:], strict=True)) for row in table(findings, "Cosines").rows}
    food, home = bench.vector("food", 0), bench.vector("home", 0)
    assert rows["food"]["home"] == rows["home"]["food"] == pytest.approx(tv.compare([food, home]).whole.cosine[0][1])
    between = tv.compare([food, bench.vector("food", 1)]).whole.cosine[0][1]
    assert rows["food"]["food"] == pytest.approx(between) and abs(between) < 1


def test_a_vector_at_the_end_of_its_training_is_the_vector_itself(findings):
    (curves,) = findings.curves
    (early, last) = curves.lines["cosine with the last vector"]
    assert early[0] == 0.25 and 0 < early[1] < 1 and last[:2] == pytest.approx((1.0, 1.0))


def test_learning_rates_are_multiples_of_the_suites(bench, findings):
    rates = [float(row[0]) for row in table(findings, "Learning rate").rows]
    assert rates == pytest.approx([0.5 * bench.suite.training.rate, bench.suite.training.rate])


def test_disentanglement_is_that_of_the_first_pair_at_half_and_whole_coefficients(bench, findings):
    ((pair, middle, last),) = table(findings, "Disentanglement").rows
    food, home = bench.vector("food", 0), bench.vector("home", 0)
    xi = tv.disentanglement(
        bench.base, food, home, bench.judge(["food", "home"]), ["food", "home"], alphas="0:1:0.5"
    ).xi
    assert (pair, middle, last) == ("food and home", xi[1, 1], xi[2, 2]) and 0 < max(middle, last) <= 2


def test_a_task_that_there_is_not_is_named(bench):
    with pytest.raises(RecipeError, match="no task is called fod"):
        discussion.run(bench, discussion.Settings(few=("fod",)))
