"""Every error that taskvec states, as one tree. `except TaskvecError` catches all of them.

TaskvecError
 + RecipeError            the text or the arguments of an expression are wrong
   - UnknownName          the text uses a name that has no meaning here; the message names the nearest known one
   - UnboundKnob          numbers were asked of a recipe that still has knobs
 + MassError              an expression is neither a model (mass 1) nor a task vector (mass 0)
 + MismatchError          the sources differ in names, shapes or dtypes
 + FingerprintError       a task vector was put on a base that it was not made from
 + FormatError            a file is not what its header says, or taskvec cannot read its format
 + SourceChanged          a file changed or vanished while it was read
 + NonFiniteError         there is NaN or Inf in an input, the output dtype overflows, or a variance is below zero
 + OutputError            the output cannot be written to this place
   - NotEnoughSpace       the disk is too small for the output
 + DigestError            a file no longer holds what was written to it
 + MissingExtra           an optional dependency is not installed
 + DataError              data of an experiment cannot be had, are too few, or changed
"""

from collections.abc import Iterable
from typing import Any


class TaskvecError(Exception):
    """A stated problem. The message says what happened, where, and what to do.

    problems: every single problem, as a text each. The message lists them.
    """

    def __init__(self, message: str, problems: Iterable[str] = ()):
        self.problems = tuple(problems)
        super().__init__("\n".join([message, *(f"  - {p}" for p in self.problems)]))

    def __reduce__(self) -> Any:
        """How an error is pickled: one from a worker process keeps its class, whatever arguments that class takes."""
        return _again, (type(self), str(self), self.problems)


def retold(error: TaskvecError, message: str) -> TaskvecError:
    """An error of the same kind, with the same problems and another message."""
    return _again(type(error), message, error.problems)


def _again(kind: type[TaskvecError], message: str, problems: tuple[str, ...]) -> TaskvecError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.problems = problems
    return error


class RecipeError(TaskvecError):
    """The text or the arguments of an expression are wrong."""


class UnknownName(RecipeError):
    """The text uses a name that has no meaning here."""


class UnboundKnob(RecipeError):
    """Numbers were asked of a recipe that still has knobs."""


class MassError(TaskvecError):
    """An expression is neither a model (mass 1) nor a task vector (mass 0)."""


class MismatchError(TaskvecError):
    """The sources differ in names, shapes or dtypes."""


class FingerprintError(TaskvecError):
    """A task vector was put on a base that it was not made from."""


class FormatError(TaskvecError):
    """A file is not what its header says, or taskvec cannot read its format."""


class SourceChanged(TaskvecError):
    """A file changed or vanished while it was read."""


class NonFiniteError(TaskvecError):
    """There is NaN or Inf in an input, the output dtype overflows, or a variance is below zero and becomes NaN."""


class OutputError(TaskvecError):
    """The output cannot be written to this place."""


class NotEnoughSpace(OutputError):
    """The disk is too small for the output."""


class DigestError(TaskvecError):
    """A file no longer holds what was written to it."""


class DataError(TaskvecError):
    """Data of an experiment cannot be had, are too few, or changed since they were last used."""


class MissingExtra(TaskvecError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str):
        super().__init__(f'{what} needs an extra: pip install "taskvec[{extra}]"')


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known name that is most like it, or "" if none is."""
    import difflib  # for errors alone

    close = difflib.get_close_matches(str(name), [*known], n=1)
    return f" (did you mean {close[0]}?)" if close else ""
