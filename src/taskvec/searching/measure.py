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
    """The scores of a candidate. If it is several models, `scores` are their means and `seeds` has each model's own."""

    scores: dict[str, Numbers]
    seconds: float
    seeds: dict[str, list[float]]  # metric -> the mean over examples of each model; empty for one model

    def line(self, key: str = "scores") -> Line:
        """The judgement as a part of a line of a journal."""
        return {key: self.scores, "seconds": round(self.seconds, 3)} | ({"seeds": self.seeds} if self.seeds else {})


def measure(evaluate: Evaluator, models: Models, split: str, before: Mapping[str, Numbers]) -> Judgement:
    """What a candidate scores on all examples of a split. before: what some other model scored there; may be empty.

    Raises TaskvecError for what the evaluator raises, and MismatchError if the metrics or the numbers of examples are
    not the same as before.
    """
    judgement = judged(evaluate, models, split)
    require_alike(evaluate, before, judgement, split)
    return judgement


def judged(evaluate: Evaluator, models: Models, split: str) -> Judgement:
    """What a candidate scores on the examples of an evaluator, which may be a part of another's."""
    began = time.perf_counter()
    each = [evaluate(models[0], split)]
    for model in models[1:]:
        each.append(evaluate(model, split))
        if problems := unlike(each[0], each[-1]):
            raise MismatchError(f"{evaluate.text} judged another seed by other metrics or examples, {split}:", problems)
    seconds = time.perf_counter() - began
    if len(each) == 1:
        return Judgement(each[0], seconds, {})
    scores = {name: _averaged([scores[name] for scores in each]) for name in each[0]}
    return Judgement(scores, seconds, {name: [means(scores)[name] for scores in each] for name in scores})


def require_alike(evaluate: Evaluator, before: Mapping[str, Numbers], judgement: Judgement, split: str) -> None:
    """Raise MismatchError if a candidate was not judged by the same metrics, on as many examples, as one before it."""
    if before and (problems := unlike(before, judgement.scores)):
        raise MismatchError(
            f"{evaluate.text} judged the models before by other metrics or examples, {split}:", problems
        )


def joined(each: Sequence[Judgement]) -> Judgement:
    """One judgement from those of several stretches of the examples, in their order. Every metric must have lists."""
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
