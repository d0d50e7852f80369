"""Parity, equalised odds and cells, against their definitions by what a model predicts."""

from types import SimpleNamespace

import numpy as np
import pytest

import taskvec as tv
from lab.tiny import tiny_suite
from taskvec.errors import RecipeError
from taskvec.lab.bench import Bench
from taskvec.lab.experiments.fairness import ByCell, Groups, accuracies, groups_of

GROUPS = Groups(("she", "he"), ("no", "yes"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fairness")
    return Bench(tiny_suite(folder), [0], folder / "out", folder / "cache")


@pytest.fixture(scope="module")
def by_cell(bench):
    return ByCell(bench, groups_of(bench.suite, ["films", "meals"], "debiasing"), ("food",))


def test_parity_and_odds_are_those_of_the_predictions():
    """P(yes | group) with classes of one weight, and the rates of true and false positives."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        rates = {cell: draw.integers(0, 11) / 10 for cell in GROUPS.cells}  # P(yes | group, class)
        hits = {(g, c): rate if c == "yes" else 1 - rate for (g, c), rate in rates.items()}
        said_yes = [(rates[g, "no"] + rates[g, "yes"]) / 2 for g in GROUPS.names]
        assert GROUPS.parity(hits) == pytest.approx(abs(said_yes[0] - said_yes[1]))
        apart = [abs(rates["she", c] - rates["he", c]) for c in GROUPS.classes]  # false positives, true positives
        assert GROUPS.odds(hits) == pytest.approx(max(apart))


def test_it_does_not_matter_which_class_is_called_positive():
    turned = Groups(GROUPS.names, ("yes", "no"))
    hits = dict(zip(GROUPS.cells, (0.9, 0.4, 0.7, 0.8), strict=True))
    assert GROUPS.parity(hits) == pytest.approx(turned.parity(hits)) and GROUPS.odds(hits) == turned.odds(hits)


def test_a_model_that_always_says_one_class_is_fair_by_parity_and_odds():
    assert GROUPS.parity({c: float(c[1] == "yes") for c in GROUPS.cells}) == 0
    assert GROUPS.odds({c: float(c[1] == "yes") for c in GROUPS.cells}) == 0


def test_a_model_that_tells_the_group_alone_is_as_unfair_as_can_be():
    told = {(g, c): float((g == "he") == (c == "yes")) for g, c in GROUPS.cells}
    assert GROUPS.parity(told) == GROUPS.odds(told) == 1
    assert [told[cell] for cell in GROUPS.common] == [1, 1] and [told[cell] for cell in GROUPS.rare] == [0, 0]


@pytest.mark.parametrize(("share", "common", "rare"), [(0.95, 95, 5), (0.5, 50, 50), (1, 100, 0)])
def test_a_training_set_has_its_share_in_common_cells_and_classes_of_one_size(share, common, rare):
    counts = {(g, c): n for g, c, n in GROUPS.drawn("set", 200, share).cells}
    assert {counts[cell] for cell in GROUPS.common} == {common} and {counts[cell] for cell in GROUPS.rare} == {rare}


def test_the_cells_have_the_scores_of_their_examples(bench, by_cell):
    model = bench.base + bench.vector("films", 0)
    hits = by_cell.hits(model, "test")
    for group in ("films", "meals"):
        task = bench.tasks.tasks[group]
        wanted = {label: [] for label in ("good", "bad")}
        for example, score in zip(task.part("test", 0, 1), bench.tasks(model, "test")[group], strict=True):
            wanted[example.label].append(score)
        assert {label: hits[group, label] for label in wanted} == wanted
    assert by_cell.accuracies({by_cell.metrics[c]: m for c, m in accuracies(hits).items()}) == accuracies(hits)


def test_a_search_takes_the_cells_and_the_other_tasks_for_metrics(bench, by_cell):
    scores, examples = by_cell(bench.base, "validation"), by_cell.examples("validation")
    assert scores.keys() == examples.keys() == {"food", *by_cell.metrics.values()}
    assert {name: len(values) for name, values in scores.items()} == {n: len(e) for n, e in examples.items()}
    family = bench.base + tv.knob("lam") * bench.vector("films", 0)
    choice = bench.choose(
        family, by_cell, "0:1:0.5", "worst(cell_0, cell_1, cell_2, cell_3)", ["food >= 0.1*base.food"]
    )
    worst = {lam: min(accuracies(by_cell.hits(family.bind(lam=lam), "validation")).values()) for lam, _ in choice.curve}
    assert worst[choice.value] == max(worst.values())


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["films", "meels"], "no task is called meels"),
        (["films"], "groups are two tasks, not films"),
        (["films", "films"], "groups are two tasks, not films, films"),
        (["films", "food"], "films has good, bad, and food has sweet, salty"),
    ],
)
def test_tasks_that_cannot_be_groups_are_refused(bench, names, says):
    with pytest.raises(RecipeError, match=says):
        groups_of(bench.suite, names, "debiasing")


def test_groups_of_more_than_two_classes_are_refused():
    spec = SimpleNamespace(labels=["a", "b", "c"])
    suite = SimpleNamespace(specs={"one": spec, "other": spec})
    with pytest.raises(RecipeError, match="the same two classes"):
        groups_of(suite, ["one", "other"], "debiasing")
