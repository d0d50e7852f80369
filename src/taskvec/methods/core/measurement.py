"""What a method asks of its arguments before it can work: `Measurement`, which every measuring function is given.

A measuring function takes measurements (one for each call that is measured in the same passes), the number of threads
and a function that is told of elements that were read. For each of them it returns {tensor: {parameter: value}}, with
which the framework calls the method. A value may be an array with a number for each tile of SPAN elements; the method
is then told the number of the tile at hand.
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

SPAN = 32 << 10  # elements that share a number of those that are told tile by tile; blocks begin at multiples of it


class Piece(NamedTuple):
    """Some elements of one tensor, flat."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, eq=False)
class Measurement:
    """A call, those of its tensors that are measured, and whether what is drawn to measure them is remembered.

    names: tensors with arithmetic, in the order of the model; integers are never measured.
    kept: what is remembered. Tensor -> a bit an entry: whether the draw kept it.
    """

    call: Reading
    names: tuple[str, ...]
    remember: bool = False
    kept: dict[str, memoryview] = field(default_factory=dict)

    # ---- the call
    @property
    def method(self) -> Method:
        """What is called."""
        return self.call.method

    @property
    def count(self) -> int:
        """How many arguments there are."""
        return len(self.call.args)

    @property
    def params(self) -> Mapping[str, Parameter]:
        """The parameters as they were given: texts, and numbers that may differ from tensor to tensor."""
        return self.call.params

    def numbers(self, name: str) -> dict[str, Value]:
        """The parameters at one tensor: texts and floats."""
        return self.call.numbers(name)

    @property
    def statistics(self) -> Sequence[Weights]:
        """The arguments that are statistics; as many models stand before them."""
        return self.call.statistics

    @property
    def scope(self) -> Scope:
        """What the method is told is measured of."""
        return self.call.scope

    @property
    def by_rows(self) -> bool:
        """Whether the method is given whole rows."""
        return self.call.by_rows

    def remembers(self, name: str) -> bool:
        """Whether the bits of a tensor are to be put into `kept`. Those of rows that are drawn apart must not share a
        byte."""
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
        """Elements of the largest of these pieces at most."""
        return max((self.call.step(name, most) for name in self.names), default=most)

    # ---- the numbers of its arguments
    def sums(self, name: str) -> list[Linear]:
        """For each argument what is summed for one tensor."""
        return self.call.sums(name)

    def values(self, linear: Linear, start: int, out: "NDArray[Any]") -> bool:
        """The elements of one argument from `start` on, (n,) float32; whether all are known to be finite."""
        step = METHOD_TILE
        finite = [self.call.values(linear, start + at, out[at : at + step]) for at in range(0, out.size, step)]
        return all(finite)

    def fill(self, piece: Piece, rows: "NDArray[Any]") -> bool:
        """The same of the first arguments, one for each of the rows: (arguments, at least piece.size) float32."""
        sums = self.sums(piece.name)
        finite = [self.values(linear, piece.start, row[: piece.size]) for row, linear in zip(rows, sums, strict=False)]
        return all(finite)

    def program(self, piece: Piece, ops: int) -> tuple[Program, list[int]]:
        """A program for the kernels with memory for so many operations, and the arguments in it as references."""
        program = together([self.call], piece.name, piece.start, piece.size, ops)
        return program, self.call.operands(program, piece.name)

    def scratch(self, piece: Piece) -> memoryview:
        """A thread's memory for a program of the arguments."""
        return scratch_of([self.call], piece.name, piece.size, ops=0)


def pieces_of(name: str, start: int, stop: int, most: int) -> Iterator[Piece]:
    """A range of elements in pieces of so many."""
    for at in range(start, stop, most):
        yield Piece(name, at, min(most, stop - at))


def rows_of(count: int, size: int = PART) -> "NDArray[Any]":
    """Memory of a thread: (count, size) float32, a piece of each of `count` arguments."""
    import numpy as np

    return np.empty((count, size), np.float32)


def is_by_tile(value: Any) -> bool:
    """Whether what is told of a tensor is an array: a number for each tile."""
    return bool(getattr(value, "ndim", 0))


def here(told: Mapping[str, Any], start: int) -> dict[str, Any]:
    """What is told of the tile at `start`."""
    return {key: value[start // SPAN] if is_by_tile(value) else value for key, value in told.items()}
