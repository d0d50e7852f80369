"""What a method must know of its arguments before it can work: `Measurement`, which a measuring function is given.

A measuring function takes measurements (one for each call that is measured in the same passes), the number of threads
and a function that is told how many elements were read. For each measurement it returns {tensor: {parameter: value}},
and the framework calls the method with these parameters. A value may be an array with a number for each tile of SPAN
elements. The method is then told the number of the tile that it is given.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from taskvec.algebra.derived import Parameter
from taskvec.algebra.program import Linear, Program
from taskvec.algebra.weights import Weights
from taskvec.methods.core.call import METHOD_TILE, PART, Value
from taskvec.methods.core.method import Method
from taskvec.methods.core.reading import Reading, scratch_of, together
from taskvec.methods.core.roles import Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPAN = 32 << 10  # elements of a tile, for parameters with a number for each tile; blocks begin at multiples of it


class Piece(NamedTuple):
    """Some elements of one tensor, flat."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class Measurement:
    """A call and the tensors of it that are measured.

    names: tensors with arithmetic, in the order of the model. Integers are never measured.
    remember: whether what is drawn for measuring is remembered in `kept`: tensor -> a bit for each entry, whether the
        draw kept it.
    """

    call: Reading
    names: tuple[str, ...]
    remember: bool = False
    kept: dict[str, memoryview] = field(default_factory=dict)

    # ---- the call
    @property
    def method(self) -> Method:
        """The method that is called."""
        return self.call.method

    @property
    def count(self) -> int:
        """How many arguments there are."""
        return len(self.call.args)

    @property
    def params(self) -> Mapping[str, Parameter]:
        """The parameters as the caller gave them: texts, and numbers that may differ from tensor to tensor."""
        return self.call.params

    def numbers(self, name: str) -> dict[str, Value]:
        """The parameters at one tensor: texts and floats."""
        return self.call.numbers(name)

    @property
    def statistics(self) -> Sequence[Weights]:
        """The arguments that are statistics. They stand after as many models."""
        return self.call.statistics

    @property
    def scope(self) -> Scope:
        """What is measured together: the model, each tensor, each row or each column."""
        return self.call.scope

    @property
    def by_rows(self) -> bool:
        """Whether the method is given whole rows."""
        return self.call.by_rows

    def remembers(self, name: str) -> bool:
        """Whether the bits of a tensor are to be put into `kept`. Where rows are drawn one by one, each must have whole
        bytes of its own."""
        return self.remember and (self.method.rows is None or self.width(name) % 8 == 0)

    # ---- its tensors
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which all arguments have."""
        return self.call.specs[name].shape

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Tensor -> the number of its elements."""
        return {name: self.call.specs[name].numel for name in self.names}

    def width(self, name: str) -> int:
        """Elements of a row."""
        return self.call.width(name)

    @cached_property
    def groups(self) -> dict[str, str]:
        """Tensor -> the group that is measured together: itself, or "" for the whole model."""
        whole = self.scope is Scope.MODEL
        return {name: "" if whole else name for name in self.names}

    def pieces(self, most: int = PART) -> Iterator[Piece]:
        """Every tensor in pieces of so many elements. The sizes are fixed, so that threads change no sum."""
        for name in self.names:
            yield from pieces_of(name, 0, self.sizes[name], most)

    def rows(self, most: int = PART) -> Iterator[Piece]:
        """Every tensor in pieces of whole rows: of so many elements, or of one row that is longer."""
        for name in self.names:
            for span in self.call.spans(name, 0, self.sizes[name], most):
                yield Piece(name, *span)

    def longest(self, most: int = PART) -> int:
        """The most elements that one of these pieces can have."""
        return max((self.call.step(name, most) for name in self.names), default=most)

    # ---- the numbers of its arguments
    def sums(self, name: str) -> list[Linear]:
        """For each argument, what is summed for one tensor."""
        return self.call.sums(name)

    def values(self, linear: Linear, start: int, out: "NDArray[Any]") -> bool:
        """Put the elements of one argument from `start` on into `out`, (n,) float32. Returns whether all are known to
        be finite."""
        step = METHOD_TILE
        finite = [self.call.values(linear, start + at, out[at : at + step]) for at in range(0, out.size, step)]
        return all(finite)

    def fill(self, piece: Piece, rows: "NDArray[Any]") -> bool:
        """The same for a piece of several arguments, the first ones: a row for each, (arguments, at least piece.size)
        float32."""
        sums = self.sums(piece.name)
        finite = [self.values(linear, piece.start, row[: piece.size]) for row, linear in zip(rows, sums, strict=False)]
        return all(finite)

    def program(self, piece: Piece, ops: int) -> tuple[Program, list[int]]:
        """A program for the kernels, with memory for so many operations, and references to the arguments in it."""
        program = together([self.call], piece.name, piece.start, piece.size, ops)
        return program, self.call.operands(program, piece.name)

    def scratch(self, piece: Piece) -> memoryview:
        """A thread's memory for a program of the arguments."""
        return scratch_of([self.call], piece.name, piece.size, ops=0)


def pieces_of(name: str, start: int, stop: int, most: int) -> Iterator[Piece]:
    """The elements start .. stop of a tensor in pieces of `most` elements; the last may be shorter."""
    for at in range(start, stop, most):
        yield Piece(name, at, min(most, stop - at))


def rows_of(count: int, size: int = PART) -> "NDArray[Any]":
    """Memory of a thread for a piece of each of `count` arguments: (count, size) float32."""
    import numpy as np

    return np.empty((count, size), np.float32)


def is_by_tile(value: Any) -> bool:
    """Whether a value that is told of a tensor is an array with a number for each tile."""
    return bool(getattr(value, "ndim", 0))


def here(told: Mapping[str, Any], start: int) -> dict[str, Any]:
    """What is told of the tile that holds the element `start`."""
    return {key: value[start // SPAN] if is_by_tile(value) else value for key, value in told.items()}
