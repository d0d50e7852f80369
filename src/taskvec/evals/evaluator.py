"""An evaluator judges a model: it takes weights and a split of the data, and gives numbers for each metric.

1. A user writes a function `(weights, split) -> {metric: scores}`, or an object that can be called like one. Scores are
   a list with a number for each example, or a single number. That is all an evaluator must be (`Judges`).
2. It may offer more, and each such ability has a name here: it can tell its examples (`TellsExamples`), judge a part
   of them (`InParts`), or give the labels that a model predicts (`Predicts`). It may also have two attributes:
   `shuffled` says that its examples stand in a random order, `falling` names the metrics of which less is better.
3. `as_evaluator` (files.py) finds out once what a user's evaluator offers, and makes an `Evaluator` of it. Everything
   else in taskvec works with an `Evaluator`, which has a method or a field for each ability. It is None or empty if the
   user's evaluator does not offer the ability.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from taskvec.algebra.weights import Weights
from taskvec.errors import NonFiniteError, TaskvecError
from taskvec.sources.text import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("validation", "test")
Numbers = list[float] | float  # the scores of one metric: one for each example, or a single one
Scores = Mapping[str, Any]  # metric -> scores, as a user's evaluator returns them: (n,) for n examples, or a number


# ---- what a user's evaluator is, and what it may offer -------------------------------------------
class Judges(Protocol):
    """Every evaluator: it judges weights on the examples of a split, "validation" or "test"."""

    def __call__(self, weights: Weights, split: str, /) -> Scores:
        """Metric -> scores: a number for each example, or a single number."""


class Named(Protocol):
    """An evaluator that has a name for journals and reports, such as "tasks.py:texts"."""

    @property
    def text(self) -> str:
        """The name. A journal goes on only with an evaluator of the same name."""


class TellsExamples(Protocol):
    """An evaluator that tells its examples, so that a search can check that no test example is used for validation."""

    def examples(self, split: str, /) -> Mapping[str, Sequence[Any]] | None:
        """Metric -> an identity for each of its examples, such as a digest, in their order; None if it cannot tell."""


class InParts(Protocol):
    """An evaluator that can judge a part of its examples, so that a race can give up hopeless candidates early."""

    def part(self, start: float, stop: float, /) -> Judges | None:
        """The same evaluator for the examples round(start * n) <= k < round(stop * n) of each metric with n examples.
        Scores of neighbouring parts, one after the other, are those of the whole. None if it cannot judge parts."""


class Predicts(Protocol):
    """An evaluator that gives the labels that a model predicts, which `disentanglement` compares."""

    def predictions(self, weights: Weights, split: str, /) -> Mapping[str, Any] | None:
        """Metric -> a label for each example, (n,)."""


# ---- what everything else works with -------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Evaluator:
    """A user's evaluator with all that it offers, made by `as_evaluator`. What it does not offer is None or empty."""

    text: str  # its name in journals and reports
    judges: Judges
    tells: TellsExamples | None = None
    parts: InParts | None = None
    predicts: Predicts | None = None
    shuffled: bool = False  # whether its examples are in a random order
    falling: Sequence[str] = ()  # the metrics of which less is better

    def __call__(self, weights: Weights, split: str) -> dict[str, Numbers]:
        """Metric -> the scores of a model. Raises NonFiniteError, and TaskvecError if the evaluator fails, returns no
        scores, or names a metric in `falling` that it does not return."""
        scores = checked(called(self.text, self.judges, weights, split), self.text)
        if unknown := [name for name in self.falling if name not in scores]:
            raise TaskvecError(
                f"{self.text}: falling names {', '.join(unknown)}, and the metrics are {', '.join(scores)}"
            )
        return scores

    def examples(self, split: str) -> Mapping[str, Sequence[Any]] | None:
        """Metric -> an identity for each of its examples; None if the evaluator does not tell its examples."""
        identities: Mapping[str, Sequence[Any]] | None = (
            called(self.text, self.tells.examples, split) if self.tells else None
        )
        return identities

    def part(self, start: float, stop: float) -> "Evaluator | None":
        """The evaluator for a part of each metric's examples: see `InParts`. None if it cannot judge parts."""
        judges: Judges | None = called(self.text, self.parts.part, start, stop) if self.parts else None
        return None if judges is None else Evaluator(self.text, judges)

    def predictions(self, weights: Weights, split: str, metrics: Sequence[str]) -> "dict[str, NDArray[Any]] | None":
        """Metric -> the label that the model predicts for each example, (n,); None if the evaluator gives none.

        Raises TaskvecError if there are no labels for one of `metrics`.
        """
        import numpy as np

        labels = called(self.text, self.predicts.predictions, weights, split) if self.predicts else None
        if labels is None:
            return None
        if missing := [metric for metric in metrics if metric not in labels]:
            raise TaskvecError(f"{self.text} has no predictions for {', '.join(missing)}")
        return {metric: np.asarray(labels[metric]) for metric in metrics}


def called(text: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a user's function returns. Whatever it raises becomes a TaskvecError with the file and the line."""
    try:
        return function(*args)
    except TaskvecError:
        raise
    except Exception as error:
        last = inspect.getinnerframes(error.__traceback__)[-1] if error.__traceback__ else None
        where = f" ({last.filename.rpartition('/')[2]}, line {last.lineno})" if last else ""
        raise TaskvecError(f"{text} failed: {type(error).__name__}: {error}{where}") from error


# ---- scores --------------------------------------------------------------------------------------
def checked(scores: Any, text: str) -> dict[str, Numbers]:
    """The scores that the evaluator `text` returned, as lists and numbers. In lists, whole numbers are int.

    Raises TaskvecError for what are no scores, and NonFiniteError for NaN and Inf.
    """
    import numpy as np

    if not isinstance(scores, Mapping) or not scores:
        raise TaskvecError(
            f"{text} must return metrics, {{name: a number an example, or one number}}, not {scores!r:.80}"
        )
    arrays: dict[str, NDArray[Any]] = {}
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
            arrays[name] = array
    if problems:
        raise TaskvecError(f"{text} returned what are no metrics:", problems)
    spoiled = {name: int((~np.isfinite(array)).sum()) for name, array in arrays.items()}
    if bad := [f"{name}: {count} of {arrays[name].size} numbers" for name, count in spoiled.items() if count]:
        raise NonFiniteError(f"{text} returned NaN or Inf:", bad)
    return {
        name: [int(v) if v == int(v) else v for v in array.tolist()] if array.ndim else float(array)
        for name, array in arrays.items()
    }


def means(scores: Mapping[str, Numbers]) -> dict[str, float]:
    """The mean of every metric."""
    return {name: _mean(v) if isinstance(v, list) else v for name, v in scores.items()}


def _mean(values: list[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum is beyond all floats, the mean is not
        return math.fsum(v / len(values) for v in values)


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of one model on one split."""

    evaluator: str
    split: str
    scores: Mapping[str, Numbers]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: the mean of each metric, and the number of its examples."""
        return {
            "evaluator": self.evaluator, "split": self.split, "metrics": means(self.scores),
            "examples": {name: len(v) for name, v in self.scores.items() if isinstance(v, list)},
        }  # fmt: skip

    def __str__(self) -> str:
        content = self.as_dict()
        width = max(map(len, content["metrics"]))
        lines = [f"{self.evaluator}, {self.split} examples"]
        for name, value in content["metrics"].items():
            count = content["examples"].get(name)
            of_how_many = f"  ({counted(count, 'example')})" if count else ""
            lines.append(f"  {name:{width}}  {value:.4g}{of_how_many}")
        return "\n".join(lines)


def scored(evaluate: Evaluator, weights: Weights, split: str) -> Scored:
    """The scores of a model. Raises MassError unless the expression is a model or a task vector."""
    weights.kind()
    return Scored(evaluate.text, split, evaluate(weights, split))
