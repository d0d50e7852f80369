"""What a search found: trials, the choice, and the evidence for it; as text, and as data for machines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from taskvec.evidence import Difference, bootstrap, difference, holm
from taskvec.spaces import Knobs
from taskvec.weights import Weights

CHOSEN = "chosen"
ALPHA = 0.05  # below which a difference is called one
WITHIN = 0.01  # of the best objective: what counts as as good
Numbers = list[float] | float  # of a metric: one an example, or a single one


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate, and what it scored on validation examples."""

    number: int
    knobs: Knobs
    scores: Mapping[str, Numbers]
    seconds: float
    goodness: float  # the objective; its negative where that is to be small
    broken: Mapping[str, float]  # the constraints that it does not keep, and by how much

    @property
    def metrics(self) -> dict[str, float]:
        """The mean of every metric."""
        return means(self.scores)


@dataclass(frozen=True)
class Result:
    """What a search found. str(result) says it to a person, `as_dict()` to a machine; `weights` is the model."""

    recipe: Weights
    chosen: Trial | None  # None: no candidate keeps the constraints, and the answer is the base
    base: Weights
    how: str  # the rule by which it was chosen, in words
    objective: str
    minimised: bool
    trials: tuple[Trial, ...]
    validation: Mapping[str, Mapping[str, Numbers]]  # reference model -> its scores
    test: Mapping[str, Mapping[str, Numbers]]  # "chosen" and the reference models -> their scores; empty if not wanted
    looks: int  # how many candidates were ever judged on test examples with this journal
    notes: tuple[str, ...] = ()

    @cached_property
    def weights(self) -> Weights:
        """The chosen model, or the base."""
        return self.recipe.bind(**self.chosen.knobs) if self.chosen else self.base

    @property
    def knobs(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.trials[0].knobs) if self.trials else ()

    def plateau(self, within: float = WITHIN) -> tuple[float, float] | None:
        """The values of the one knob around the best objective at which it is at most `within` worse, without a gap.

        None if there are several knobs. Constraints do not count.
        """
        if len(self.knobs) != 1 or not self.trials:
            return None
        curve = sorted((t.knobs[self.knobs[0]], t.goodness) for t in self.trials)
        best = max(range(len(curve)), key=lambda k: curve[k][1])
        first = last = best
        while first and curve[first - 1][1] >= curve[best][1] - within:
            first -= 1
        while last + 1 < len(curve) and curve[last + 1][1] >= curve[best][1] - within:
            last += 1
        return curve[first][0], curve[last][0]

    def compared(self, reference: str = "base") -> dict[str, Difference]:
        """The chosen model against a reference on test examples, metric by metric; p-values hold for all together."""
        if CHOSEN not in self.test:
            return {}
        one, two = self.test[reference], self.test[CHOSEN]
        found = {
            name: difference([before], [after])
            for name, after in two.items()
            if isinstance(after, list) and isinstance(before := one[name], list)
        }
        ps = holm({name: d.p for name, d in found.items()})
        return {name: replace(d, p=ps[name]) for name, d in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: means of the scores, which the journal has example by example."""
        plateau = self.plateau()
        return {
            "recipe": str(self.recipe), "chosen": self.chosen.knobs if self.chosen else None, "how": self.how,
            "model": str(self.weights), "plateau": list(plateau) if plateau else None, "looks_at_test": self.looks,
            "validation": {name: means(scores) for name, scores in self.validation.items()},
            "test": {name: means(scores) for name, scores in self.test.items()},
            "compared": {
                name: {"difference": d.interval.mean, "low": d.interval.low, "high": d.interval.high, "p": d.p}
                for name, d in self.compared().items()
            },
            "trials": [
                {"knobs": t.knobs, "metrics": t.metrics, "goodness": t.goodness, "broken": list(t.broken)}
                for t in self.trials
            ],
            "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        values = ", ".join(f"{k} = {v:g}" for k, v in self.chosen.knobs.items()) if self.chosen else ""
        none = f"no candidate will do, the answer is the base: {self.how}"
        lines = [f"{values}: {self.how}" if self.chosen else none]
        if self.chosen:
            lines += [*self._flatness(), f"model: {self.weights.text(self.recipe.names())}"]
        lines += ["", *self._figures(), *self._in_words()]
        if self.looks > 1:
            lines.append(f"{self.looks} candidates were judged on test examples with this journal: test chose, too")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _figures(self) -> list[str]:
        """A table: metrics against models, validation and test."""
        on_validation = {"base": self.validation["base"], **({CHOSEN: self.chosen.scores} if self.chosen else {})}
        head = ["", *(f"validation: {name}" for name in on_validation), *(f"test: {name}" for name in self.test)]
        rows = []
        for metric in self.validation["base"]:
            row = [metric, *(f"{means(scores)[metric]:.4g}" for scores in on_validation.values())]
            for scores in self.test.values():
                values = scores[metric]
                row.append(str(bootstrap([values])) if isinstance(values, list) else f"{values:.4g}")
            rows.append(row)
        return columns(head, rows)

    def _in_words(self) -> list[str]:
        """Where the chosen model and the base differ on test examples."""
        found = self.compared()
        sure = {name: d for name, d in found.items() if d.p <= ALPHA}
        lines = [
            f"{name}: {'up' if d.interval.mean > 0 else 'down'} by {abs(d.interval.mean):.4g} "
            f"[{d.interval.low:.4g}, {d.interval.high:.4g}], p = {d.p:.2g} ({d.test})"
            for name, d in sure.items()
        ]
        if rest := [name for name in found if name not in sure]:
            lines.append(f"no significant difference: {', '.join(rest)}")
        about = f"on test against the base ({len(found)} comparisons together, Holm):"
        return ["", about, *(f"  {line}" for line in lines)] if found else []

    def table(self) -> str:
        """Every trial: its knobs, its metrics, and the objective."""
        metrics = list(self.trials[0].metrics) if self.trials else []
        head = [*self.knobs, *metrics, "objective", ""]
        rows = []
        for t in self.trials:
            value = -t.goodness if self.minimised else t.goodness
            numbers = [*(f"{t.knobs[k]:g}" for k in self.knobs), *(f"{t.metrics[m]:.4g}" for m in metrics)]
            rows.append([*numbers, f"{value:.4g}", f"breaks {', '.join(t.broken)}" if t.broken else ""])
        return "\n".join([*columns(head, rows), *self._flatness()])

    def _flatness(self) -> list[str]:
        if (ends := self.plateau()) is None:
            return []
        return [f"{self.knobs[0]} from {ends[0]:g} to {ends[1]:g}: the objective is within {WITHIN:g} of its best"]


def means(scores: Mapping[str, Numbers]) -> dict[str, float]:
    """The mean of every metric."""
    return {name: math.fsum(v) / len(v) if isinstance(v, list) else v for name, v in scores.items()}


def columns(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of columns, to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [head, *rows]]
    return [line.rstrip() for line in lines]
