"""The disentanglement of two task vectors agrees with its equation, by predictions and by scores."""

import json

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import FormatError, MassError, OutputError, RecipeError
from taskvec.searching.interference import disentanglement
from taskvec.searching.records import read_record

RNG = np.random.default_rng(3)
X = {task: RNG.normal(size=(60, 4)).astype(np.float32) for task in ("one", "two")}
Y = {task: RNG.integers(0, 3, 60) for task in X}
SHAPE = (4, 3)
BASE, ONE, TWO = ({"w": RNG.normal(size=SHAPE).astype(np.float32)} for _ in range(3))
base, first, second = (tv.from_arrays(a, n) for a, n in ((BASE, "base"), (ONE, "first"), (TWO, "second")))
TAU = first - base, second - base


def predict(weights, split):
    return {task: (x @ weights["w"]).argmax(1) for task, x in X.items()}


def judge(weights, split):
    return {task: (labels == Y[task]).astype(float) for task, labels in predict(weights, split).items()}


class Judge:
    text = "judge"

    def examples(self, split):
        return None

    def __call__(self, weights, split):
        return judge(weights, split)

    def predictions(self, weights, split):
        return predict(weights, split)


def answers(a, b, task):
    w = BASE["w"] + a * (ONE["w"] - BASE["w"]) + b * (TWO["w"] - BASE["w"])
    return (X[task] @ w).argmax(1)


@pytest.mark.parametrize("alphas", [[-1, 0, 1], [0.5, 1, 1.5]])
def test_xi_is_the_equation(alphas):
    measured = disentanglement(base, *TAU, Judge(), ["one", "two"], alphas=alphas)
    for i, a in enumerate(alphas):
        for j, b in enumerate(alphas):
            error_one = np.mean(answers(a, 0, "one") != answers(a, b, "one"))
            error_two = np.mean(answers(0, b, "two") != answers(a, b, "two"))
            assert measured.xi[i, j] == pytest.approx(error_one + error_two)
            assert measured.together[:, i, j] == pytest.approx([np.mean(answers(a, b, t) == Y[t]) for t in X])
    assert measured.by == "predictions" and f"ξ by {measured.by}" in str(measured)
    gains = measured.gains()
    assert gains["one"][0] == pytest.approx(np.mean(answers(1, 0, "one") == Y["one"]) - measured.base[0])
    assert gains["two"][1] == pytest.approx(np.mean(answers(1, 1, "two") == Y["two"]) - measured.base[1])
    json.dumps(measured.as_dict())


def test_by_scores_it_is_a_lower_bound():
    by_predictions, by_scores = (
        disentanglement(base, *TAU, e, ["one", "two"], alphas=[0, 1]) for e in (Judge(), judge)
    )
    assert (
        by_scores.by == "scores"
        and (by_scores.xi <= by_predictions.xi).all()
        and by_scores.xi.sum() < by_predictions.xi.sum()
    )


def test_vectors_that_touch_nothing_of_one_another_have_none():
    apart = [tv.from_arrays({"w": np.eye(4, 3, dtype=np.float32) * s}, n) - base for s, n in ((0, "z"), (0, "z"))]
    still = [0 * apart[0], 0 * apart[1]]
    assert not disentanglement(base, *still, Judge(), ["one", "two"], alphas=[0, 1, 2]).xi.any()


def test_what_cannot_be_asked_is_stated():
    with pytest.raises(MassError, match="two task vectors"):
        disentanglement(base, first, TAU[1], judge, ["one", "two"])
    with pytest.raises(RecipeError, match="called three; there is one, two"):
        disentanglement(base, *TAU, judge, ["one", "three"])
    with pytest.raises(RecipeError, match="two tasks, not 1"):
        disentanglement(base, *TAU, judge, ["one"])
    with pytest.raises(RecipeError, match="need a step"):
        disentanglement(base, *TAU, judge, ["one", "two"], alphas="0:1")


def test_stopped_it_goes_on_from_its_journal(tmp_path):
    class Mortal(Judge):
        def __init__(self, left):
            self.left = left

        def __call__(self, weights, split):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return judge(weights, split)

    journal, progress_seen = tmp_path / "xi.jsonl", []
    uninterrupted = disentanglement(base, *TAU, Judge(), ["one", "two"], alphas=[0, 1, 2])
    with pytest.raises(KeyboardInterrupt):
        disentanglement(base, *TAU, Mortal(4), ["one", "two"], alphas=[0, 1, 2], journal=journal)
    rest = Mortal(5)  # 9 pairs in all
    resumed = disentanglement(
        base,
        *TAU,
        rest,
        ["one", "two"],
        alphas=[0, 1, 2],
        journal=journal,
        progress=lambda *at: progress_seen.append(at),
    )
    assert (
        resumed.as_dict() == uninterrupted.as_dict()
        and rest.left == 0
        and progress_seen == [(k, 9) for k in range(5, 10)]
    )
    again = disentanglement(base, *TAU, Mortal(0), ["one", "two"], alphas=[0, 1, 2], journal=journal)
    assert again.as_dict() == uninterrupted.as_dict()


def test_a_journal_of_something_else_is_refused(tmp_path):
    journal = tmp_path / "xi.jsonl"
    disentanglement(base, *TAU, Judge(), ["one", "two"], alphas=[0, 1], journal=journal)
    with pytest.raises(OutputError, match="another interference") as error:
        disentanglement(base, *TAU[::-1], Judge(), ["one", "two"], alphas=[0, 2], journal=journal)
    assert "alphas: [0.0, 1.0] there, [0.0, 2.0] here" in str(error.value) and "vectors" in str(error.value)
    with pytest.raises(OutputError, match=r"another search(.|\n)*it was begun by taskvec interference"):
        tv.search(base + tv.knob("a") * TAU[0], judge, {"a": [0, 1]}, journal=journal)
    with pytest.raises(FormatError, match="no journal of a search"):
        read_record(journal)


def test_its_picture_is_written(tmp_path):
    from taskvec.report.plots import disentanglement_heatmap

    measured = disentanglement(base, *TAU, Judge(), ["one", "two"])
    disentanglement_heatmap(measured, tmp_path / "xi.png")
    assert (tmp_path / "xi.png").read_bytes().startswith(b"\x89PNG") and len(measured.alphas) == 7
