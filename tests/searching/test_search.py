"""A search chooses on validation examples and judges on test examples once; if it is killed, resumed or shared by
processes, it finds the same."""

import json
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
from searching.near import (
    BASE,
    GRID,
    ONE,
    TWO,
    A,
    B,
    Near,
    recipe,
    same,
    score,
)
from taskvec.errors import MissingExtra, OutputError, RecipeError
from taskvec.searching.search import search


def test_a_grid_finds_what_a_loop_finds():
    evaluate = Near()
    result = search(ONE, evaluate, GRID, objective="mean(a, b)")
    grid = [k / 20 for k in range(21)]
    best = max(grid, key=lambda lam: (score(lam), -lam))
    assert result.chosen.knobs == {"lam": best}
    assert [t.knobs["lam"] for t in result.trials] == grid
    assert [t.goodness for t in result.trials] == pytest.approx([score(lam) for lam in grid])
    assert result.weights == ONE.bind(lam=best)
    assert np.mean([np.mean(result.test["chosen"][t]) for t in "ab"]) == pytest.approx(score(best, "test"))
    assert "highest mean(a, b) of 21 candidates" in result.how
    tests = [w for split, w in evaluate.calls if split == "test"]
    assert len(tests) == 2 and result.looks == 1  # the chosen one and the base, once each


def test_a_knob_a_vector_is_as_good_or_better():
    common = search(ONE, Near(), GRID, objective="mean(a, b)", test=False)
    separate = search(TWO, Near(), {"x": (0, 1, 0.1), "y": (0, 1, 0.1)}, objective="mean(a, b)", test=False)
    assert separate.chosen.goodness >= common.chosen.goodness and len(separate.trials) == 121 and not separate.test


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
    with pytest.raises(RecipeError, match="stopping early needs the rule"):
        search(away, Near(), GRID, early=True)


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
    uninterrupted = search(TWO, Near(), trials=25, **arguments)
    search(TWO, Near(), trials=7, journal=tmp_path / "j", **arguments)
    search(TWO, Near(), trials=18, journal=tmp_path / "j", **arguments)
    same(search(TWO, Near(), trials=25, journal=tmp_path / "j", **arguments), uninterrupted)


SCRIPT = textwrap.dedent(
    """
    import sys, time
    sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]
    from test_search import GRID, ONE, Near, search
    class Slow(Near):
        def __call__(self, weights, split):
            time.sleep(0.05)
            return super().__call__(weights, split)
    result = search(ONE, Slow(), GRID, journal=sys.argv[2])
    print(result.chosen.knobs["lam"], len(result.trials))
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
    result = search(ONE, Looking(), {"lam": (0, 1, 0.1)}, objective="mean(a, b)", journal=sys.argv[2])
    print(result.looks, result.chosen.metrics["a"], [n for n in result.notes if "begun" in n])
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
    """Otherwise two processes choose different values, and test examples are looked at twice."""
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


def test_nsga2_finds_a_front_and_goes_on_where_it_was(tmp_path):
    pytest.importorskip("optuna")
    options = {"objective": ["a", "control"], "sampler": "nsga2", "trials": 50, "seed": 1, "test": False}
    ranges = {"x": (0, 1), "y": (0, 1)}
    uninterrupted = search(TWO, Near(), ranges, **options)
    best = uninterrupted.front()
    assert max(t.metrics["a"] for t in best) > 0.7 and max(t.metrics["control"] for t in best) > 0.9

    class Mortal(Near):
        def __call__(self, weights, split):
            if len(self.calls) == 30:
                raise KeyboardInterrupt
            return super().__call__(weights, split)

    with pytest.raises(KeyboardInterrupt):
        search(TWO, Mortal(), ranges, journal=tmp_path / "j", **options)
    again = search(TWO, Near(), ranges, journal=tmp_path / "j", **options)
    assert [t.knobs for t in again.trials] == [t.knobs for t in uninterrupted.trials]


def test_nsga2_wants_several_objectives():
    with pytest.raises(RecipeError, match="several objectives"):
        search(TWO, Near(), {"x": (0, 1), "y": (0, 1)}, sampler="nsga2", trials=3)


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
    printed = json.loads(done.stdout)
    assert printed["chosen"] == {"lam": 0.4} and len(printed["trials"]) == 21 and not done.stderr
    lines = [json.loads(text) for text in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert len({line["pid"] for line in lines if "claim" in line}) == 3
    assert sum("trial" in line for line in lines) == 21 and sum("test" in line for line in lines) == 1
    assert float(tv.load(tmp_path / "out.safetensors")["w"][0]) == pytest.approx(0.4)


def test_a_pattern_is_a_range_for_all_knobs_that_fit():
    family = tv.parse("base + u_1*(a - base) + u_2*(b - base) + v*(b - base)", base=BASE, a=A, b=B)
    result = search(family, Near(), {"u_*": [0, 0.5], "v": 0, "u_2": [0.25]}, objective="mean(a, b)", test=False)
    assert {k: {t.knobs[k] for t in result.trials} for k in result.knobs} == {"u_1": {0, 0.5}, "u_2": {0.25}, "v": {0}}
    with pytest.raises(RecipeError, match=r"w_\* is no knob"):
        search(family, Near(), {"u_*": [0, 0.5], "v": 0, "w_*": 0}, test=False)


@pytest.mark.parametrize("what", ["references", "replicates"])
def test_a_journal_knows_what_its_references_and_replicates_were_made_of(tmp_path, what):
    """Other sums of the same files are other models, whose scores must not be taken from the journal."""

    def given(share):
        model = share * A + (1 - share) * B
        return {"references": {"mix": model}} if what == "references" else {"replicates": [{"a": model}]}

    family = recipe("base + lam*(a - base)")
    search(family, Near(), GRID, journal=tmp_path / "j", test=False, **given(0.5))
    with pytest.raises(OutputError, match=f"another search(.|\n)*{what}"):
        search(family, Near(), GRID, journal=tmp_path / "j", test=False, **given(0.9))


def test_a_journal_tells_arrays_of_one_name_apart(tmp_path):
    def at(values):
        tuned, base = (tv.from_arrays({"w": np.full(2, v, np.float32)}) for v in values)
        return BASE + tv.knob("lam") * (tuned - base)

    search(at((1, 9)), Near(), GRID, journal=tmp_path / "j", test=False)
    with pytest.raises(OutputError, match=r"another search(.|\n)*sources"):
        search(at((5, 9)), Near(), GRID, journal=tmp_path / "j", test=False)


def test_an_error_in_a_trial_keeps_its_kind_its_problems_and_its_cause():
    class Failing(Near):
        def __call__(self, weights, split):
            if self.calls:
                raise MissingExtra("this evaluator", "eval")
            return super().__call__(weights, split)

    with pytest.raises(MissingExtra, match=r"trial .*this evaluator needs an extra") as error:
        search(ONE, Failing(), GRID, test=False)
    assert isinstance(error.value.__cause__, MissingExtra)
