"""Measuring candidates for a search: what the journal knows is not measured again, what it does not is written down."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskvec.errors import MismatchError
from taskvec.evals import Evaluator, checked, part_of
from taskvec.findings import Numbers, means
from taskvec.spaces import Knobs
from taskvec.stores import Line
from taskvec.trials import Journal, now
from taskvec.weights import Weights

QUARTER = 0.25  # of the examples, after which a candidate may be given up
Models = Sequence[Weights]  # the same recipe with other seeds' vectors; mostly one


@dataclass(frozen=True, slots=True)
class Found:
    """What an evaluator found: of several models the mean of their scores, and the mean of each metric by model."""

    scores: dict[str, Numbers]
    seconds: float
    seeds: dict[str, list[float]]  # metric -> a mean a model; empty for one model

    def line(self, key: str = "scores") -> Line:
        """As a journal has it."""
        return {key: self.scores, "seconds": round(self.seconds, 3)} | ({"seeds": self.seeds} if self.seeds else {})


class Book:
    """A journal and the evaluator whose findings it holds."""

    def __init__(self, journal: Journal, evaluate: Evaluator):
        self.journal, self.evaluate = journal, evaluate

    def lines(self) -> list[Line]:
        """All that is known."""
        return self.journal.lines()

    def reference(self, name: str, model: Weights, split: str) -> Mapping[str, Numbers]:
        """The scores of a reference model."""
        for line in self.lines():
            if line.get("reference") == name and line["split"] == split:
                return scores_of(line)
        found = self.measured([model], split)
        self.journal.add({"reference": name, "split": split, **found.line(), "time": now()})
        return found.scores

    def candidate(self, models: Models, knobs: Knobs) -> None:
        """See to the test scores of the chosen candidate."""
        if not any(line.get("test") == knobs for line in self.lines()):
            self.journal.add({"test": knobs, "split": "test", **self.measured(models, "test").line(), "time": now()})

    def note(self, line: Line) -> None:
        """A choice, if it is not the last one already."""
        choices = [{k: v for k, v in old.items() if k != "time"} for old in self.lines() if "choice" in old]
        if choices[-1:] != [line]:
            self.journal.add(line | {"time": now()})

    # ---- what the evaluator finds
    def measured(self, models: Models, split: str) -> Found:
        """Raises what the evaluator raises; MismatchError where the metrics or examples are not as before."""
        found = self._by(self.evaluate, models, split)
        self._check(found.scores, split)
        return found

    def first_part(self, models: Models) -> Found | None:
        """On the first quarter of the validation examples; None if that is not to be had."""
        part = part_of(self.evaluate, 0.0, QUARTER)
        if part is None or any(not isinstance(values, list) for values in self._before("validation").values()):
            return None
        return self._by(part, models, "validation")

    def last_part(self, models: Models, first: Found) -> Found:
        """All scores, once those on the first part are known."""
        part = part_of(self.evaluate, QUARTER, 1.0)
        assert part is not None
        rest = self._by(part, models, "validation")
        scores = {name: _joined(first.scores[name], values) for name, values in rest.scores.items()}
        self._check(scores, "validation")
        seeds = {}
        for name, late in rest.seeds.items():
            n, m = len(first.scores[name]), len(scores[name])  # type: ignore[arg-type]
            seeds[name] = [(n * a + (m - n) * b) / m for a, b in zip(first.seeds[name], late, strict=True)]
        return Found(scores, first.seconds + rest.seconds, seeds)

    def _by(self, evaluate: Evaluator, models: Models, split: str) -> Found:
        began = time.perf_counter()
        each = []
        for model in models:
            found = checked(evaluate(model, split), evaluate.text)
            each.append({name: plain(values) for name, values in found.items()})
            if problems := unlike(each[0], each[-1]):
                raise MismatchError(f"{evaluate.text} is not what it was with the seed before, {split}:", problems)
        seconds = time.perf_counter() - began
        if len(each) == 1:
            return Found(each[0], seconds, {})
        scores = {name: _averaged([scores[name] for scores in each]) for name in each[0]}
        return Found(scores, seconds, {name: [means(scores)[name] for scores in each] for name in scores})

    def _check(self, scores: Mapping[str, Numbers], split: str) -> None:
        if problems := unlike(self._before(split) or scores, scores):
            told = self.evaluate.text
            raise MismatchError(f"{told} is not what it was with the models before, {split}:", problems)

    def _before(self, split: str) -> Mapping[str, Numbers]:
        """The scores of some model that was judged before."""
        fitting = (line for line in self.lines() if "scores" in line and line.get("split", "validation") == split)
        return next((scores_of(line) for line in fitting), {})


def fingerprints(models: Sequence[Weights]) -> dict[str, str]:
    """Of every file and array below them, by name."""
    sources = dict.fromkeys(leaf for model in models for leaf in model.mentioned)
    return {source.text: source.fingerprint for source in sources}


def scores_of(line: Line) -> Mapping[str, Numbers]:
    """Of a line that has some."""
    found: Mapping[str, Numbers] = line["scores"]
    return found


def unlike(old: Mapping[str, Numbers], new: Mapping[str, Numbers]) -> list[str]:
    """Where two models were not judged by the same metrics on as many examples, in words."""

    def size(values: Numbers) -> str:
        return f"{len(values)} examples" if isinstance(values, list) else "a single number"

    names = {**old, **new}
    told = {n: tuple(size(s[n]) if n in s else "no metric" for s in (old, new)) for n in names}
    return [f"{name}: {after}, {before} before" for name, (before, after) in told.items() if after != before]


def _averaged(each: Sequence[Numbers]) -> Numbers:
    """The mean over models, example by example."""
    if isinstance(each[0], list):
        return [math.fsum(values) / len(each) for values in zip(*each, strict=True)]
    return math.fsum(each) / len(each)  # type: ignore[arg-type]


def _joined(first: Numbers, rest: Numbers) -> Numbers:
    assert isinstance(first, list) and isinstance(rest, list)
    return first + rest


def plain(values: Any) -> Numbers:
    """As JSON has it: whole numbers short."""
    if getattr(values, "ndim", 0):
        return [int(v) if v == int(v) else v for v in map(float, values)]
    return float(values)
