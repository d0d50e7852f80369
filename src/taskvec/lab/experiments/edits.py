"""Sequences of edits: vectors of tasks are added to a model and removed from it, and after every step all tasks that
are in the model are judged.

A sequence adds the tasks in one order, then removes the first of them and adds it again: +A +B +C -A +A. sequential.py
says what is concluded from many sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import permutations
from operator import add
from statistics import mean

from taskvec.algebra.coefficients import knob
from taskvec.algebra.weights import Weights
from taskvec.lab.bench import Bench
from taskvec.lab.experiments.common import values_of
from taskvec.lab.splits import draw
from taskvec.searching.evidence import difference, holm

ONCE, ANEW = "one λ for all steps", "λ chosen anew at each step"
ADDED, REMOVED, AGAIN = "a task is added", "a task is removed", "it is added again"
SMALL = 0.05  # p-values below it count


@dataclass(frozen=True, slots=True)
class Change:
    """What a step did to a task that was in the model before it and still is."""

    step: int
    kind: str
    cause: str  # the task that was added or removed
    task: str
    by: float  # the change of its test accuracy by this step
    since: float  # the change since it was added
    p: float  # of the paired test of `since`, with Holm's correction over the sequence

    @property
    def regression(self) -> bool:
        """Whether the task is worse than right after it was added."""
        return self.since < 0 and self.p < SMALL


@dataclass(frozen=True, slots=True)
class Walk:
    """A sequence of edits, with the vectors of one seed."""

    order: tuple[str, ...]
    seed: int
    changes: tuple[Change, ...]
    end: Mapping[str, float]  # task -> its λ in the last model
    final: float  # the mean test accuracy over all tasks of the last model

    @property
    def regressions(self) -> int:
        """How many comparisons with a reference are regressions."""
        return sum(change.regression for change in self.changes)


def orders_of(tasks: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Orders of the tasks, at most so many, as a hash of their names deals them."""
    return sorted(permutations(tasks), key=lambda order: draw("order", ", ".join(order)))[:most]


def steps_of(order: Sequence[str]) -> list[tuple[str, str]]:
    """(what is done, to which task), step by step."""
    return [*((ADDED, task) for task in order), (REMOVED, order[0]), (AGAIN, order[0])]


@dataclass
class Editor:
    """Edits the base of a bench with the vectors of these tasks. grid: the values that a λ is chosen from."""

    bench: Bench
    tasks: tuple[str, ...]
    grid: str
    lams: dict[int, float] = field(default_factory=dict)  # seed -> the one λ

    def all(self, way: str, orders: Sequence[tuple[str, ...]]) -> list[Walk]:
        """The sequences of these orders and of all seeds. way: how λ is chosen, ONCE or ANEW."""
        walked: list[Walk] = []
        total = len(orders) * len(self.bench.seeds)
        for seed in self.bench.seeds:
            for order in orders:
                share = (0.3 if way == ONCE else 0.65) * len(walked) / total + (0 if way == ONCE else 0.3)
                self.bench.tell(f"{way}: {', '.join(order)}; seed {seed}", share)
                walked.append(self.walk(way, order, seed))
        return walked

    def walk(self, way: str, order: tuple[str, ...], seed: int) -> Walk:
        """One sequence. The state of the model is {task: λ}."""
        state: dict[str, float] = {}
        references: dict[str, list[float]] = {}
        before: dict[str, list[float]] = {}
        made, ps = [], {}
        for step, (kind, task) in enumerate(steps_of(order)):
            if kind == REMOVED:
                del state[task]
            else:
                state[task] = self.one_lam(seed) if way == ONCE else self.own_lam(state, task, seed)
            scores = self.bench.scores(self.model(state, seed), [*state], "test")
            hits = {name: values_of(scores, name) for name in state}
            for other in (name for name in state if name != task):
                told = difference([references[other]], [hits[other]])
                ps[f"{step} {other}"] = told.p
                by = mean(hits[other]) - mean(before[other])
                made.append((step, kind, task, other, by, told.interval.mean))
            if kind != REMOVED:
                references[task] = hits[task]
            before = hits
        corrected = holm(ps)
        changes = tuple(Change(*row, p=corrected[f"{row[0]} {row[3]}"]) for row in sorted(made))
        return Walk(order, seed, changes, dict(state), mean(mean(hits[name]) for name in self.tasks))

    def model(self, state: Mapping[str, float], seed: int) -> Weights:
        """θ0 + Σ λ_t τ_t, written down at once in the order of the tasks, so that one model has one entry in the
        journal."""
        terms = (state[name] * self.bench.vector(name, seed) for name in self.tasks if name in state)
        return reduce(add, terms, self.bench.base)

    def one_lam(self, seed: int) -> float:
        """The λ of all vectors and steps: the best mean accuracy of the sum of all vectors."""
        if seed not in self.lams:
            total = reduce(add, (self.bench.vector(name, seed) for name in self.tasks))
            self.lams[seed] = self.bench.choose(self.bench.base + knob("lam") * total, self.tasks, self.grid).value
        return self.lams[seed]

    def own_lam(self, state: Mapping[str, float], task: str, seed: int) -> float:
        """The λ that is best for a task alone when its vector is added to the model as it is."""
        family = self.model(state, seed) + knob("lam") * self.bench.vector(task, seed)
        return self.bench.choose(family, [task], self.grid).value

    def same_recipe(self, sequence: Walk) -> bool:
        """Whether the edits of a sequence, one after the other, make the recipes that are written down at once: after
        the removal that of the model that never had the task, and at the end that of all tasks."""
        edited, lam, order = self.bench.base, self.one_lam(sequence.seed), sequence.order
        at_once = {REMOVED: order[1:], AGAIN: order}
        for kind, task in steps_of(order):
            part = lam * self.bench.vector(task, sequence.seed)
            edited = edited - part if kind == REMOVED else edited + part
            if kind in at_once and edited != self.model(dict.fromkeys(at_once[kind], lam), sequence.seed):
                return False
        return True
