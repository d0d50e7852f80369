"""The border between a user's evaluator and taskvec: what a user gives becomes an `Evaluator` here, or is refused.

A user gives a function, an object, or a text: "FILE.yml" describes tasks (suite.py), "FILE.py:NAME" names a function or
a class in a Python file. This is the only place that asks what such a function or object offers (`_with_abilities`).
"""

import inspect
from typing import Any, TypeGuard

from taskvec.errors import RecipeError
from taskvec.evals.evaluator import Evaluator, Judges, Named, called
from taskvec.recipes.userfile import function_in

Given = Evaluator | Judges | str  # what a user may give as an evaluator


def as_evaluator(given: Given) -> Evaluator:
    """An evaluator made of a function (weights, split), of an object that can be called like one, or of a text.

    An object that has `text` and `examples` is named by its text, any other by the name of its function or class.
    Raises RecipeError.
    """
    if isinstance(given, str):
        return evaluator_from(given)
    if isinstance(given, Evaluator):
        return given
    if _is_complete(given):
        return _with_abilities(given.text, given)
    if not callable(given) or len(_parameters(given)) != 2:
        raise RecipeError(f"an evaluator is a function of (weights, split), not {given!r:.60}")
    return _with_abilities(getattr(given, "__qualname__", type(given).__name__), given)


def evaluator_from(text: str) -> Evaluator:
    """The evaluator that "tasks.yml" or "tasks.py:texts" names. A Python file is run.

    In a Python file, the name is a function (weights, split), or a function or class without parameters that gives an
    evaluator. evaluator.py and docs/evaluators.md say which further attributes it may have. Raises RecipeError.
    """
    if text.endswith((".yml", ".yaml")):
        from taskvec.evals.suite import suite_from

        suite = suite_from(text)
        return _with_abilities(suite.text, suite)
    function, digest = function_in(text, "--evaluate takes FILE.py:function or FILE.yml")
    name = f"{text.rpartition('/')[2]} ({digest[:12]})"  # a changed file is another evaluator
    if isinstance(function, type) or not _parameters(function):
        made = called(name, function)
        if not _is_complete(made):
            raise RecipeError(
                f"{text}() must return an evaluator, with text, examples(split) and a call, not {made!r:.60}"
            )
        return _with_abilities(name, made)
    if len(_parameters(function)) != 2:
        raise RecipeError(f"{text} must take (weights, split), or nothing and return an evaluator")
    return _with_abilities(name, function)


def _with_abilities(text: str, given: Any) -> Evaluator:
    """The evaluator made of a user's function or object, with each ability that it has (evaluator.py names them).

    Attributes are asked for by name. isinstance of a protocol would not do, since from Python 3.12 on it does not see
    what an object answers in `__getattr__`; a wrapper that passes everything on must have the abilities of what it
    wraps.
    """

    def having(ability: str) -> Any:
        return None if getattr(given, ability, None) is None else given

    return Evaluator(
        text,
        given,
        tells=having("examples"),
        parts=having("part"),
        predicts=having("predictions"),
        shuffled=bool(getattr(given, "shuffled", False)),
        falling=_names(text, getattr(given, "falling", None)),
    )


def _names(text: str, falling: Any) -> tuple[str, ...]:
    """The metrics of which less is better, given as one name or several. Raises RecipeError."""
    names = (falling,) if isinstance(falling, str) else falling or ()
    if not isinstance(names, list | tuple | set | frozenset) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{text}: falling is {falling!r}, not names of metrics of which less is better")
    return tuple(names)


def _is_complete(given: object) -> TypeGuard[Named]:
    """Whether this is an object with a name of its own that tells its examples, not just a function."""
    return callable(given) and hasattr(given, "text") and getattr(given, "examples", None) is not None


def _parameters(function: Any) -> list[str]:
    """The names of a function's positional parameters that have no default."""
    try:
        all_of_them = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = [p for p in all_of_them if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [p.name for p in positional if p.default is p.empty]
