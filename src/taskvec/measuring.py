"""Measuring candidates for a search: what the journal knows is not measured again, what it does not is written down."""

import time
from collections.abc import Mapping
from typing import Any

from taskvec.errors import MismatchError
from taskvec.evals import Evaluator, checked, part_of
from taskvec.findings import Numbers
from taskvec.spaces import Knobs
from taskvec.trials import Journal, Line, now
from taskvec.weights import Weights

QUARTER = 0.25  # of the examples, after which a candidate may be given up
Found = tuple[dict[str, Numbers], float]  # scores, seconds


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
        scores, _ = self.measured(model, split)
        self.journal.add({"reference": name, "split": split, "scores": scores, "time": now()})
        return scores

    def candidate(self, model: Weights, knobs: Knobs) -> None:
        """See to the test scores of the chosen candidate."""
        if not any(line.get("test") == knobs for line in self.lines()):
            scores, _ = self.measured(model, "test")
            self.journal.add({"test": knobs, "split": "test", "scores": scores, "time": now()})

    def note(self, line: Line) -> None:
        """A choice, if it is not the last one already."""
        choices = [{k: v for k, v in old.items() if k != "time"} for old in self.lines() if "choice" in old]
        if choices[-1:] != [line]:
            self.journal.add(line | {"time": now()})

    # ---- what the evaluator finds
    def measured(self, model: Weights, split: str) -> Found:
        """Raises what the evaluator raises; MismatchError where the metrics or examples are not as before."""
        return self._by(self.evaluate, model, split, lambda values: values)

    def first_part(self, model: Weights) -> tuple[float, dict[str, Numbers], float] | None:
        """(share, scores, seconds) on the first quarter of the validation examples; None if that is not to be had."""
        part = part_of(self.evaluate, 0.0, QUARTER)
        if part is None or any(not isinstance(values, list) for values in self._before("validation").values()):
            return None
        scores, seconds = self._by(part, model, "validation", None)
        return QUARTER, scores, seconds

    def last_part(self, model: Weights, first: Mapping[str, Numbers]) -> Found:
        """All scores, once those on the first part are known."""
        part = part_of(self.evaluate, QUARTER, 1.0)
        assert part is not None
        return self._by(part, model, "validation", lambda rest: {n: _joined(first[n], v) for n, v in rest.items()})

    def _by(self, evaluate: Evaluator, model: Weights, split: str, whole: Any) -> Found:
        began = time.perf_counter()
        found = checked(evaluate(model, split), evaluate.text)
        scores = {name: _plain(values) for name, values in found.items()}
        if whole is not None:
            scores = whole(scores)
            if problems := unlike(self._before(split) or scores, scores):
                raise MismatchError(f"{evaluate.text} is not what it was with the models before, {split}:", problems)
        return scores, time.perf_counter() - began

    def _before(self, split: str) -> Mapping[str, Numbers]:
        """The scores of some model that was judged before."""
        fitting = (line for line in self.lines() if "scores" in line and line.get("split", "validation") == split)
        return next((scores_of(line) for line in fitting), {})


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


def _joined(first: Numbers, rest: Numbers) -> Numbers:
    assert isinstance(first, list) and isinstance(rest, list)
    return first + rest


def _plain(values: Any) -> Numbers:
    """As JSON has it: whole numbers short."""
    if getattr(values, "ndim", 0):
        return [int(v) if v == int(v) else v for v in map(float, values)]
    return float(values)
