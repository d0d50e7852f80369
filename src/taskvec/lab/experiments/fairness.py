"""Fairness between two groups: cells of examples, what is computed from their accuracies, and skewed training sets.

The groups are two tasks of a suite with the same two classes, so the protected value of an example is the task that it
is of. A cell (g, c) has the examples of group g and class c, and h(g, c) is the accuracy on them.

    worst group                min h(g, c)
    accuracy                   mean h(g, c): all cells weigh the same
    demographic parity         |P(ŷ = 1 | g0) - P(ŷ = 1 | g1)|, with P(ŷ = 1 | g) = (h(g, 1) + 1 - h(g, 0)) / 2
    equalised odds             max over c of |h(g0, c) - h(g1, c)|

An example that is missed was given the other class, so that hits tell what was predicted. In the parity both classes of
a group weigh the same, and how often a class occurs in a group does not count. Equalised odds are the larger of the
differences of the rates of true and false positives, whichever class is called positive (Hardt et al., 2016).

A skewed training set of two groups has class 0 mostly in group 0 and class 1 mostly in group 1. These two cells are
called common, and the other two rare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.evals import Numbers
from taskvec.lab.bench import Bench, require, require_tasks
from taskvec.lab.experiments.common import values_of
from taskvec.lab.suite import Suite
from taskvec.lab.vectors import Drawn

Cell = tuple[str, str]  # (group, class)
Hits = Mapping[Cell, Sequence[float]]  # of one model, example by example
Accuracies = Mapping[Cell, float]


@dataclass(frozen=True, slots=True)
class Groups:
    """Two groups of two classes."""

    names: tuple[str, str]
    classes: tuple[str, str]

    @property
    def cells(self) -> list[Cell]:
        """All four."""
        return [*product(self.names, self.classes)]

    @property
    def common(self) -> list[Cell]:
        """The cells that are frequent in a skewed training set."""
        return [*zip(self.names, self.classes, strict=True)]

    @property
    def rare(self) -> list[Cell]:
        """The cells that are rare in it."""
        return [*zip(self.names, self.classes[::-1], strict=True)]

    def drawn(self, name: str, size: int, share: float) -> Drawn:
        """A training set with as many examples of one class as of the other, this share of them in common cells."""
        half = size // 2
        many = round(share * half)
        return Drawn(name, tuple((*cell, many if cell in self.common else half - many) for cell in self.cells))

    # ---- what is computed from accuracies
    def parity(self, h: Accuracies) -> float:
        """The demographic parity difference, from 0 to 1."""
        zero, one = self.classes
        first, second = ((h[group, one] + 1 - h[group, zero]) / 2 for group in self.names)
        return abs(first - second)

    def odds(self, h: Accuracies) -> float:
        """The equalised-odds difference, from 0 to 1."""
        first, second = self.names
        return max(abs(h[first, c] - h[second, c]) for c in self.classes)


def groups_of(suite: Suite, names: Sequence[str], experiment: str) -> Groups:
    """The groups of these two tasks. Raises RecipeError for tasks that cannot be groups."""
    require_tasks(suite, experiment, names)
    require(len({*names}) == len(names) == 2, f"{experiment}: groups are two tasks, not {', '.join(names) or 'none'}")
    first, second = (suite.specs[name].labels for name in names)
    require(
        {*first} == {*second} and len(first) == 2,
        f"{experiment}: groups have the same two classes; {names[0]} has {', '.join(first)}, and {names[1]} has "
        f"{', '.join(second)}",
    )
    return Groups((names[0], names[1]), (first[0], first[1]))


def accuracies(hits: Hits) -> dict[Cell, float]:
    """The accuracy of each cell."""
    return {cell: mean(values) for cell, values in hits.items()}


@dataclass(frozen=True, slots=True)
class ByCell:
    """The cells of two groups and some other tasks, as an evaluator whose metrics are cells and tasks."""

    bench: Bench
    groups: Groups
    others: tuple[str, ...] = ()
    shuffled = True
    falling = ()

    @property
    def metrics(self) -> dict[Cell, str]:
        """Cell -> its metric."""
        return {cell: f"cell_{number}" for number, cell in enumerate(self.groups.cells)}

    @property
    def text(self) -> str:
        """How results name it."""
        return f"{self.bench.suite.name}: cells of {' and '.join(self.groups.names)}; {', '.join(self.others)}"

    def examples(self, split: str) -> dict[str, Sequence[Any]]:
        """What identifies each example."""
        told = dict(self.bench.judge(self.others).examples(split)) if self.others else {}
        listed = self.bench.judge(self.groups.names).examples(split)
        return {**told, **self._dealt(split, {group: listed[group] for group in self.groups.names})}

    def __call__(self, weights: Weights, split: str) -> dict[str, Numbers]:
        """From the journal, or judged now."""
        scores = self.bench.scores(weights, [*self.groups.names, *self.others], split)
        of_groups = {group: values_of(scores, group) for group in self.groups.names}
        return {**{name: scores[name] for name in self.others}, **self._dealt(split, of_groups)}

    def hits(self, weights: Weights, split: str) -> dict[Cell, list[float]]:
        """The scores of a model on the examples of each cell."""
        scores = self.bench.scores(weights, self.groups.names, split)
        dealt = self._dealt(split, {group: values_of(scores, group) for group in self.groups.names})
        return {cell: dealt[metric] for cell, metric in self.metrics.items()}

    def accuracies(self, metrics: Mapping[str, float]) -> dict[Cell, float]:
        """The accuracy of each cell, out of the means of all metrics."""
        return {cell: metrics[metric] for cell, metric in self.metrics.items()}

    def _dealt(self, split: str, of_groups: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """What belongs to the examples of the groups, in their order, dealt to the metrics of the cells."""
        return {
            metric: [
                value
                for value, example in zip(
                    of_groups[group], self.bench.tasks.tasks[group].part(split, 0, 1), strict=True
                )
                if example.label == label
            ]
            for (group, label), metric in self.metrics.items()
        }
