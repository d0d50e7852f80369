"""What an evaluator is, what it may return, and one judgement of one model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from taskvec.algebra.weights import Weights
from taskvec.errors import NonFiniteError, TaskvecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("validation", "test")
Scores = Mapping[str, Any]  # metric -> a number an example (n,), or a single number


@runtime_checkable
class Evaluator(Protocol):
    """Judges weights on the examples of a split, "validation" or "test"."""

    @property
    def text(self) -> str:
        """How journals and reports name it, such as "tasks.py:texts"."""

    def examples(self, split: str) -> Mapping[str, Sequence[str]] | None:
        """Metric -> what identifies each of its examples (a digest, say), in order; None if it cannot tell."""

    def __call__(self, weights: Weights, split: str) -> Scores:
        """Metric -> a number an example, or a single number."""


def part_of(evaluate: Evaluator, start: float, stop: float) -> "Evaluator | None":
    """The evaluator on the examples from a share of each metric's to another, in order; None if it has no `part`.

    `evaluate.part(start, stop)` is what a race needs (search): the examples from round(start * n) to round(stop * n) of
    each metric's n, so that the scores of adjoining parts are those of the whole.
    """
    part = getattr(evaluate, "part", None)
    found: Evaluator | None = part(start, stop) if part else None
    return found


def outputs_of(
    evaluate: Evaluator, weights: Weights, split: str, metrics: Sequence[str]
) -> "dict[str, NDArray[Any]] | None":
    """What the model answers for each example of some metrics, (n,) labels; None if the evaluator has no `predictions`.

    `evaluate.predictions(weights, split)` gives {metric: labels}. Raises TaskvecError for metrics that it leaves out.
    """
    import numpy as np

    predictions = getattr(evaluate, "predictions", None)
    found = predictions(weights, split) if predictions else None
    if found is None:
        return None
    if missing := [metric for metric in metrics if metric not in found]:
        raise TaskvecError(f"{evaluate.text} has no predictions for {', '.join(missing)}")
    return {metric: np.asarray(found[metric]) for metric in metrics}


def checked(scores: Any, text: str) -> "dict[str, NDArray[Any] | float]":
    """The scores that `text` returned, float64. Raises TaskvecError for what are none, NonFiniteError."""
    import numpy as np

    if not isinstance(scores, Mapping) or not scores:
        raise TaskvecError(
            f"{text} must return metrics, {{name: a number an example, or one number}}, not {scores!r:.80}"
        )
    found: dict[str, NDArray[Any] | float] = {}
    problems = []
    for name, values in scores.items():
        try:
            array = np.asarray(values.tolist() if hasattr(values, "tolist") else values, np.float64)
        except (TypeError, ValueError, OverflowError, RecursionError):
            problems.append(f"{name}: {values!r:.60} is no number and no list of them")
            continue
        if not isinstance(name, str) or array.ndim > 1 or not array.size:
            problems.append(f"{name}: {list(array.shape)} numbers, where one an example or a single one is wanted")
        else:
            found[name] = array if array.ndim else float(array)
    if problems:
        raise TaskvecError(f"{text} returned what are no metrics:", problems)
    spoiled = {name: int((~np.isfinite(values)).sum()) for name, values in found.items()}
    if bad := [f"{name}: {count} of {np.size(found[name])} numbers" for name, count in spoiled.items() if count]:
        raise NonFiniteError(f"{text} returned NaN or Inf:", bad)
    return found


@dataclass(frozen=True, slots=True)
class Scored:
    """A model, judged once."""

    evaluator: str
    split: str
    scores: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: means, and how many examples they are of."""
        return {
            "evaluator": self.evaluator, "split": self.split,
            "metrics": {name: mean(v) for name, v in self.scores.items()},
            "examples": {name: len(v) for name, v in self.scores.items() if getattr(v, "ndim", 0)},
        }  # fmt: skip

    def __str__(self) -> str:
        told = self.as_dict()
        width = max(map(len, told["metrics"]))
        lines = [f"{self.evaluator}, {self.split} examples"]
        for name, value in told["metrics"].items():
            count = told["examples"].get(name)
            lines.append(f"  {name:{width}}  {value:.4g}{f'  ({count} examples)' if count else ''}")
        return "\n".join(lines)


def scored(evaluate: Evaluator, weights: Weights, split: str) -> Scored:
    """Judge one model."""
    weights.kind()
    return Scored(evaluate.text, split, checked(evaluate(weights, split), evaluate.text))


def mean(values: Any) -> float:
    """Of a metric."""
    return math.fsum(values) / len(values) if getattr(values, "ndim", 0) else float(values)
