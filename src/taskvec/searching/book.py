"""Measuring candidates for a search: what the journal knows is not measured again, what it does not is written down."""

import math
import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError
from taskvec.evals import Evaluator, checked, part_of
from taskvec.evals.order import FIRST
from taskvec.searching.entries import Line, Numbers, unlike
from taskvec.searching.findings import means
from taskvec.searching.journal import Journal, now
from taskvec.searching.race import Deal, deal
from taskvec.searching.spaces import Knobs

Models = Sequence[Weights]  # the same recipe with other seeds' vectors; mostly one


@dataclass(frozen=True, slots=True)
class Found:
    """What an evaluator found: of several models the mean of their scores, and the mean of each metric by model."""

    scores: dict[str, Numbers]
    seconds: float
    seeds: dict[str, list[float]]  # metric -> a mean a model; empty for one model
    pieces: "Mapping[int, Found]" = field(default_factory=dict)  # of the first part of a race: its stretches

    def line(self, key: str = "scores") -> Line:
        """As a journal has it."""
        return {key: self.scores, "seconds": round(self.seconds, 3)} | ({"seeds": self.seeds} if self.seeds else {})


class Book:
    """A journal and the evaluator whose findings it holds."""

    def __init__(self, journal: Journal, evaluate: Evaluator):
        self.journal, self.evaluate = journal, evaluate

    def __str__(self) -> str:
        return str(self.journal.store)

    def lines(self) -> list[Line]:
        """All that is known."""
        return self.journal.lines()

    def reference(self, name: str, model: Weights, split: str) -> Mapping[str, Numbers]:
        """The scores of a reference model, judged once for all processes that share the journal."""
        what = {"reference": name, "split": split}
        return scores_of(self.journal.once(what, lambda: {**self.measured([model], split).line(), "time": now()}))

    def candidate(self, models: Models, knobs: Knobs) -> None:
        """See to the test scores of the chosen candidate, judged once for all processes that share the journal."""
        what = {"test": knobs, "split": "test"}
        self.journal.once(what, lambda: {**self.measured(models, "test").line(), "time": now()})

    def note(self, line: Line) -> None:
        """A choice, if it is not the last one already."""

        def last(lines: Sequence[Line]) -> bool:
            choices = [{k: v for k, v in old.items() if k != "time"} for old in lines if "choice" in old]
            return choices[-1:] == [line]

        self.journal.add_unless(line | {"time": now()}, last)

    # ---- what the evaluator finds
    def measured(self, models: Models, split: str) -> Found:
        """Raises what the evaluator raises; MismatchError where the metrics or examples are not as before."""
        found = self._by(self.evaluate, models, split)
        self._check(found.scores, split)
        return found

    def dealt(self) -> Deal | None:
        """Which validation examples a race looks at first; None where candidates must be judged on all at once."""
        if part_of(self.evaluate, 0.0, FIRST) is None:
            return None
        return deal(self.before("validation"), getattr(self.evaluate, "shuffled", False))

    def first_part(self, models: Models, by: Deal) -> "tuple[Found, Mapping[str, Sequence[int]]]":
        """(what they score on the examples that a race looks at first, the places of these by metric)."""
        pieces = {k: self._stretch(models, by, k) for k in by.first}
        places = {}
        for name, values in self.before("validation").items():
            lengths = [len(piece.scores[name]) for piece in pieces.values()]  # type: ignore[arg-type]
            found = by.places(len(values), lengths)  # type: ignore[arg-type]
            if found is None:
                told = f"{self.evaluate.text}: part(start, stop) must have the examples round(start*n) to round(stop*n)"
                raise MismatchError(f"{told}; of {len(values)} of {name} it has {lengths}")  # type: ignore[arg-type]
            places[name] = found
        return _joined([*pieces.values()], pieces), places

    def last_part(self, models: Models, by: Deal, first: Found) -> Found:
        """All scores, once those on the first part are known."""
        rest = {k: self._stretch(models, by, k) for k in range(len(by.stretches)) if k not in by.first}
        pieces = {**rest, **first.pieces}
        found = _joined([pieces[k] for k in sorted(pieces)])
        self._check(found.scores, "validation")
        return found

    def _stretch(self, models: Models, by: Deal, k: int) -> Found:
        part = part_of(self.evaluate, *by.stretches[k])
        assert part is not None
        found = self._by(part, models, "validation")
        before = self.before("validation")
        alike = found.scores.keys() == before.keys() and all(isinstance(v, list) for v in found.scores.values())
        if not alike:
            names = f"{', '.join(found.scores)}, and before {', '.join(before)}"
            raise MismatchError(f"{self.evaluate.text}: a part of the examples must have the metrics of all: {names}")
        return found

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
        if problems := unlike(self.before(split) or scores, scores):
            told = self.evaluate.text
            raise MismatchError(f"{told} is not what it was with the models before, {split}:", problems)

    def before(self, split: str) -> Mapping[str, Numbers]:
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


def _averaged(each: Sequence[Numbers]) -> Numbers:
    """The mean over models, example by example."""
    if isinstance(each[0], list):
        return [math.fsum(values) / len(each) for values in zip(*each, strict=True)]
    return math.fsum(each) / len(each)  # type: ignore[arg-type]


def _joined(each: Sequence[Found], pieces: "Mapping[int, Found] | None" = None) -> Found:
    """Of stretches of the examples, in order, the whole."""
    scores: dict[str, Numbers] = {name: [v for f in each for v in f.scores[name]] for name in each[0].scores}  # type: ignore[union-attr]
    seeds = {}
    for name in each[0].seeds:
        counts = [len(f.scores[name]) for f in each]  # type: ignore[arg-type]
        by_model = zip(*(f.seeds[name] for f in each), strict=True)
        seeds[name] = [math.fsum(map(operator.mul, counts, v)) / sum(counts) for v in by_model]
    return Found(scores, math.fsum(f.seconds for f in each), seeds, pieces or {})


def plain(values: Any) -> Numbers:
    """As JSON has it: whole numbers short."""
    if getattr(values, "ndim", 0):
        return [int(v) if v == int(v) else v for v in map(float, values)]
    return float(values)
