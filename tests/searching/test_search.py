"""Search: chosen on validation alone, judged on test once; killed, resumed or shared it finds the same."""

import json
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import taskvec as tv
from conftest import heeds_ctrl_c
from taskvec.errors import MismatchError, NonFiniteError, RecipeError, TaskvecError
from taskvec.report.page import page
from taskvec.searching.records import read_record
from taskvec.searching.search import search

RNG = np.random.default_rng(0)
TARGETS = {  # the place along each direction at which an example is got right
    "validation": {"a": RNG.normal(0.6, 0.2, 80), "b": RNG.normal(0.3, 0.2, 50)},
    "test": {"a": RNG.normal(0.6, 0.2, 400), "b": RNG.normal(0.3, 0.2, 300)},
}


class Near:
    """Task a is good where w[0] is near its targets, task b where w[1] is; control falls with both."""

    text = "test_search.py:Near"

    def __init__(self, apart=True):
        self.apart, self.calls = apart, []

    def examples(self, split):
        offset = 1000 if split == "test" and self.apart else 0
        return {task: [f"{task}{k + offset}" for k in range(len(t))] for task, t in TARGETS[split].items()}

    def __call__(self, weights, split):
        w = weights["w"].astype(float)
        self.calls.append((split, tuple(w.round(6))))
        places = {"a": w[0], "b": w[1]}
        scores = {
            task: (np.abs(targets - places[task]) < 0.25).astype(float) for task, targets in TARGETS[split].items()
        }
        return scores | {"control": float(1 - 0.2 * np.abs(w).sum())}


def model(*values):
    return {"w": np.float32(values)}


BASE, A, B = (tv.from_arrays(model(*v), name) for name, v in (("base", (0, 0)), ("a", (1, 0)), ("b", (0, 1))))
NAMES = {"base": BASE, "a": A, "b": B}


def recipe(text):
    return tv.parse(text, **{name: w for name, w in NAMES.items() if re.search(rf"\b{name}\b", text)})


ONE = recipe("base + lam*(a - base) + lam*(b - base)")
TWO = recipe("base + x*(a - base) + y*(b - base)")
GRID = {"lam": (0, 1, 0.05)}


def score(place, split="validation"):
    """By hand: the mean of the two tasks' means."""
    places = place if isinstance(place, tuple) else (place, place)
    return np.mean([np.mean(np.abs(TARGETS[split][t] - p) < 0.25) for t, p in zip("ab", places, strict=True)])


def test_a_grid_finds_what_a_loop_finds():
    evaluate = Near()
    found = search(ONE, evaluate, GRID, objective="mean(a, b)")
    grid = [k / 20 for k in range(21)]
    best = max(grid, key=lambda lam: (score(lam), -lam))
    assert found.chosen.knobs == {"lam": best}
    assert [t.knobs["lam"] for t in found.trials] == grid
    assert [t.goodness for t in found.trials] == pytest.approx([score(lam) for lam in grid])
    assert found.weights == ONE.bind(lam=best)
    assert np.mean([np.mean(found.test["chosen"][t]) for t in "ab"]) == pytest.approx(score(best, "test"))
    assert "highest mean(a, b) of 21 candidates" in found.how
    tests = [w for split, w in evaluate.calls if split == "test"]
    assert len(tests) == 2 and found.looks == 1  # the chosen one and the base, once each


def test_a_knob_a_vector_is_as_good_or_better():
    one = search(ONE, Near(), GRID, objective="mean(a, b)", test=False)
    two = search(TWO, Near(), {"x": (0, 1, 0.1), "y": (0, 1, 0.1)}, objective="mean(a, b)", test=False)
    assert two.chosen.goodness >= one.chosen.goodness and len(two.trials) == 121 and not two.test


def test_of_equal_candidates_the_smallest_coefficients_are_taken():
    assert search(ONE, Near(), {"lam": "-1:1:0.5"}, objective="0*a", test=False).chosen.knobs == {"lam": 0}


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_that_keeps_a_constraint_and_the_lowest_target_that_does(sign):
    away = recipe("base - lam*(a - base)")
    kept = {"constraints": ["control >= 0.95*base.control"], "test": False}
    found = search(away, Near(), GRID, rule="largest", **kept)
    assert found.chosen.knobs == {"lam": 0.25} and "the largest lam of 21 that keeps control >= 0.95" in found.how
    lowest = search(away, Near(), GRID, objective="a", minimise=True, **kept)
    passing = [k / 20 for k in range(6)]
    target = {lam: np.mean(np.abs(TARGETS["validation"]["a"] + lam) < 0.25) for lam in passing}
    assert lowest.chosen.knobs == {"lam": min(passing, key=lambda lam: (target[lam], lam))}
    assert "lowest a of 21 candidates that keeps" in lowest.how


def test_stopping_early_finds_the_same_with_fewer_candidates(tmp_path):
    away = recipe("base - lam*(a - base)")
    kept = {"constraints": ["control >= 0.8*base.control"], "rule": "largest", "test": False}
    everything, evaluate = search(away, Near(), GRID, **kept), Near()
    few = search(away, evaluate, GRID, early=True, journal=tmp_path / "j", **kept)
    assert few.chosen.knobs == everything.chosen.knobs == {"lam": 1}
    assert len(few.trials) == 1 and len(evaluate.calls) == 2
    kept["constraints"] = ["control >= 0.95*base.control"]
    few = search(away, Near(), GRID, early=True, **kept)
    assert few.chosen.knobs == {"lam": 0.25} and [t.knobs["lam"] for t in few.trials] == [
        k / 20 for k in range(20, 4, -1)
    ]
    with pytest.raises(RecipeError, match="one can stop early with the rule"):
        search(away, Near(), GRID, early=True)


def test_where_nothing_keeps_the_constraints_the_answer_is_the_base():
    found = search(ONE, Near(), {"lam": "0.5:1:0.25"}, constraints=["control >= 2"])
    assert found.chosen is None and found.weights == BASE and found.test.keys() == {"base"}
    assert all(t.broken["control >= 2"] > 1 for t in found.trials)


def test_references_are_measured_and_named_in_goals():
    own = {"own_a": recipe("base + 0.6*(a - base)"), "own_b": recipe("base + 0.3*(b - base)")}
    found = search(
        ONE,
        Near(),
        GRID,
        objective="mean(a/own_a.a, b/own_b.b)",
        references=own,
        constraints=["control > own_a.control/2"],
    )
    assert found.validation.keys() == found.test.keys() - {"chosen"} == {"base", "own_a", "own_b"}
    assert found.chosen.goodness == pytest.approx(
        np.mean([np.mean(found.chosen.scores[t]) / np.mean(found.validation[f"own_{t}"][t]) for t in "ab"])
    )


def test_what_test_examples_cannot_say_is_said(tmp_path):
    def alike(weights, split):
        return {
            "few": [1.0, 0.0, 1.0, 1.0],
            "same": [0.5] * 30,
            "hits": [1.0] * 20,
            "near": -abs(float(weights["w"][0])),
        }

    found = search(ONE, alike, {"lam": [0, 1]}, objective="near", journal=tmp_path / "j")
    told = [
        "no interval for same of base: all 30 are alike, which does not show how much they vary",
        "no interval for same of chosen: all 30 are alike, which does not show how much they vary",
        "few: 4 test examples are too few for any difference to be significant",
        "no interval for the difference in same: all 30 are alike, which does not show how much they vary",
    ]
    assert found.unsure() == found.as_dict()["unsure"] == told and all(line in str(found) for line in told)
    assert all(line[1:] in page({"j": read_record(tmp_path / "j")}) for line in told)
    assert "1 [0.8389, 1]" in str(found) and "0.5 [no interval]" in str(found)
    ends = found.as_dict()["intervals"]["chosen"]
    assert ends["hits"] == pytest.approx([0.8389, 1], abs=1e-4) and ends["same"] == [None, None] and "near" not in ends
    assert found.as_dict()["compared"]["same"] == {
        "difference": 0, "low": None, "high": None, "p": 1, "test": "sign test"
    }  # fmt: skip


# ---- refused
def test_test_examples_among_those_of_validation_are_refused_before_anything_runs():
    evaluate = Near(apart=False)
    with pytest.raises(MismatchError, match="test examples are among the validation examples") as error:
        search(ONE, evaluate, GRID)
    assert error.value.problems == ("a: 80 of 400", "b: 50 of 300") and not evaluate.calls


@pytest.mark.parametrize("told", [79, 81])
def test_fewer_identities_than_scores_are_refused_before_candidates_are_measured(told):
    evaluate = Near()
    evaluate.examples = lambda split: {**Near().examples(split), "a": [f"{split}{k}" for k in range(told)]}
    with pytest.raises(MismatchError, match="an identity for each example") as error:
        search(ONE, evaluate, GRID)
    assert error.value.problems == (f"a: {told} identities, 80 scores",) and len(evaluate.calls) == 1


def test_fewer_identities_than_test_scores_are_noted_everywhere(tmp_path):
    evaluate = Near()
    evaluate.examples = lambda split: {**Near().examples(split), "a": [f"{split}{k}" for k in range(80)]}
    found = search(ONE, evaluate, GRID, journal=tmp_path / "j")
    told = "test examples that are not told may be among those of validation; a: 80 identities, 400 scores"
    assert told in found.notes and told in found.as_dict()["notes"] and told in str(found)
    assert told in page({"j": read_record(tmp_path / "j")})


def test_a_metric_without_identities_is_noted():
    evaluate = Near()
    evaluate.examples = lambda split: {"a": Near().examples(split)["a"]}
    (note,) = search(ONE, evaluate, GRID, test=False).notes
    assert (
        note == "b, control: that validation and test examples differ is not checked, since its examples are not told"
    )
    (note,) = search(ONE, Near(), GRID, test=False).notes
    assert note.startswith("control: ")


@pytest.mark.parametrize("told", [["a0"], {"a": "a0"}, {"a": 3}, {"a": [["x"]]}, 7])
def test_what_are_no_identities_is_stated(told):
    evaluate = Near()
    evaluate.examples = lambda split: told
    with pytest.raises(TaskvecError, match="a list of identities for each metric"):
        search(ONE, evaluate, GRID)


def test_an_evaluator_that_tells_no_examples_is_noted():
    evaluate = Near()
    evaluate.examples = lambda split: None
    (note,) = search(ONE, evaluate, GRID, test=False).notes
    assert "does not tell its examples" in note


@pytest.mark.parametrize(
    ("changes", "kind", "what"),
    [
        ({"knobs": {}}, RecipeError, "lam has no range"),
        ({"knobs": {"lam": "0:1:0.1", "mu": "0:1:0.1"}}, RecipeError, "mu is no knob"),
        ({"knobs": {"lam": "0:1"}}, RecipeError, "a grid needs a step"),
        ({"objective": "mean(c)"}, RecipeError, "no metric is called c; there is a, b, control"),
        ({"objective": "a >= 0.5"}, RecipeError, "is a constraint"),
        ({"constraints": ["a"]}, RecipeError, "is no constraint"),
        ({"constraints": ["a >= own.a"]}, RecipeError, "no reference model is called own; there is base"),
        ({"rule": "smallest"}, RecipeError, "no rule is called smallest"),
        ({"recipe": recipe("lam*(a - base)")}, RecipeError, "add its base"),
        ({"recipe": recipe("base + a")}, RecipeError, "lam is no knob"),
        ({"sampler": "annealing"}, RecipeError, "no sampler is called annealing"),
    ],
)
def test_what_cannot_be_searched_is_stated_before_any_candidate_is_measured(changes, kind, what):
    evaluate = Near()
    arguments = {"recipe": ONE, "evaluate": evaluate, "knobs": GRID} | changes
    with pytest.raises(kind, match=what):
        search(**arguments)
    assert len(evaluate.calls) <= 1  # the base, of which the metrics' names are known


def test_the_rule_largest_is_about_one_knob():
    with pytest.raises(RecipeError, match="about one knob, and there are 2: x, y"):
        search(TWO, Near(), {"x": "0:1:0.5", "y": "0:1:0.5"}, rule="largest")


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


# ---- journal, kill, company
def same(one, two):
    """The same search, whatever time it took."""
    assert [(t.number, t.knobs, t.scores, t.goodness) for t in one.trials] == [
        (t.number, t.knobs, t.scores, t.goodness) for t in two.trials
    ]
    assert (one.chosen and one.chosen.knobs, one.how, one.test, one.validation) == (
        two.chosen and two.chosen.knobs, two.how, two.test, two.validation,
    )  # fmt: skip


def test_a_finished_search_is_read_from_its_journal_and_measures_nothing(tmp_path):
    first = search(ONE, Near(), GRID, journal=tmp_path / "j")
    evaluate = Near()
    same(search(ONE, evaluate, GRID, journal=tmp_path / "j"), first)
    assert not evaluate.calls


def test_more_trials_go_on_where_fewer_ended_and_every_look_at_test_is_counted(tmp_path):
    few = search(ONE, Near(), GRID, trials=5, journal=tmp_path / "j")
    all_of_them = search(ONE, Near(), GRID, journal=tmp_path / "j")
    assert len(few.trials) == 5 and len(all_of_them.trials) == 21
    assert (few.looks, all_of_them.looks) == (1, 2) and few.chosen.knobs != all_of_them.chosen.knobs


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_a_sampler_goes_on_as_if_it_had_not_been_stopped(tmp_path, sampler):
    if sampler != "random":
        pytest.importorskip("optuna")
    arguments = {"knobs": {"x": (0, 1), "y": (0, 1)}, "sampler": sampler, "seed": 3, "test": False}
    whole = search(TWO, Near(), trials=25, **arguments)
    search(TWO, Near(), trials=7, journal=tmp_path / "j", **arguments)
    search(TWO, Near(), trials=18, journal=tmp_path / "j", **arguments)
    same(search(TWO, Near(), trials=25, journal=tmp_path / "j", **arguments), whole)


SCRIPT = textwrap.dedent(
    """
    import sys, time
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
    from test_search import GRID, ONE, Near, search
    class Slow(Near):
        def __call__(self, weights, split):
            time.sleep(0.05)
            return super().__call__(weights, split)
    found = search(ONE, Slow(), GRID, journal=sys.argv[2])
    print(found.chosen.knobs["lam"], len(found.trials))
    """
)


def started(journal):
    arguments = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(journal)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, text=True, preexec_fn=heeds_ctrl_c, **pipes)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_started_again_it_finds_the_same(tmp_path, kind):
    for lines in (3, 9):
        process = started(tmp_path / "j")
        while not (tmp_path / "j").exists() or (tmp_path / "j").read_bytes().count(b'"trial"') < lines:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(kind)
        process.communicate()
        assert process.returncode != 0
    same(search(ONE, Near(), GRID, journal=tmp_path / "j"), search(ONE, Near(), GRID))


def test_several_processes_share_a_journal_and_find_what_one_finds(tmp_path):
    processes = [started(tmp_path / "j") for _ in range(3)]
    printed = {process.communicate()[0] for process in processes}
    alone = search(ONE, Near(), GRID)
    assert printed == {f"{alone.chosen.knobs['lam']} 21\n"}
    done = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert sorted(line["trial"] for line in done if "trial" in line) == list(range(21))
    same(search(ONE, Near(), GRID, journal=tmp_path / "j"), alone)


LOOKING = textwrap.dedent(
    """
    import sys, time
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
    from test_search import ONE, Near, search
    class Looking(Near):
        def __call__(self, weights, split):
            if split == "test":
                with open(sys.argv[3], "a") as file:
                    file.write(f"{weights['w'][0]:.2f}\\n")
                time.sleep(float(sys.argv[4]))
            return super().__call__(weights, split)
    found = search(ONE, Looking(), {"lam": (0, 1, 0.1)}, objective="mean(a, b)", journal=sys.argv[2])
    print(found.looks, found.chosen.metrics["a"], [n for n in found.notes if "begun" in n])
    """
)


def looking(home, seconds):
    arguments = [
        sys.executable,
        "-c",
        LOOKING,
        str(Path(__file__).parent),
        home / "j",
        home / "looks",
        str(seconds),
    ]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_processes_that_share_a_journal_look_at_test_examples_once(tmp_path):
    processes = [looking(tmp_path, 0.3) for _ in range(4)]
    printed = [process.communicate()[0] for process in processes]
    assert len({*printed}) == 1 and printed[0].startswith("1 ") and printed[0].endswith("[]\n")
    looks = (tmp_path / "looks").read_text().split()
    assert sorted(looks) == sorted({*looks}) and len(looks) == 2  # the base and the chosen one


def test_a_look_that_was_killed_is_taken_again_by_another_process_and_told(tmp_path):
    process = looking(tmp_path, 60)
    while not (tmp_path / "looks").exists():
        time.sleep(0.02)
    process.kill()  # at the base
    process.communicate()
    process = looking(tmp_path, 1.5)
    while len((tmp_path / "looks").read_text().split()) < 3:
        time.sleep(0.02)
    process.kill()  # at the chosen one
    process.communicate()
    printed = [p.communicate()[0] for p in [looking(tmp_path, 0), looking(tmp_path, 0)]]
    looks = (tmp_path / "looks").read_text().split()
    assert len(looks) == 4 and looks[0] == looks[1] == "0.00" and looks[2] == looks[3] != "0.00"
    assert len({*printed}) == 1 and printed[0].startswith("1 ")
    assert "judging the chosen model on test examples was begun 2 times" in printed[0]


def test_stopping_early_waits_for_larger_values_that_another_process_is_at(tmp_path):
    """Else two processes choose, and look at test examples, twice."""
    code = LOOKING.replace('objective="mean(a, b)", ', 'rule="largest", early=True, constraints=["control >= 0.7"], ')
    code = code.replace(
        "            return super()",
        "            time.sleep(0.4 * (0.5 < weights['w'][0] < 0.85))\n            return super()",
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), tmp_path / "j", tmp_path / "looks", "0"]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate()[0] for process in processes}
    assert len(printed) == 1 and printed.pop().startswith("1 ")
    assert len((tmp_path / "looks").read_text().split()) == 2


def test_an_evaluator_that_raises_is_stated_by_its_own_words():
    def broken(weights, split):
        raise TaskvecError("no data today")

    evaluate = Near()
    evaluate.__class__ = type("Broken", (Near,), {"__call__": lambda self, w, split: broken(w, split)})
    with pytest.raises(TaskvecError, match="no data today"):
        search(ONE, evaluate, GRID)


# ---- several objectives --------------------------------------------------------------------------
def test_the_front_has_what_no_candidate_beats():
    found = search(TWO, Near(), {"x": (0, 1, 0.25), "y": (0, 1, 0.25)}, objective=["a", "control"], test=False)
    points = {t.number: (t.metrics["a"], t.metrics["control"]) for t in found.trials}
    beaten = {n for n, p in points.items() if any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points.values())}
    front = found.front()
    assert {points[t.number] for t in front} == {points[n] for n in points.keys() - beaten}
    assert len({t.goods for t in front}) == len(front) > 2 and found.chosen == front[0]
    assert "no candidate beats these" in str(found) and found.as_dict()["front"] == [t.number for t in front]


def test_nsga2_finds_a_front_and_goes_on_where_it_was(tmp_path):
    pytest.importorskip("optuna")
    options = {"objective": ["a", "control"], "sampler": "nsga2", "trials": 50, "seed": 1, "test": False}
    ranges = {"x": (0, 1), "y": (0, 1)}
    whole = search(TWO, Near(), ranges, **options)
    best = whole.front()
    assert max(t.metrics["a"] for t in best) > 0.7 and max(t.metrics["control"] for t in best) > 0.9

    class Mortal(Near):
        def __call__(self, weights, split):
            if len(self.calls) == 30:
                raise KeyboardInterrupt
            return super().__call__(weights, split)

    with pytest.raises(KeyboardInterrupt):
        search(TWO, Mortal(), ranges, journal=tmp_path / "j", **options)
    again = search(TWO, Near(), ranges, journal=tmp_path / "j", **options)
    assert [t.knobs for t in again.trials] == [t.knobs for t in whole.trials]


def test_nsga2_wants_several_objectives():
    with pytest.raises(RecipeError, match="several objectives"):
        search(TWO, Near(), {"x": (0, 1), "y": (0, 1)}, sampler="nsga2", trials=3)


# ---- racing --------------------------------------------------------------------------------------
class Parted:
    """`Near` without its single number, which can be asked for a part of its examples."""

    text = "parted"

    def __init__(self, start=0.0, stop=1.0, counted=None):
        self.start, self.stop, self.counted = start, stop, [] if counted is None else counted

    def examples(self, split):
        return Near().examples(split)

    def part(self, start, stop):
        return Parted(start, stop, self.counted)

    def __call__(self, weights, split):
        scores = {name: v for name, v in Near()(weights, split).items() if name != "control"}
        parts = {name: v[round(self.start * len(v)) : round(self.stop * len(v))] for name, v in scores.items()}
        self.counted.append(sum(map(len, parts.values())))
        return parts


def test_a_race_chooses_the_same_with_fewer_examples(tmp_path):
    slow, quick = Parted(), Parted()
    ranges = {"x": (-1, 1, 0.2), "y": (-1, 1, 0.2)}
    whole = search(TWO, slow, ranges, test=False)
    raced = search(TWO, quick, ranges, race=True, journal=tmp_path / "j", test=False)
    assert raced.chosen.knobs == whole.chosen.knobs and raced.chosen.scores == whole.chosen.scores
    assert len(raced.given_up) > 60 and len(raced.given_up) + len(raced.trials) == len(whole.trials) == 121
    assert sum(quick.counted) < 0.7 * sum(slow.counted)
    assert f"{len(raced.given_up)} more candidates were given up" in str(raced)
    by_knobs = {tuple(t.knobs.values()): t for t in whole.trials}
    assert all(by_knobs[tuple(t.knobs.values())].scores == t.scores for t in raced.trials)  # parts joined to the whole
    again = search(TWO, quick, ranges, race=True, journal=tmp_path / "j", test=False)
    assert again.trials == raced.trials and again.given_up == raced.given_up


def test_an_evaluator_without_parts_or_with_single_numbers_is_not_raced():
    class Single(Parted):
        def __call__(self, weights, split):
            return super().__call__(weights, split) | {"norm": 1.0}

        def part(self, start, stop):
            return Single(start, stop)

    for evaluate in (Near(), Single()):
        found = search(ONE, evaluate, GRID, objective="mean(a, b)", race=True, test=False)
        assert not found.given_up and len(found.trials) == 21


def test_a_journal_is_read_back_without_its_models(tmp_path):
    found = search(ONE, Near(), GRID, objective="mean(a, b)", journal=tmp_path / "j")
    again = read_record(tmp_path / "j")
    assert str(again) == str(found) and again.as_dict() == found.as_dict() and again.model.startswith("0.")
    (tmp_path / "half").write_bytes(b"\n".join((tmp_path / "j").read_bytes().splitlines()[:-1]) + b"\n")
    with pytest.raises(TaskvecError, match="has not ended"):
        read_record(tmp_path / "half")
    (tmp_path / "none").write_text('{"a": 1}\n')
    with pytest.raises(TaskvecError, match="no journal"):
        read_record(tmp_path / "none")


# ---- seeds ---------------------------------------------------------------------------------------
SEEDS = [tv.from_arrays(model(v, 0), f"a{k}") for k, v in enumerate((0.9, 1.1, 1.3))]


def test_of_several_seeds_the_mean_counts_and_the_spread_is_told(tmp_path):
    from scipy import stats

    family = tv.parse("base + lam*(a - base)", base=BASE, a=A)
    others = [{"a": other} for other in SEEDS]
    found = search(family, Near(), GRID, objective="a", replicates=others, journal=tmp_path / "j")
    places = [1, 0.9, 1.1, 1.3]

    def hit(lam, split):
        return np.array([np.abs(TARGETS[split]["a"] - lam * p) < 0.25 for p in places], float)

    lam = found.chosen.knobs["lam"]
    assert lam == max((k / 20 for k in range(21)), key=lambda v: (round(hit(v, "validation").mean(), 12), -v))
    assert found.chosen.metrics["a"] == pytest.approx(hit(lam, "validation").mean())
    assert found.test["chosen"]["a"] == pytest.approx(hit(lam, "test").mean(0).tolist())
    means = hit(lam, "test").mean(1)
    told = found.spread()["a"]
    assert told.values == pytest.approx(means) and told.deviation == pytest.approx(means.std(ddof=1))
    low, high = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    assert (told.interval.low, told.interval.high) == pytest.approx((low, high))
    assert "over 4 seeds" in str(found) and found.as_dict()["seeds"]["a"]["deviation"] == told.deviation
    again = search(family, Near(), GRID, objective="a", replicates=others, journal=tmp_path / "j")
    assert again.as_dict() == found.as_dict()
    with pytest.raises(TaskvecError, match="another search"):  # fewer seeds are another search
        search(family, Near(), GRID, objective="a", replicates=others[:1], journal=tmp_path / "j")


def test_means_of_hits_over_seeds_stay_within_0_and_1():
    def judge(weights, split):
        return {"sure": [1.0] * 20, "near": (np.arange(20) < 19 + (weights["w"][0] > 0.95)).astype(float)}

    family = tv.parse("base + lam*(a - base)", base=BASE, a=A)
    found = search(family, judge, {"lam": [1]}, objective="near", replicates=[{"a": other} for other in SEEDS])
    assert found.test["chosen"]["near"][19] == 0.75 and "near" in found.shares - found.hits
    ends = {name: found.interval(name, found.test["chosen"][name]) for name in ("sure", "near")}
    assert ends["sure"].low == pytest.approx(0.8389, abs=1e-4) and ends["sure"].high == 1
    assert 0.8 < ends["near"].low < 0.9875 < ends["near"].high <= 1


def test_a_race_over_seeds_finds_what_no_race_finds():
    family = tv.parse("base + lam*(a - base)", base=BASE, a=A)
    options = {"objective": "a", "replicates": [{"a": other} for other in SEEDS]}
    whole, raced = (search(family, Parted(), GRID, race=race, **options) for race in (False, True))
    assert raced.given_up and raced.chosen.knobs == whole.chosen.knobs
    assert raced.chosen.scores == whole.chosen.scores and raced.seeds == whole.seeds


def test_a_replicate_of_a_name_that_the_recipe_has_not_is_refused():
    with pytest.raises(RecipeError, match="has no c; it has base, a"):
        search(tv.parse("base + lam*(a - base)", base=BASE, a=A), Near(), GRID, replicates=[{"c": B}])


def test_jobs_share_the_trials_and_only_one_speaks(tmp_path):
    from safetensors.numpy import save_file

    for name, value in (("base", 0.0), ("a", 1.0)):
        save_file({"w": np.float32([value, value])}, tmp_path / f"{name}.safetensors")
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "def judge(weights, split):\n    time.sleep(0.15)\n    return {'near': -abs(float(weights['w'][0]) - 0.4)}\n"
    )
    line = [
        "search", "base + lam*(a - base)", "base=base.safetensors", "a=a.safetensors", "--evaluate", "slow.py:judge",
        "--knob", "lam=0:1:0.05", "--journal", "j.jsonl", "--jobs", "3", "--json", "-o", "out.safetensors",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "taskvec", *line], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["chosen"] == {"lam": 0.4} and len(found["trials"]) == 21 and not done.stderr
    lines = [json.loads(text) for text in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert len({line["pid"] for line in lines if "claim" in line}) == 3
    assert sum("trial" in line for line in lines) == 21 and sum("test" in line for line in lines) == 1
    assert float(tv.load(tmp_path / "out.safetensors")["w"][0]) == pytest.approx(0.4)


def test_a_pattern_is_a_range_for_all_knobs_that_fit():
    family = tv.parse("base + u_1*(a - base) + u_2*(b - base) + v*(b - base)", base=BASE, a=A, b=B)
    found = search(family, Near(), {"u_*": [0, 0.5], "v": 0, "u_2": [0.25]}, objective="mean(a, b)", test=False)
    assert {k: {t.knobs[k] for t in found.trials} for k in found.knobs} == {"u_1": {0, 0.5}, "u_2": {0.25}, "v": {0}}
    with pytest.raises(RecipeError, match=r"w_\* is no knob"):
        search(family, Near(), {"u_*": [0, 0.5], "v": 0, "w_*": 0}, test=False)


def test_a_choice_at_the_end_of_its_range_is_told():
    found = search(ONE, Near(), {"lam": (0, 0.2, 0.05)}, objective="mean(a, b)", test=False)
    assert found.chosen.knobs == {"lam": 0.2} and "lam = 0.2 is at the end of its range" in str(found)
    assert "end of its range" not in str(search(ONE, Near(), GRID, objective="mean(a, b)", test=False))
    free = search(TWO, Near(), {"x": (0, 0.1), "y": [0, 1]}, sampler="tpe", trials=3, objective="-a", test=False)
    assert not free.notes[1:]  # 0 is an end for good, and of two values one is no end
