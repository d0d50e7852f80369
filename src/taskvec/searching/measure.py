"""What an evaluator finds for one candidate.

A candidate is mostly one model. With replicates it is one model for each seed: the same recipe with the vectors of
other training runs. Each of them is judged, and a candidate's scores are the means over its models, example by example.
All candidates must be judged by the same metrics on as many examples, or they could not be compared: the scores of
a model that was judged `before` show what these are. Nothing here reads or writes the journal.
"""

import math
import operator
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskvec.algebra.weights import Weights
from taskvec.errors import MismatchError
from taskvec.evals import Evaluator, Numbers, means
from taskvec.searching.entries import Line, unlike

Models = Sequence[Weights]  # the same recipe with the vectors of other seeds; mostly one model


@dataclass(frozen=True, slots=True)
class Judgement:
    """The scores of a candidate: of several models the means, and also the mean of each metric for each model."""

    scores: dict[str, Numbers]
    seconds: float
    seeds: dict[str, list[float]]  # metric -> a mean a model; empty for one model

    def line(self, key: str = "scores") -> Line:
        """As a journal has it."""
        return {key: self.scores, "seconds": round(self.seconds, 3)} | ({"seeds": self.seeds} if self.seeds else {})


def measure(evaluate: Evaluator, models: Models, split: str, before: Mapping[str, Numbers]) -> Judgement:
    """What a candidate scores on all examples of a split. before: what some other model scored there, or nothing.

    Raises TaskvecError for what the evaluator raises; MismatchError where the metrics or examples are not as before.
    """
    found = judged(evaluate, models, split)
    require_alike(evaluate, before, found, split)
    return found


def judged(evaluate: Evaluator, models: Models, split: str) -> Judgement:
    """What a candidate scores on the examples of an evaluator, which may be a part of another's."""
    began = time.perf_counter()
    each = [evaluate(models[0], split)]
    for model in models[1:]:
        each.append(evaluate(model, split))
        if problems := unlike(each[0], each[-1]):
            raise MismatchError(f"{evaluate.text} is not what it was with the seed before, {split}:", problems)
    seconds = time.perf_counter() - began
    if len(each) == 1:
        return Judgement(each[0], seconds, {})
    scores = {name: _averaged([scores[name] for scores in each]) for name in each[0]}
    return Judgement(scores, seconds, {name: [means(scores)[name] for scores in each] for name in scores})


def require_alike(evaluate: Evaluator, before: Mapping[str, Numbers], found: Judgement, split: str) -> None:
    """Raise MismatchError where a candidate was not judged by the metrics and examples of one that was before it."""
    if before and (problems := unlike(before, found.scores)):
        raise MismatchError(f"{evaluate.text} is not what it was with the models before, {split}:", problems)


def joined(each: Sequence[Judgement]) -> Judgement:
    """The whole of what was measured on stretches of the examples, in their order; every metric has lists."""
    scores: dict[str, Numbers] = {name: [v for m in each for v in m.scores[name]] for name in each[0].scores}  # type: ignore[union-attr]
    seeds = {}
    for name in each[0].seeds:
        counts = [len(m.scores[name]) for m in each]  # type: ignore[arg-type]
        by_model = zip(*(m.seeds[name] for m in each), strict=True)
        seeds[name] = [math.fsum(map(operator.mul, counts, v)) / sum(counts) for v in by_model]
    return Judgement(scores, math.fsum(m.seconds for m in each), seeds)


def _averaged(each: Sequence[Numbers]) -> Numbers:
    """The mean over models, example by example."""
    if isinstance(each[0], list):
        return [math.fsum(values) / len(each) for values in zip(*each, strict=True)]
    return math.fsum(each) / len(each)  # type: ignore[arg-type]
