"""A judge says how good a candidate is, which constraints it breaks, and which of all candidates is chosen.

It needs the scores alone: neither a model nor an evaluator, so a journal can be judged again whenever it is read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from taskvec.evals import Numbers, means
from taskvec.searching.entries import Line
from taskvec.searching.goals import Goal
from taskvec.searching.trial import Trial

RULES = ("best", "largest")


@dataclass(frozen=True, slots=True)
class Judge:
    """Objectives, the first of which decides, and constraints, with what the reference models scored."""

    goals: Sequence[Goal]
    minimise: bool  # make the first one small
    bounds: Sequence[Goal]
    references: Mapping[str, Mapping[str, float]]
    # trials judged before, by number and kind of scores: lines never change
    known: dict[tuple[int, str], Trial] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        goals: Sequence[Goal],
        minimise: bool,
        bounds: Sequence[Goal],
        references: Mapping[str, Mapping[str, Numbers]],
    ) -> "Judge":
        """A judge that knows what the reference models scored, example by example."""
        return cls(goals, minimise, bounds, {name: means(scores) for name, scores in references.items()})

    def check(self, scores: Mapping[str, Numbers]) -> None:
        """Raise RecipeError if the objectives or constraints use a metric that these scores do not have."""
        self.trial({"trial": -1, "knobs": {}, "scores": scores, "seconds": 0.0})

    def goods(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """The objectives as numbers of which larger is better: the first one is negated if it is to be small."""
        first, *rest = (goal.value({"": metrics, **self.references}) for goal in self.goals)
        return (-first if self.minimise else first, *rest)

    def trial(self, line: Line, scores: str = "scores") -> Trial:
        """The trial that a line of the journal stands for. Each line is judged once and remembered."""
        key = line["trial"], scores
        if key not in self.known:
            metrics = means(line[scores])
            table = {"": metrics, **self.references}
            broken = {b.text: amount for b in self.bounds if (amount := b.broken(table))}
            goods = self.goods(metrics)
            about = line["trial"], line["knobs"], line[scores], line["seconds"]
            self.known[key] = Trial(*about, goods, broken, line.get("memo", {}))
        return self.known[key]

    def all(self, lines: Sequence[Line]) -> list[Trial]:
        """Every trial that was judged on all examples, by number."""
        trials = {line["trial"]: self.trial(line) for line in lines if "trial" in line and "scores" in line}
        return [trials[number] for number in sorted(trials)]

    def finished(self, lines: Sequence[Line]) -> list[Trial]:
        """Every trial, including those that a race gave up, in the order of the journal."""
        return [self.trial(line, "scores" if "scores" in line else "partial") for line in lines if "trial" in line]

    def chosen(self, tried: Sequence[Trial], rule: str) -> tuple[Trial | None, str]:
        """(the chosen candidate, or None if no candidate keeps the constraints; the rule that chose it, in words)."""
        under = f" that keeps {' and '.join(b.text for b in self.bounds)}" if self.bounds else ""
        good = [t for t in tried if not t.broken]
        if rule == "largest":
            (name,) = tried[0].knobs
            how = f"the largest {name} of {len(tried)}{under}"
            return max(good, key=lambda t: t.knobs[name], default=None), how
        if len(tried) == 1:
            return max(good, default=None, key=_rank), f"the one candidate{under}"
        how = f"the {'lowest' if self.minimise else 'highest'} {self.goals[0].text} of {len(tried)} candidates{under}"
        return max(good, key=_rank, default=None), how


def _rank(trial: Trial) -> tuple[float, float, int]:
    """By the objective; among equal ones smaller coefficients rank higher, and among these the earlier trial."""
    return trial.goodness, -math.fsum(map(abs, trial.knobs.values())), -trial.number
