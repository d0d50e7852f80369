"""An evaluator judges a model: it takes weights and a split of the data and says how good they are, metric by metric.

1. A user writes a function `(weights, split) -> {metric: a number an example, or one number}`, or an object that can be
   called like one. That is all an evaluator must be (`Judges`).
2. It may offer more, and each such ability has a name here: it can tell its examples (`TellsExamples`), judge a part
   of them (`InParts`), say that they stand in a random order (`Shuffled`), say of which metrics less is better
   (`Falling`), or give the labels that a model predicts (`Predicts`).
3. What a user's evaluator offers is found out once, by `as_evaluator` (files.py), which makes an `Evaluator` of it.
   Everything else in taskvec works with an `Evaluator`. It has all of these methods, and each says by None or an empty
   list that the user's evaluator does not offer this.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from taskvec.algebra.weights import Weights
from taskvec.errors import NonFiniteError, TaskvecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLITS = ("validation", "test")
Numbers = list[float] | float  # the scores of one metric: one for each example, or a single one
Scores = Mapping[str, Any]  # metric -> a number an example (n,), or a single number, as a user's evaluator returns them


# ---- what a user's evaluator is, and what it may offer -------------------------------------------
class Judges(Protocol):
    """Every evaluator: it judges weights on the examples of a split, "validation" or "test"."""

    def __call__(self, weights: Weights, split: str, /) -> Scores:
        """Metric -> a number for each example, or a single number."""


class Named(Protocol):
    """An evaluator that says how journals and reports call it, such as "tasks.py:texts"."""

    @property
    def text(self) -> str:
        """The name. Another text is another evaluator: a journal does not go on with it."""


class TellsExamples(Protocol):
    """An evaluator that tells its examples, so that a search can check that no test example is used for validation."""

    def examples(self, split: str, /) -> Mapping[str, Sequence[Any]] | None:
        """Metric -> what identifies each of its examples (a digest, say), in order; None if it cannot tell."""


class InParts(Protocol):
    """An evaluator that can judge a part of its examples: a race then gives hopeless candidates up early."""

    def part(self, start: float, stop: float, /) -> Judges | None:
        """The same evaluator on the examples round(start * n) to round(stop * n) of each metric's n, in order, so that
        the scores of adjoining parts are those of the whole; None if it has no parts after all."""


class Shuffled(Protocol):
    """An evaluator that says whether its examples stand in a random order: the first of them are then a fair sample."""

    @property
    def shuffled(self) -> bool:
        """True if they do."""


class Falling(Protocol):
    """An evaluator that names the metrics of which less is better, such as a perplexity."""

    @property
    def falling(self) -> Sequence[str]:
        """The names of these metrics."""


class Predicts(Protocol):
    """An evaluator that gives what a model predicts: disentanglement compares labels, which say more than scores."""

    def predictions(self, weights: Weights, split: str, /) -> Mapping[str, Any] | None:
        """Metric -> a label for each example, (n,)."""


# ---- what everything else works with -------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Evaluator:
    """A user's evaluator with all that it offers. `as_evaluator` makes one; what is not offered is None or empty."""

    text: str  # how journals and reports call it
    judges: Judges
    tells: TellsExamples | None = None
    parts: InParts | None = None
    predicts: Predicts | None = None
    shuffled: bool = False  # its examples stand in a random order
    falling: Sequence[str] = ()  # the metrics of which less is better

    def __call__(self, weights: Weights, split: str) -> dict[str, Numbers]:
        """Metric -> the scores of this model. Raises TaskvecError for what are no scores, NonFiniteError."""
        return checked(called(self.text, self.judges, weights, split), self.text)

    def examples(self, split: str) -> Mapping[str, Sequence[Any]] | None:
        """Metric -> what identifies each of its examples; None if it does not tell them."""
        found: Mapping[str, Sequence[Any]] | None = (
            called(self.text, self.tells.examples, split) if self.tells else None
        )
        return found

    def part(self, start: float, stop: float) -> "Evaluator | None":
        """The evaluator on the examples from a share of each metric's to another; None if it cannot judge by parts."""
        found: Judges | None = called(self.text, self.parts.part, start, stop) if self.parts else None
        return None if found is None else Evaluator(self.text, found)

    def predictions(self, weights: Weights, split: str, metrics: Sequence[str]) -> "dict[str, NDArray[Any]] | None":
        """Metric -> the label that the model gives each example, (n,); None if the evaluator has no predictions.

        Raises TaskvecError for metrics that it leaves out.
        """
        import numpy as np

        found = called(self.text, self.predicts.predictions, weights, split) if self.predicts else None
        if found is None:
            return None
        if missing := [metric for metric in metrics if metric not in found]:
            raise TaskvecError(f"{self.text} has no predictions for {', '.join(missing)}")
        return {metric: np.asarray(found[metric]) for metric in metrics}


def called(text: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a user's function returns. It may raise anything: that becomes one TaskvecError, which says where."""
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
    """The scores that the evaluator `text` returned, as JSON has them: whole numbers of lists are int.

    Raises TaskvecError for what are none, NonFiniteError.
    """
    import numpy as np

    if not isinstance(scores, Mapping) or not scores:
        raise TaskvecError(
            f"{text} must return metrics, {{name: a number an example, or one number}}, not {scores!r:.80}"
        )
    found: dict[str, NDArray[Any]] = {}
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
            found[name] = array
    if problems:
        raise TaskvecError(f"{text} returned what are no metrics:", problems)
    spoiled = {name: int((~np.isfinite(array)).sum()) for name, array in found.items()}
    if bad := [f"{name}: {count} of {found[name].size} numbers" for name, count in spoiled.items() if count]:
        raise NonFiniteError(f"{text} returned NaN or Inf:", bad)
    return {
        name: [int(v) if v == int(v) else v for v in array.tolist()] if array.ndim else float(array)
        for name, array in found.items()
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
    """A model, judged once."""

    evaluator: str
    split: str
    scores: Mapping[str, Numbers]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: means, and how many examples they are of."""
        return {
            "evaluator": self.evaluator, "split": self.split, "metrics": means(self.scores),
            "examples": {name: len(v) for name, v in self.scores.items() if isinstance(v, list)},
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
    return Scored(evaluate.text, split, evaluate(weights, split))
