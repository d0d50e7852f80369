"""What a search found: all candidates, the one that was chosen, and how sure one can be that it beats the base.

A `Record` is made from the lines of a journal alone (records.py). It says the findings to a person as text and to a
program as data; the report draws pages and pictures of it. `Result` is what `search` returns: a record and the model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.evals import Numbers, means
from taskvec.searching.evidence import Difference, Interval, Spread, are_hits, difference, holm, interval, spread
from taskvec.searching.trial import Trial

BASE, CHOSEN = "base", "chosen"  # the reference model that there always is, and the candidate that was chosen
ALPHA = 0.05  # the largest p-value at which a difference is called significant
MANY = 12  # more knobs than this are not listed one by one
WITHIN = 0.01  # an objective counts as as good as the best one if it is at most this much worse


@dataclass(frozen=True)
class Record:
    """What a journal knows of a search. str(record) is for people, `as_dict()` for programs."""

    recipe: str  # with knobs
    model: str  # the recipe of what was chosen
    file: str  # the same as a recipe file, which says where the models are
    chosen: Trial | None  # None: no candidate keeps the constraints, and the answer is the base
    how: str  # the rule by which it was chosen, in words
    objectives: tuple[str, ...]  # the first one decides
    minimised: bool
    constraints: tuple[str, ...]
    trials: tuple[Trial, ...]  # those judged on all validation examples
    given_up: tuple[Trial, ...]  # those judged on a part of them alone, and found hopeless
    validation: Mapping[str, Mapping[str, Numbers]]  # reference model -> its scores
    test: Mapping[str, Mapping[str, Numbers]]  # "chosen" and the reference models -> their scores; empty if not wanted
    seeds: Mapping[str, list[float]]  # metric -> what the chosen model scores with each seed's vectors; empty for one
    looks: int  # for how many candidates judging on test examples was begun with this journal
    notes: tuple[str, ...] = ()

    @property
    def base(self) -> Mapping[str, Numbers]:
        """What the base scores on validation examples: every metric that there is."""
        return self.validation[BASE]

    @property
    def knobs(self) -> tuple[str, ...]:
        """The names of the knobs."""
        return tuple(self.trials[0].knobs) if self.trials else ()

    def plateau(self, within: float = WITHIN) -> tuple[float, float] | None:
        """The values of the one knob around the best objective at which it is at most `within` worse, without a gap.

        None if there are several knobs. Constraints do not count; a candidate that was given up ends the plateau.
        """
        if len(self.knobs) != 1 or not self.trials:
            return None
        (knob,) = self.knobs
        curve = [(t.knobs[knob], t.goodness) for t in self.trials]
        curve = sorted([*curve, *((t.knobs[knob], -math.inf) for t in self.given_up)])
        best = max(range(len(curve)), key=lambda k: curve[k][1])
        first = last = best
        while first and curve[first - 1][1] >= curve[best][1] - within:
            first -= 1
        while last + 1 < len(curve) and curve[last + 1][1] >= curve[best][1] - within:
            last += 1
        return curve[first][0], curve[last][0]

    def front(self) -> tuple[Trial, ...]:
        """The Pareto front: the candidates that keep the constraints and that no other one beats.

        One beats another if it is as good in every objective and better in one. The best in the first objective comes
        first.
        """
        good = [t for t in self.trials if not t.broken]
        kept = [t for t in good if not any(_beats(u.goods, t.goods) for u in good)]
        first = {t.goods: t for t in reversed(kept)}  # of equal ones the first
        return tuple(sorted(first.values(), key=lambda t: t.goods, reverse=True))

    def compared(self, reference: str = BASE) -> dict[str, Difference]:
        """The chosen model against a reference on test examples, metric by metric; p-values hold for all together."""
        if CHOSEN not in self.test or reference not in self.test:
            return {}
        of_reference, of_chosen = self.test[reference], self.test[CHOSEN]
        differences = {
            name: difference([before], [after], hits=name in self.hits)
            for name, after in of_chosen.items()
            if isinstance(after, list) and isinstance(before := of_reference.get(name), list)
        }
        ps = holm({name: d.p for name, d in differences.items()})
        return {name: replace(d, p=ps[name]) for name, d in differences.items()}

    @cached_property
    def hits(self) -> frozenset[str]:
        """The metrics of hits and misses: no model ever scored anything but 0 and 1 on an example."""
        return frozenset(name for name, lists in self._judged().items() if all(map(are_hits, lists)))

    @cached_property
    def shares(self) -> frozenset[str]:
        """The metrics of hits and misses, and those that are means of them over seeds: between 0 and 1."""
        base = {name for name, v in self.base.items() if isinstance(v, list) and are_hits(v)}
        known = self._judged()
        return frozenset(name for name in base if all(0 <= v <= 1 for scores in known[name] for v in scores))

    def _judged(self) -> dict[str, list[list[float]]]:
        """Metric -> what every model scored, of metrics that have a score an example."""
        tables = [*self.validation.values(), *self.test.values(), *(t.scores for t in (*self.trials, *self.given_up))]
        lists_by_metric = {name: [v for t in tables if isinstance(v := t.get(name), list)] for name in self.base}
        return {name: lists for name, lists in lists_by_metric.items() if lists}

    def interval(self, metric: str, values: Numbers) -> Interval | None:
        """The mean of a model's scores in a metric, with its interval; None if the metric is a single number."""
        if not isinstance(values, list):
            return None
        mean = interval([values], hits=metric in self.hits)
        if metric not in self.shares or metric in self.hits:
            return mean
        if not mean.known:  # a share varies no more than hits of the same mean do
            return interval([values], hits=True)
        return replace(mean, low=max(0.0, mean.low), high=min(1.0, mean.high))

    def bands(self, metric: str) -> list[tuple[float, Interval]]:
        """The values of the one knob at which a metric has an interval, from the smallest on, and the intervals."""
        (knob,) = self.knobs
        trials = sorted(self.trials, key=lambda t: t.knobs[knob])
        intervals = [(t.knobs[knob], self.interval(metric, t.scores[metric])) for t in trials]
        return [(value, i) for value, i in intervals if i and i.known]

    def looked(self) -> list[str]:
        """A warning, if several candidates were judged on test examples; nothing if it was one."""
        about = f"{self.looks} candidates were judged on test examples with this journal"
        return [f"{about}: choosing among them by these scores would be choosing on test"] if self.looks > 1 else []

    def unsure(self) -> list[str]:
        """What the test examples are too few or too alike to show, a sentence for each thing."""
        sentences = [
            f"no interval for {metric} of {model}: {i.why}"
            for model, scores in self.test.items()
            for metric, values in scores.items()
            if (i := self.interval(metric, values)) and not i.known
        ]
        compared = self.compared()
        for name, d in compared.items():
            n = len(self.test[CHOSEN][name])  # type: ignore[arg-type]
            if d.interval.why:
                sentences.append(f"no interval for the difference in {name}: {d.interval.why}")
            if 2.0 ** (1 - n) * len(compared) > ALPHA:  # the least p that so many examples can have
                examples = f"{n} test examples are" if n > 1 else "one test example is"
                sentences.append(f"{name}: {examples} too few for any difference to be significant")
        return sentences

    def spread(self) -> dict[str, Spread]:
        """The chosen model over the seeds of its vectors, on test examples (validation, if test was not wanted)."""
        return {name: spread(values) for name, values in self.seeds.items()}

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON may hold it, with the means of the scores; the journal has the scores of each example."""
        plateau = self.plateau()
        return {
            "recipe": self.recipe, "chosen": self.chosen.knobs if self.chosen else None, "how": self.how,
            "model": self.model, "objectives": list(self.objectives), "looks_at_test": self.looks,
            "plateau": list(plateau) if plateau else None,
            "validation": {name: means(scores) for name, scores in self.validation.items()},
            "test": {name: means(scores) for name, scores in self.test.items()},
            "intervals": {
                name: {m: list(i.ends()) for m, values in scores.items() if (i := self.interval(m, values))}
                for name, scores in self.test.items()
            },
            "compared": {
                name: {
                    "difference": d.interval.mean, "low": d.interval.ends()[0], "high": d.interval.ends()[1], "p": d.p,
                    "test": d.test,
                }
                for name, d in self.compared().items()
            },
            "unsure": self.unsure(),
            "seeds": {
                name: {"mean": (i := s.interval).mean, "deviation": s.deviation, "low": i.low, "high": i.high}
                for name, s in self.spread().items()
            },
            "trials": [
                {"knobs": t.knobs, "metrics": t.metrics, "goodness": t.goodness, "broken": list(t.broken)}
                for t in self.trials
            ],
            "given_up": [{"knobs": t.knobs, "metrics": t.metrics} for t in self.given_up],
            "front": [t.number for t in self.front()], "notes": list(self.notes),
        }  # fmt: skip

    def __str__(self) -> str:
        none = f"no candidate will do, the answer is the base: {self.how}"
        lines = [f"{self.told()}: {self.how}" if self.chosen else none]
        if self.chosen:
            lines += [*self._flatness(), f"model: {self.model}"]
        lines += ["", *self._figures(), *self._in_words()]
        if self.seeds:
            split = "test" if CHOSEN in self.test else "validation"
            lines += ["", f"the chosen recipe with the vectors of each seed, {split} (mean ± deviation [t interval]):"]
            lines += [f"  {name}: {spread}" for name, spread in self.spread().items()]
        if self.given_up:
            lines.append(f"{len(self.given_up)} more candidates were given up after a part of the examples")
        if len(self.objectives) > 1:
            lines += ["", *self._front_table()]
        return "\n".join([*lines, *self.looked(), *(f"note: {note}" for note in self.notes)])

    def told(self) -> str:
        """The chosen knobs in words; if there are many, only their number and range."""
        if self.chosen is None or len(self.knobs) <= MANY:
            return self.chosen.told() if self.chosen else ""
        knobs = self.chosen.knobs
        return f"{len(knobs)} knobs from {min(knobs.values()):.3g} to {max(knobs.values()):.3g}"

    def _figures(self) -> list[str]:
        """A table: metrics against models, validation and test."""
        on_validation = {BASE: self.base, **({CHOSEN: self.chosen.scores} if self.chosen else {})}
        head = ["", *(f"validation: {name}" for name in on_validation), *(f"test: {name}" for name in self.test)]
        rows = []
        for metric in self.base:
            row = [metric, *(f"{means(scores)[metric]:.4g}" for scores in on_validation.values())]
            for scores in self.test.values():
                values = scores.get(metric)
                row.append("" if values is None else str(self.interval(metric, values) or f"{values:.4g}"))
            rows.append(row)
        return columns(head, rows)

    def _in_words(self) -> list[str]:
        """Where the chosen model and the base differ on test examples."""
        compared = self.compared()
        significant = {name: d for name, d in compared.items() if d.p <= ALPHA}
        lines = [
            f"{name}: {'up' if d.interval.mean > 0 else 'down'} by {abs(d.interval.mean):.4g}"
            f"{f' {d.interval.span}' if d.interval.known else ''}, {d.chance} ({d.test})"
            for name, d in significant.items()
        ]
        if rest := [name for name in compared if name not in significant]:
            lines.append(f"no significant difference: {', '.join(rest)}")
        number = f"{len(compared)} comparisons together, Holm" if len(compared) > 1 else "one comparison"
        about = f"on test against the base ({number}):"
        return [*(["", about] if compared else []), *(f"  {line}" for line in lines), *self.unsure()]

    def table(self) -> str:
        """Every trial: its knobs, its metrics, and the objective."""
        metrics = list(self.trials[0].metrics) if self.trials else []
        head = [*self.knobs, *metrics, *(["objective"] if len(self.objectives) == 1 else self.objectives), ""]
        rows = []
        for t in self.trials:
            numbers = [*(f"{t.knobs[k]:g}" for k in self.knobs), *(f"{t.metrics[m]:.4g}" for m in metrics)]
            values = [f"{v:.4g}" for v in self.values(t)]
            rows.append([*numbers, *values, f"breaks {', '.join(t.broken)}" if t.broken else ""])
        return "\n".join([*columns(head, rows), *self._flatness()])

    def values(self, trial: Trial) -> tuple[float, ...]:
        """The objectives of a trial as the user wrote them: the first one is not negated where it is to be small."""
        first, *rest = trial.goods
        return (-first if self.minimised else first, *rest)

    def _front_table(self) -> list[str]:
        rows = [[*(f"{t.knobs[k]:g}" for k in self.knobs), *(f"{v:.4g}" for v in self.values(t))] for t in self.front()]
        return ["no candidate beats these in all objectives:", *columns([*self.knobs, *self.objectives], rows)]

    def _flatness(self) -> list[str]:
        if (ends := self.plateau()) is None:
            return []
        return [f"{self.knobs[0]} from {ends[0]:g} to {ends[1]:g}: the objective is within {WITHIN:g} of its best"]


@dataclass(frozen=True)
class Result(Record):
    """What a search found; `weights` is the model."""

    weights: Weights = field(kw_only=True)  # the chosen model, or the base


def _beats(goods: tuple[float, ...], others: tuple[float, ...]) -> bool:
    """Whether a candidate with the first objectives is as good as one with the others in all, and better in one."""
    return goods != others and all(a >= b for a, b in zip(goods, others, strict=True))


def columns(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table as lines of text, with every column as wide as its widest cell and set to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [head, *rows]]
    return [line.rstrip() for line in lines]
