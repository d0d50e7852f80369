"""Every error that taskvec states, as one tree. A caller needs one `except TaskvecError`.

TaskvecError
 + RecipeError            the text of a recipe is not one
   - UnknownName          a name nobody gave; names the nearest one
   - UnboundKnob          a recipe with knobs was asked for numbers
 + MassError              the expression is neither a model (mass 1) nor a task vector (mass 0)
 + MismatchError          names, shapes or dtypes of the sources disagree
 + FingerprintError       a vector meets a base that it was not made from
 + FormatError            a file is not what its header says, or no reader knows it
 + SourceChanged          a file changed or vanished while it was read
 + NonFiniteError         NaN or Inf in an input, overflow of the output dtype, or a variance below zero
 + OutputError            the place to write to cannot be used
   - NotEnoughSpace
 + DigestError            a written file no longer holds what was written
 + MissingExtra           an optional dependency is needed
"""

from collections.abc import Iterable


class TaskvecError(Exception):
    """A stated problem: what, where, what to do. `problems` lists every finding, the message shows them all."""

    def __init__(self, message: str, problems: Iterable[str] = ()):
        self.problems = tuple(problems)
        super().__init__("\n".join([message, *(f"  - {p}" for p in self.problems)]))


class RecipeError(TaskvecError):
    """The text of a recipe is not one."""


class UnknownName(RecipeError):
    """A name that nobody gave."""


class UnboundKnob(RecipeError):
    """A recipe with knobs was asked for numbers."""


class MassError(TaskvecError):
    """The expression is neither a model (mass 1) nor a task vector (mass 0)."""


class MismatchError(TaskvecError):
    """Names, shapes or dtypes of the sources disagree."""


class FingerprintError(TaskvecError):
    """A vector meets a base that it was not made from."""


class FormatError(TaskvecError):
    """A file is not what its header says, or no reader knows it."""


class SourceChanged(TaskvecError):
    """A file changed or vanished while it was read."""


class NonFiniteError(TaskvecError):
    """NaN or Inf in an input, overflow of the output dtype, or a variance below zero, which becomes NaN."""


class OutputError(TaskvecError):
    """The place to write to cannot be used."""


class NotEnoughSpace(OutputError):
    """The disk cannot hold the output."""


class DigestError(TaskvecError):
    """A written file no longer holds what was written."""


class MissingExtra(TaskvecError):
    """An optional dependency is needed."""

    def __init__(self, what: str, extra: str):
        super().__init__(f'{what} needs an extra: pip install "taskvec[{extra}]"')
