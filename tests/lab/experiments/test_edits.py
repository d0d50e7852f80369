"""Sequences of edits, on a bench whose scores are known: b does no harm, and c breaks a."""

from types import SimpleNamespace

import numpy as np
import pytest

import taskvec as tv
from taskvec.lab.experiments.edits import ADDED, AGAIN, ANEW, ONCE, REMOVED, SMALL, Editor, orders_of, steps_of

EXAMPLES = 40


def array(name, mass):
    return tv.from_arrays({"w": np.full(3, ord(name[0]), np.float32)}, name, mass=mass)


class Bench:
    """A task that is in the model is always right; without its vector it is right half of the time. Where c is in the
    model with a coefficient above 0.5, a is right for a quarter of the examples."""

    seeds = (0,)

    def __init__(self):
        self.base = array("base", 1)
        self.vectors = {name: array(name, 0) for name in "abc"}

    def vector(self, task, seed):
        return self.vectors[task]

    def tell(self, text, share=None):
        pass

    def right(self, weights, task):
        lams = {name: weights.terms.get(next(iter(v.terms))) for name, v in self.vectors.items()}
        there = {name for name, lam in lams.items() if lam is not None}
        broken = task == "a" and "c" in there and float(str(lams["c"])) > 0.5
        return EXAMPLES // 4 if broken else EXAMPLES if task in there else EXAMPLES // 2

    def scores(self, weights, tasks, split):
        return {t: [1] * (n := self.right(weights, t)) + [0] * (EXAMPLES - n) for t in tasks}

    def choose(self, family, tasks, grid):
        return SimpleNamespace(value=1.0 if len(tasks) == 1 else 0.5)


@pytest.fixture
def editor():
    return Editor(Bench(), ("a", "b", "c"), "0.5:1:0.5")


def test_a_sequence_adds_all_then_removes_and_adds_the_first():
    assert steps_of("ab") == [(ADDED, "a"), (ADDED, "b"), (REMOVED, "a"), (AGAIN, "a")]


def test_orders_are_all_or_a_sample_that_is_always_the_same():
    assert {*orders_of("abc", 6)} == {(x, y, z) for x in "abc" for y in "abc" for z in "abc" if len({x, y, z}) == 3}
    assert orders_of("abc", 2) == orders_of("abc", 6)[:2] == orders_of("cba", 2)


def test_the_step_that_breaks_a_task_is_found_with_its_cause(editor):
    walk = editor.walk(ANEW, ("a", "b", "c"), 0)
    (first, *later) = [c for c in walk.changes if c.regression]
    assert (first.step, first.kind, first.cause, first.task) == (2, ADDED, "c", "a")
    assert first.by == first.since == -0.75 and first.p < SMALL
    assert not later, "a was added again after c, and right after that it has a new reference"


def test_a_task_that_comes_after_the_one_that_would_break_it_has_nothing_to_lose(editor):
    walk = editor.walk(ANEW, ("c", "b", "a"), 0)
    assert walk.regressions == 0 and walk.final < 1
    assert [c.by for c in walk.changes if c.task == "a"] == [0.75, -0.75], "c is removed, and added again"


def test_removing_what_broke_a_task_gives_its_accuracy_back(editor):
    walk = editor.walk(ANEW, ("c", "a", "b"), 0)
    (back,) = [c for c in walk.changes if c.kind == REMOVED and c.task == "a"]
    assert back.by == 0.75 and back.cause == "c" and not back.regression


def test_with_a_small_lam_for_all_nothing_breaks(editor):
    walk = editor.walk(ONCE, ("a", "b", "c"), 0)
    assert walk.regressions == 0 and walk.final == 1 and walk.end == dict.fromkeys("abc", 0.5)
    assert {c.by for c in walk.changes} == {0}


def test_every_order_and_every_removal_is_the_recipe_that_is_written_down_at_once(editor):
    for order in orders_of("abc", 6):
        assert editor.same_recipe(editor.walk(ONCE, order, 0))


def test_a_recipe_that_differs_is_noticed(editor):
    walk = editor.walk(ONCE, ("a", "b", "c"), 0)
    editor.bench.base = 2 * editor.bench.base - editor.bench.vectors["a"]
    edited = editor.model({"a": 0.5}, 0)
    editor.model = lambda state, seed: edited
    assert not editor.same_recipe(walk)
