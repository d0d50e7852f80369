"""Evaluators by their text: `FILE.yml`, tasks described there (suite.py), or `FILE.py:NAME`, a user's function."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskvec.algebra.weights import Weights
from taskvec.errors import RecipeError, TaskvecError
from taskvec.evals.evaluator import Evaluator, Scores
from taskvec.recipes.userfile import function_in


def evaluator_from(text: str) -> Evaluator:
    """ "tasks.yml" or "tasks.py:texts" -> what judges models. Runs the file, if it is Python.

    The name is a function of (weights, split), or of nothing: then it returns an evaluator. An attribute
    `examples(split)` says which examples are used, {metric: [an identity each]}: without it nobody can check that those
    of validation are not those of test. `part(start, stop)` makes it an evaluator that can race; with `shuffled`, which
    says that its examples stand in a random order, a race asks for one part, else for several. Raises RecipeError.
    """
    if text.endswith((".yml", ".yaml")):
        from taskvec.evals.suite import suite_from

        suite = suite_from(text)
        return Named(suite.text, suite, suite.examples)
    function, digest = function_in(text, "--evaluate takes FILE.py:function or FILE.yml")
    told = f"{text.rpartition('/')[2]} ({digest[:12]})"
    if isinstance(function, type) or not _parameters(function):
        made = _called(told, function)
        if not isinstance(made, Evaluator):
            raise RecipeError(
                f"{text}() must return an evaluator, with text, examples(split) and a call, not {made!r:.60}"
            )
        return Named(told, made, made.examples)
    if len(_parameters(function)) != 2:
        raise RecipeError(f"{text} must take (weights, split), or nothing and return an evaluator")
    return Named(told, function, getattr(function, "examples", None))


def as_evaluator(given: "Evaluator | Callable[[Weights, str], Scores] | str") -> Evaluator:
    """An evaluator as it is, a function (weights, split) by its name, a text by `evaluator_from`; or RecipeError."""
    if isinstance(given, str):
        return evaluator_from(given)
    if isinstance(given, Evaluator):
        return given
    if not callable(given) or len(_parameters(given)) != 2:
        raise RecipeError(f"an evaluator is a function of (weights, split), not {given!r:.60}")
    return Named(getattr(given, "__qualname__", type(given).__name__), given, getattr(given, "examples", None))


@dataclass(frozen=True, slots=True)
class Named:
    """A function as an evaluator. `text` of one in a file has the digest: a changed file is another evaluator."""

    text: str
    function: Callable[[Weights, str], Scores]
    known: Callable[[str], Mapping[str, Sequence[str]] | None] | None

    def examples(self, split: str) -> Mapping[str, Sequence[str]] | None:
        """What the function says of itself."""
        found: Mapping[str, Sequence[str]] | None = _called(self.text, self.known, split) if self.known else None
        return found

    @property
    def shuffled(self) -> bool:
        """Whether its examples stand in a random order, so that the first of them are a fair sample."""
        return bool(getattr(self.function, "shuffled", False))

    @property
    def falling(self) -> Sequence[str]:
        """Metrics of which less is better, as far as the function says."""
        return [*getattr(self.function, "falling", ())]

    def part(self, start: float, stop: float) -> "Named | None":
        """On a share of the examples, if the function knows how."""
        inner = getattr(self.function, "part", None)
        found = _called(self.text, inner, start, stop) if inner else None
        return Named(self.text, found, None) if found else None

    def predictions(self, weights: Weights, split: str) -> Mapping[str, Any] | None:
        """Labels by metric, if the function has them."""
        inner = getattr(self.function, "predictions", None)
        found: Mapping[str, Any] | None = _called(self.text, inner, weights, split) if inner else None
        return found

    def __call__(self, weights: Weights, split: str) -> Scores:
        """What the function returns."""
        found: Scores = _called(self.text, self.function, weights, split)
        return found


def _parameters(function: Any) -> list[str]:
    """Those without a default."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in found if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _called(text: str, function: Callable[..., Any], *args: Any) -> Any:
    """A user's code may raise anything: said in one line, where it happened."""
    try:
        return function(*args)
    except TaskvecError:
        raise
    except Exception as error:
        last = inspect.getinnerframes(error.__traceback__)[-1] if error.__traceback__ else None
        where = f" ({last.filename.rpartition('/')[2]}, line {last.lineno})" if last else ""
        raise TaskvecError(f"{text} failed: {type(error).__name__}: {error}{where}") from error
