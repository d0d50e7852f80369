"""Merge methods against plain task arithmetic, on the tiny suite."""

from itertools import product

import pytest

from lab.tiny import tiny_suite
from taskvec.errors import RecipeError
from taskvec.lab.bench import Bench
from taskvec.lab.experiments import methods
from taskvec.lab.results import Estimate


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    return Bench(tiny_suite(folder), [0], folder / "out", folder / "cache")


@pytest.fixture(scope="module")
def findings(bench):
    wanted = methods.Settings(counts=(2,), methods=("ties", "average of the models", "random vector"))
    return methods.run(bench, wanted)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_makes_a_model_of_the_vectors_with_each_of_its_parameters(bench, name):
    _, _, own = methods.METHODS[name]
    for values in product(*own.values()):
        family = methods.family(bench, name, bench.suite.tasks, 0, dict(zip(own, values, strict=True)))
        assert family.bind(lam=0.5).kind() == 1 and family.knobs == {"lam"}


def test_every_method_is_compared_with_task_arithmetic_which_stands_first(findings):
    (table,) = findings.tables
    names = [row[0] for row in table.rows]
    assert names[0] == methods.PLAIN and {*names[1:]} == {"ties", "average of the models", "random vector"}
    for name, accuracy, gap, *_ in table.rows[1:]:
        assert isinstance(accuracy, Estimate) and isinstance(gap, Estimate), name
        assert gap.mean == pytest.approx(accuracy.mean - table.rows[0][1].mean)


def test_a_random_vector_does_not_beat_task_arithmetic(findings):
    (table,) = findings.tables
    (row,) = [row for row in table.rows if row[0] == "random vector"]
    assert row[2].mean < 0 and row[-1] == ""


def test_the_interval_over_examples_is_wider_the_more_methods_are_compared(bench):
    few = methods.run(bench, methods.Settings(counts=(2,), methods=("ties",)))
    many = methods.run(bench, methods.Settings(counts=(2,), methods=("ties", "random vector", "average of the models")))

    def width(findings):
        (row,) = [row for row in findings.tables[0].rows if row[0] == "ties"]
        return row[3].high - row[3].low

    assert width(few) < width(many)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (methods.Settings(methods=("tise",)), "no method is called tise.*did you mean ties"),
        (methods.Settings(counts=(1, 50)), "counts has no number from 2 to 3"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said(bench, settings, says):
    with pytest.raises(RecipeError, match=says):
        methods.run(bench, settings)
