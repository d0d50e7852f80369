"""A candidate's scores are the means over its models, and all candidates are judged by the same examples."""

import json

import numpy as np
import pytest

import taskvec as tv
from searching.near import (
    BASE,
    GRID,
    ONE,
    SEEDS,
    TARGETS,
    A,
    Near,
    same,
)
from taskvec.errors import MismatchError, NonFiniteError, TaskvecError
from taskvec.evals import as_evaluator
from taskvec.searching.measure import Judgement, joined, measure
from taskvec.searching.search import search


class Spoiled(Near):
    """Something is wrong at w[0] > 0.5."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def __call__(self, weights, split):
        scores = super().__call__(weights, split)
        if weights["w"][0] > 0.5:
            self.how(scores)
        return scores


@pytest.mark.parametrize(
    ("how", "kind", "what"),
    [
        (lambda s: s.update(a=s["a"][:-1]), MismatchError, "a: 79 examples, 80 examples before"),
        (lambda s: s.pop("b"), MismatchError, "b: no metric, 50 examples before"),
        (lambda s: s.update(control=np.nan), NonFiniteError, "control"),
    ],
)
def test_an_evaluator_that_changes_its_mind_is_stated_with_its_trial_and_the_journal_stays(tmp_path, how, kind, what):
    with pytest.raises(kind, match=rf"(?s)trial 11 \(lam = 0.55\).*{what}"):
        search(ONE, Spoiled(how), GRID, journal=tmp_path / "j")
    done = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert [line["trial"] for line in done if "trial" in line] == list(range(11))
    same(search(ONE, Near(), GRID, journal=tmp_path / "j"), search(ONE, Near(), GRID))


def test_an_evaluator_that_raises_is_stated_by_its_own_words():
    def broken(weights, split):
        raise TaskvecError("no data today")

    evaluate = Near()
    evaluate.__class__ = type("Broken", (Near,), {"__call__": lambda self, w, split: broken(w, split)})
    with pytest.raises(TaskvecError, match="no data today"):
        search(ONE, evaluate, GRID)


def test_of_several_seeds_the_mean_counts_and_the_spread_is_told(tmp_path):
    from scipy import stats

    family = tv.parse("base + lam*(a - base)", base=BASE, a=A)
    replicates = [{"a": other} for other in SEEDS]
    result = search(family, Near(), GRID, objective="a", replicates=replicates, journal=tmp_path / "j")
    places = [1, 0.9, 1.1, 1.3]

    def hit(lam, split):
        return np.array([np.abs(TARGETS[split]["a"] - lam * p) < 0.25 for p in places], float)

    lam = result.chosen.knobs["lam"]
    assert lam == max((k / 20 for k in range(21)), key=lambda v: (round(hit(v, "validation").mean(), 12), -v))
    assert result.chosen.metrics["a"] == pytest.approx(hit(lam, "validation").mean())
    assert result.test["chosen"]["a"] == pytest.approx(hit(lam, "test").mean(0).tolist())
    means = hit(lam, "test").mean(1)
    spread = result.spread()["a"]
    assert spread.values == pytest.approx(means) and spread.deviation == pytest.approx(means.std(ddof=1))
    low, high = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    assert (spread.interval.low, spread.interval.high) == pytest.approx((low, high))
    assert "over 4 seeds" in str(result) and result.as_dict()["seeds"]["a"]["deviation"] == spread.deviation
    again = search(family, Near(), GRID, objective="a", replicates=replicates, journal=tmp_path / "j")
    assert again.as_dict() == result.as_dict()
    with pytest.raises(TaskvecError, match="another search"):  # fewer seeds are another search
        search(family, Near(), GRID, objective="a", replicates=replicates[:1], journal=tmp_path / "j")


def at(*values):
    return [tv.from_arrays({"w": np.float32([v])}, f"at {v}") for v in values]


def hits(weights, split):
    return {"a": np.arange(4) < float(weights["w"][0]), "n": weights["w"][0]}


def test_scores_are_means_over_the_models_of_a_candidate():
    of_three = measure(as_evaluator(hits), at(1, 2, 4), "validation", {})
    assert of_three.scores == pytest.approx({"a": pytest.approx([1, 2 / 3, 1 / 3, 1 / 3]), "n": 7 / 3})
    assert of_three.seeds == {"a": [0.25, 0.5, 1], "n": [1, 2, 4]}
    of_one = measure(as_evaluator(hits), at(1), "validation", {})
    assert of_one.scores == {"a": [1, 0, 0, 0], "n": 1} and not of_one.seeds
    assert of_one.line().keys() == {"scores", "seconds"} and of_three.line("partial").keys() == {
        "partial",
        "seconds",
        "seeds",
    }


def test_a_candidate_is_judged_by_the_examples_of_those_before_it_and_so_is_each_of_its_models():
    with pytest.raises(
        MismatchError,
        match="judged the models before by other metrics or examples, test:\n  - a: 4 examples, 3 examples before",
    ):
        measure(as_evaluator(hits), at(1), "test", {"a": [1, 0, 1], "n": 1.0})

    def shrinking(weights, split):
        return {"a": [1.0] * int(weights["w"][0])}

    with pytest.raises(
        MismatchError,
        match="judged another seed by other metrics or examples, validation:\n  - a: 2 examples, 4 examples before",
    ):
        measure(as_evaluator(shrinking), at(4, 2), "validation", {})


def test_stretches_of_different_lengths_are_joined_to_the_means_of_all():
    first, second = Judgement({"a": [1, 0, 1]}, 1.0, {"a": [1.0, 1 / 3]}), Judgement({"a": [0]}, 2.0, {"a": [0.0, 0.5]})
    both = joined([first, second])
    assert both.scores == {"a": [1, 0, 1, 0]} and both.seconds == 3
    assert both.seeds == {"a": pytest.approx([3 / 4, 1.5 / 4])}
