"""The result of a search says how sure it is: intervals, Pareto fronts, choices at the end of a range."""

import numpy as np
import pytest

import taskvec as tv
from searching.near import BASE, GRID, ONE, SEEDS, TWO, A, Near, recipe
from taskvec.report.page import page
from taskvec.searching.records import read_record
from taskvec.searching.search import search


def test_references_are_measured_and_named_in_goals():
    own = {"own_a": recipe("base + 0.6*(a - base)"), "own_b": recipe("base + 0.3*(b - base)")}
    result = search(
        ONE,
        Near(),
        GRID,
        objective="mean(a/own_a.a, b/own_b.b)",
        references=own,
        constraints=["control > own_a.control/2"],
    )
    assert result.validation.keys() == result.test.keys() - {"chosen"} == {"base", "own_a", "own_b"}
    assert result.chosen.goodness == pytest.approx(
        np.mean([np.mean(result.chosen.scores[t]) / np.mean(result.validation[f"own_{t}"][t]) for t in "ab"])
    )


def test_what_test_examples_cannot_say_is_said(tmp_path):
    def alike(weights, split):
        return {
            "few": [1.0, 0.0, 1.0, 1.0],
            "same": [0.5] * 30,
            "hits": [1.0] * 20,
            "near": -abs(float(weights["w"][0])),
        }

    result = search(ONE, alike, {"lam": [0, 1]}, objective="near", journal=tmp_path / "j")
    sentences = [
        "no interval for same of base: all 30 are alike, which does not show how much they vary",
        "no interval for same of chosen: all 30 are alike, which does not show how much they vary",
        "few: 4 test examples are too few for any difference to be significant",
        "no interval for the difference in same: all 30 are alike, which does not show how much they vary",
    ]
    assert result.unsure() == result.as_dict()["unsure"] == sentences and all(line in str(result) for line in sentences)
    assert all(line[1:] in page({"j": read_record(tmp_path / "j")}) for line in sentences)
    assert "1 [0.8389, 1]" in str(result) and "0.5 [no interval]" in str(result)
    ends = result.as_dict()["intervals"]["chosen"]
    assert ends["hits"] == pytest.approx([0.8389, 1], abs=1e-4) and ends["same"] == [None, None] and "near" not in ends
    assert result.as_dict()["compared"]["same"] == {
        "difference": 0, "low": None, "high": None, "p": 1, "test": "sign test"
    }  # fmt: skip


def test_the_front_has_what_no_candidate_beats():
    result = search(TWO, Near(), {"x": (0, 1, 0.25), "y": (0, 1, 0.25)}, objective=["a", "control"], test=False)
    points = {t.number: (t.metrics["a"], t.metrics["control"]) for t in result.trials}
    beaten = {n for n, p in points.items() if any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points.values())}
    front = result.front()
    assert {points[t.number] for t in front} == {points[n] for n in points.keys() - beaten}
    assert len({t.goods for t in front}) == len(front) > 2 and result.chosen == front[0]
    assert "no candidate beats these" in str(result) and result.as_dict()["front"] == [t.number for t in front]


def test_means_of_hits_over_seeds_stay_within_0_and_1():
    def judge(weights, split):
        return {"sure": [1.0] * 20, "near": (np.arange(20) < 19 + (weights["w"][0] > 0.95)).astype(float)}

    family = tv.parse("base + lam*(a - base)", base=BASE, a=A)
    result = search(family, judge, {"lam": [1]}, objective="near", replicates=[{"a": other} for other in SEEDS])
    assert result.test["chosen"]["near"][19] == 0.75 and "near" in result.shares - result.hits
    ends = {name: result.interval(name, result.test["chosen"][name]) for name in ("sure", "near")}
    assert ends["sure"].low == pytest.approx(0.8389, abs=1e-4) and ends["sure"].high == 1
    assert 0.8 < ends["near"].low < 0.9875 < ends["near"].high <= 1
