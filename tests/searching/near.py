"""What the tests of searches share: two tasks with best coefficients that are known by hand, and their evaluator."""

import re

import numpy as np

import taskvec as tv

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


def same(result, other):
    """Assert that two searches tried and chose the same, whatever time they took."""
    assert [(t.number, t.knobs, t.scores, t.goodness) for t in result.trials] == [
        (t.number, t.knobs, t.scores, t.goodness) for t in other.trials
    ]
    assert (result.chosen and result.chosen.knobs, result.how, result.test, result.validation) == (
        other.chosen and other.chosen.knobs, other.how, other.test, other.validation,
    )  # fmt: skip


def claimed(journal, total):
    """The number of the trial that a journal lets this process claim; None if no trial is free."""
    claim, _ = journal.claim(total)
    return claim and claim["claim"]


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


SEEDS = [tv.from_arrays(model(v, 0), f"a{k}") for k, v in enumerate((0.9, 1.1, 1.3))]
