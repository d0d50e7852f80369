"""Evaluators out of a user's file: what they may be, what they may return, and how they fail."""

import json

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import NonFiniteError, RecipeError, TaskvecError
from taskvec.evals import Evaluator, as_evaluator, evaluator_from, scored
from taskvec.evals.evaluator import checked

BASE = tv.from_arrays({"w": np.float32([1, 2])}, "base")
FILE = """
import numpy as np

def plain(weights, split):
    return {"hits": [1, 0, 1], "norm": float(np.linalg.norm(weights["w"]))}

def told(weights, split):
    return plain(weights, split)

told.examples = lambda split: {"hits": [f"{split}{k}" for k in range(3)]}

class Live:
    text = "live"
    def __init__(self):
        self.calls = 0
    def examples(self, split):
        return None
    def __call__(self, weights, split):
        self.calls += 1
        return {"calls": self.calls}

def made():
    return Live()

def nothing():
    return 3

def three(weights, split, more):
    return {}

def broken(weights, split):
    return weights["w"][7]
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "tasks.py").write_text(FILE)
    return str(tmp_path / "tasks.py")


def test_a_function_of_weights_and_split_is_an_evaluator(file):
    found = evaluator_from(f"{file}:plain")
    assert isinstance(found, Evaluator) and found.text.startswith("tasks.py:plain (") and found.examples("test") is None
    made = scored(found, BASE, "test")
    assert made.as_dict()["metrics"] == pytest.approx({"hits": 2 / 3, "norm": 5**0.5})
    assert made.as_dict()["examples"] == {"hits": 3} and "(3 examples)" in str(made)
    assert evaluator_from(f"{file}:told").examples("test") == {"hits": ["test0", "test1", "test2"]}


def test_a_function_may_say_that_its_examples_are_shuffled():
    def near(weights, split):
        return {"x": [1.0]}

    near.part = lambda start, stop: near
    assert not as_evaluator(near).shuffled and as_evaluator(near).part(0, 0.25)(BASE, "test") == {"x": [1.0]}
    near.shuffled = True
    assert as_evaluator(near).shuffled


@pytest.mark.parametrize("name", ["made", "Live"])
def test_what_returns_an_evaluator_is_called_once(file, name):
    found = evaluator_from(f"{file}:{name}")
    assert [found(BASE, "test")["calls"] for _ in range(3)] == [1, 2, 3]


def test_a_changed_file_is_another_evaluator(file, tmp_path):
    before = evaluator_from(f"{file}:plain").text
    (tmp_path / "tasks.py").write_text(FILE + "\n# changed")
    assert evaluator_from(f"{file}:plain").text != before


def test_a_function_in_hand_is_an_evaluator_by_its_name():
    def near(weights, split):
        return {"x": 1.0}

    assert as_evaluator(near).text.endswith("near") and as_evaluator(near)(BASE, "test") == {"x": 1.0}
    ready = as_evaluator(near)
    assert as_evaluator(ready) is ready


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("nothing", "must return an evaluator"),
        ("three", "must take \\(weights, split\\)"),
        ("absent", "has no function absent"),
        ("np", "has no function np"),
    ],
)
def test_what_is_no_evaluator_is_stated(file, name, what):
    with pytest.raises(RecipeError, match=what):
        evaluator_from(f"{file}:{name}")


@pytest.mark.parametrize("text", ["tasks.py", "missing.py:f", "a.py:f.g"])
def test_what_names_no_function_is_stated(text):
    with pytest.raises(RecipeError):
        evaluator_from(text)


def test_an_evaluator_that_fails_says_where(file):
    with pytest.raises(TaskvecError, match=r"tasks.py:broken .* failed: IndexError: .*\(tasks.py, line 32\)"):
        evaluator_from(f"{file}:broken")(BASE, "test")


@pytest.mark.parametrize("given", [3, print, lambda weights: {}, None])
def test_what_cannot_judge_is_refused(given):
    with pytest.raises(RecipeError):
        as_evaluator(given)


@pytest.mark.parametrize(
    ("scores", "kind", "what"),
    [
        (None, TaskvecError, "must return metrics"),
        ({}, TaskvecError, "must return metrics"),
        ([1, 2], TaskvecError, "must return metrics"),
        ({"a": "high"}, TaskvecError, "a: 'high' is no number"),
        ({"a": 10**400}, TaskvecError, "a: 1000.* is no number"),
        ({"a": [1, 10**400]}, TaskvecError, "a: .1, 1000.* is no number"),
        ({"a": [[1, 2]]}, TaskvecError, "a: \\[1, 2\\] numbers"),
        ({"a": []}, TaskvecError, "a: \\[0\\] numbers"),
        ({"a": [1, None]}, TaskvecError, "a: "),
        ({"a": [1, np.nan, np.inf], "b": 1}, NonFiniteError, "a: 2 of 3 numbers"),
        ({"a": float("nan")}, NonFiniteError, "a: 1 of 1"),
    ],
)
def test_what_is_no_metric_is_stated(scores, kind, what):
    with pytest.raises(kind, match=what):
        checked(scores, "tasks.py:f")


def test_arrays_lists_tensors_and_booleans_are_numbers():
    torch = pytest.importorskip("torch")
    found = checked({"a": torch.tensor([True, False]), "b": np.float32(0.5), "c": [True, 1], "d": torch.tensor(2)}, "f")
    assert found == {"a": [1, 0], "b": 0.5, "c": [1, 1], "d": 2}


# ---- the verbs
@pytest.fixture
def world(tmp_path, build, file):
    build.model(tmp_path / "base", build.tensors(0))
    build.model(tmp_path / "math", build.tensors(1))
    (tmp_path / "tasks.py").write_text(
        "def away(weights, split):\n"
        "    name = sorted(weights)[0]\n"
        "    x = weights[name].ravel()[: 8 if split == 'validation' else 20].astype(float)\n"
        "    return {'near': (abs(x) < 1).astype(int), 'control': float(-abs(x).mean())}\n"
    )
    return tmp_path


NAMES = ("base=base", "math=math", "--evaluate", "tasks.py:away")


def test_eval_prints_what_the_evaluator_found(world, run):
    found = run("eval", "(base + math)/2", *NAMES, "--json")
    told = json.loads(found.stdout)
    assert told["metrics"].keys() == {"near", "control"} and told["examples"] == {"near": 8}
    assert run("eval", "(base + math)/2", *NAMES, "--split", "test").stdout.count("20 examples") == 1


def test_search_writes_the_chosen_model_and_goes_on_from_its_journal(world, run):
    command = ("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=0:1:0.25", "--objective", "control")
    command += ("--journal", "j.jsonl", "--json")
    told = json.loads(run(*command, "-o", "out").stdout)
    again = json.loads(run(*command).stdout)
    assert told == again and len(told["trials"]) == 5 and (world / "out/taskvec.json").is_file()
    best = max(told["trials"], key=lambda t: t["metrics"]["control"])
    assert told["chosen"] == best["knobs"]
    expected = run(
        "merge", "base + lam*(math - base)", *NAMES[:2], "--set", f"lam={best['knobs']['lam']}", "-o", "same"
    )
    assert expected.code == 0
    one, two = (next((world / n).glob("*.safetensors")).read_bytes() for n in ("out", "same"))
    assert one[-1000:] == two[-1000:]


def test_sweep_prints_every_value_and_the_plateau(world, run):
    found = run("sweep", "base + lam*(math - base)", *NAMES, "--knob", "lam=-0.5:2:0.5", "--objective", "control")
    assert len(found.stdout.splitlines()) == 1 + 6 + 1 and "within 0.01 of its best" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("search", "base + lam*(math - base)", *NAMES), "lam has no range"),
        (("search", "base + lam*(math - base)", *NAMES, "--knob", "lam"), "'lam' is not NAME=VALUES"),
        (("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=1:0"), "low not above high"),
        (("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=0:1"), "a grid needs a step"),
        (
            ("search", "base + lam*(math - base)", *NAMES, "--knob", "lam=0:1:.5", "--objective", "nea"),
            "did you mean near?",
        ),
        (("sweep", "lam*(math - base)", *NAMES, "--knob", "lam=0:1:.5"), "add its base"),
        (("eval", "base + lam*(math - base)", *NAMES), "names without a value: lam"),
        (("eval", "base", "base=base", "--evaluate", "tasks.py:nothing"), "has no function nothing; it has away"),
        (("eval", "base", "base=base", "--evaluate", "missing.py:f"), "missing.py does not exist"),
        (("search", "base + x*(math - base)", *NAMES, "--knob", "x=0:1:.5", "--journal", "base"), "base"),
        (("search", "base + x*(math - base)", *NAMES, "--knob", "x=0:1:.5", "--reference", "own=a b"), "is no recipe"),
    ],
)
def test_bad_input_is_one_stated_error(world, run, arguments, says):
    found = run(*arguments)
    assert found.code == 1 and found.stdout == "" and says in found.stderr
    assert "Traceback" not in found.stderr and found.stderr.startswith("error: ")
