"""A user's function, object or file becomes an evaluator at the border, or is refused; what it offers is kept."""

import numpy as np
import pytest

import taskvec as tv
from taskvec.errors import RecipeError, TaskvecError
from taskvec.evals import Evaluator, as_evaluator, evaluator_from, scored

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
    evaluator = evaluator_from(f"{file}:plain")
    assert (
        isinstance(evaluator, Evaluator)
        and evaluator.text.startswith("tasks.py:plain (")
        and evaluator.examples("test") is None
    )
    made = scored(evaluator, BASE, "test")
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
    evaluator = evaluator_from(f"{file}:{name}")
    assert [evaluator(BASE, "test")["calls"] for _ in range(3)] == [1, 2, 3]


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


class Full:
    """An evaluator with all abilities, by the names that docs/evaluators.md gives them."""

    text, shuffled, falling = "full", True, ["loss"]

    def examples(self, split):
        return {"loss": [split]}

    def part(self, start, stop):
        return lambda weights, split: {"loss": [stop - start]}

    def predictions(self, weights, split):
        return {"loss": [7]}

    def __call__(self, weights, split):
        return {"loss": [1.0]}


class Passing:
    """A wrapper that has nothing of its own and passes everything on."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, weights, split):
        return self.inner(weights, split)


@pytest.mark.parametrize("given", [Full(), Passing(Full())])
def test_all_that_an_object_offers_is_kept_also_by_a_wrapper_that_passes_it_on(given):
    evaluator = as_evaluator(given)
    assert (evaluator.text, evaluator.shuffled, [*evaluator.falling]) == ("full", True, ["loss"])
    assert evaluator.examples("test") == {"loss": ["test"]} and evaluator.part(0.25, 1)(BASE, "test") == {
        "loss": [0.75]
    }
    assert evaluator.predictions(BASE, "test", ["loss"])["loss"].tolist() == [7] and evaluator(BASE, "test") == {
        "loss": [1]
    }


def test_an_object_that_does_not_tell_its_examples_is_called_by_its_class():
    class Untold(Full):
        examples = None

    assert as_evaluator(Untold()).text.endswith("Untold") and as_evaluator(Untold()).examples("test") is None
