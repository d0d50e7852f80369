"""What is summed for one tensor (`Linear`, `arranged`), and the summing (`Program`, `evaluate`).

A sum of models is computed around a pivot. Written out, `base + 0.3*(tuned - base)` is 0.7 base + 0.3 tuned. In
float32 these two products are rounded at the size of the weights, which may be ten thousand times the size of what the
fine-tuning changed. Entries that it left alone would then change in their last bit, and 0.3*(tuned - base) would not be
zero there. So

1. The sources of mass 1 are points, those of mass 0 (LoRAs, stored task vectors, methods of them) are vectors. For one
   tensor the numbers c_k in front of the points add up to the mass m: 1 for a model, 0 for a task vector.
2. One point is the pivot p, and  sum_k c_k x_k = m p + sum_k c_k (x_k - p).  Differences of 16-bit floats of similar
   size are exact in float32, equal entries give exactly zero, and the small sum of the differences meets the large p
   once, at the end.
3. If one point has the number m itself, it is added as it is, and the other points, whose numbers then add up to 0,
   have a pivot among themselves: `target + 0.5*(chat - base)` is target + 0.5 (chat - base), of whatever family target
   is. Otherwise the pivot is the point with the largest |c|; among equals one that is subtracted, and the first in the
   order of summation. So the choice depends on {source: coefficient} alone, and an expression has the same bits however
   it is written.
4. Vectors are added as they are, after the differences. The point comes last, and a sum of zero is not added to it, so
   that -0 stays -0. So an entry that no fine-tuning changed keeps its bits.

If models of several families are added and none of them has the number m, as in 0.5*a + 0.5*(b + c - d), there is one
pivot for all. An entry that is equal in all of them still keeps its bits; the differences within the other families are
rounded at the size of the weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from taskvec.errors import RecipeError, SourceChanged, TaskvecError
from taskvec.numbers import kernels
from taskvec.numbers.operations import AROUND, MOST_INPUTS, RESULT, SUM, TILE, WINDOW, Op
from taskvec.numbers.rationals import Number, as_float
from taskvec.sources.abilities import Lowers, OnDisk
from taskvec.sources.source import Source

Part = tuple[Source, str]  # a source and the name of its tensor
Term = tuple[Source, str, float]  # the same, and the number in front of it


@dataclass(frozen=True, slots=True)
class Linear:
    """A sum for one tensor, in the order of summation: terms 0 ... n, with tensors x_k and numbers c_k.

    If `points` is 0 it is sum_k c_k x_k. Otherwise the first term is the pivot, and the points are taken as differences
    from it: sum_{0<k<points} c_k (x_k - x_0) + sum_{k>=points} c_k x_k + mass x_0. With `apart` the last term is the
    point that is added as it is, and  + mass x_n  stands in place of  + mass x_0.  It is falsy if nothing is summed.
    """

    terms: tuple[Term, ...] = ()
    points: int = 0
    mass: float = 0.0
    apart: bool = False

    def __bool__(self) -> bool:
        return bool(self.terms)

    @property
    def parts(self) -> list[Part]:
        """The sources that are read, each with the name of its tensor."""
        return [(source, name) for source, name, _ in self.terms]


def alone(source: Source, name: str) -> Linear:
    """The sum that is one tensor of a source, as it is."""
    return Linear(((source, name, 1.0),))


def arranged(numbers: Mapping[Part, Number], mass: Number | None = None) -> Linear:
    """The sum of these tensors times their numbers, around a pivot. Raises RecipeError for more than MOST_INPUTS.

    mass: what the numbers of the points add up to. Needed if the numbers are floats, whose own sum is not exact.
    """
    if len(numbers) > MOST_INPUTS:
        raise RecipeError(f"a sum may have at most {MOST_INPUTS} sources, not {len(numbers)}: save parts of it first")
    order = sorted(numbers, key=lambda part: (part[0].fingerprint, part[0].text, part[1]))
    points = [part for part in order if part[0].mass]
    vectors = [part for part in order if not part[0].mass]
    if not points or len(numbers) == 1:
        return Linear(_terms(order, numbers))
    whole = sum(Fraction(numbers[part]) for part in points) if mass is None else mass
    apart = [part for part in points if numbers[part] == whole][:1] if len(points) > 2 else []
    around = [part for part in points if part not in apart]
    around.sort(key=lambda part: (-abs(_float(numbers[part])), numbers[part] > 0))  # the first of equals stays first
    around = around[:1] + [part for part in points if part not in (around[0], *apart)]
    terms = _terms([*around, *vectors, *apart], numbers)
    return Linear(terms, len(around), _float(whole), bool(apart))


def _terms(parts: Sequence[Part], numbers: Mapping[Part, Number]) -> tuple[Term, ...]:
    return tuple((source, name, _float(numbers[source, name])) for source, name in parts)


def _float(number: Number) -> float:
    return as_float(number) if isinstance(number, Fraction) else float(number)


class Program:
    """What `kernels.run` is to compute for elements start .. start+n of one tensor: inputs, and operations on them.

    Every input is read once. A reference is an int, as in `kernels.Op`: k is the k-th input, ~k the result of the k-th
    operation. The kernel itself reads a source that is OnDisk. A source that Lowers adds operations of its own, if it
    has some for the tensor. Every other source fills a part of the scratch memory (`readinto`).
    """

    def __init__(self, start: int, n: int, scratch: memoryview):
        self.start, self.n, self.ops = start, n, list[Op]()
        self._sources: list[Source | None] = []
        self._inputs: list[Any] = []
        self._dtypes: list[str] = []
        self._known: dict[tuple[Source, str], int] = {}
        self._free = scratch

    def operand(self, source: Source, name: str) -> int:
        """A reference to one tensor of a source."""
        if (known := self._known.get((source, name))) is not None:
            return known
        reference = source.lowered(self, name) if isinstance(source, Lowers) else None
        if reference is None:
            reference = self._input(source, name)
        self._known[source, name] = reference
        return reference

    def _input(self, source: Source, name: str) -> int:
        dtype = source.specs[name].dtype
        if isinstance(source, OnDisk):
            return self._add_input(source.segment(name, self.start), dtype, source)
        size = self.n * kernels.itemsize(dtype)
        if len(self._free) >= size:
            view, self._free = self._free[:size], self._free[aligned(size) :]
        else:  # `scratch_bytes` counted no memory for it, because it Lowers, and yet it does not from this start
            view = memoryview(bytearray(size))
        source.readinto(name, self.start, view)
        return self._add_input(view, dtype, source)

    def _add_input(self, given: Any, dtype: str, source: Source | None) -> int:
        self._inputs.append(given)
        self._dtypes.append(dtype)
        self._sources.append(source)
        return len(self._inputs) - 1

    def array(self, values: Any) -> int:
        """A reference to float32 numbers in memory."""
        return self.add(SUM, (self._add_input(values, "F32", None),), (1.0,))

    def add(self, code: int, sources: Sequence[int], numbers: Sequence[float] = (), sink: Any = None) -> int:
        """Add an operation, and return a reference to its result."""
        self.ops.append(Op(code, tuple(sources), tuple(numbers), sink))
        return ~(len(self.ops) - 1)

    def sum(self, linear: Linear) -> int:
        """A reference to the values of a sum; to zeros if it has no terms."""
        operands, numbers = [self.operand(*part) for part in linear.parts], [c for *_, c in linear.terms]
        if linear.points and len(operands) > 1:
            last = len(operands) - 1 if linear.apart else 0
            return self.add(AROUND, operands, (linear.points, last, linear.mass, *numbers))
        return self.add(SUM, operands, numbers)

    def run(self, out: Any = None, dtype: str = "F32") -> int:
        """Compute. The result of the last operation, which must be a sum, goes to `out`; without `out` only the sinks
        of operations get anything. Returns the flags of `kernels.run`. Raises SourceChanged, TaskvecError."""
        try:
            return kernels.run(out, dtype, self._inputs, self._dtypes, self.ops, self.n, self.start, self._free)
        except (EOFError, OSError) as error:
            where = str(getattr(error, "filename", None) or error)
            source = self._sources[int(where.split()[-1])]
            assert source is not None, "memory can be read"
            if isinstance(error, EOFError):
                raise SourceChanged(f"{source.text} became shorter while it was read; nothing was written") from None
            raise TaskvecError(f"{source.text} cannot be read: {error.strerror}") from None


def evaluate(linear: Linear, start: int, n: int, dtype: str, out: Any, scratch: memoryview) -> int:
    """Write elements start .. start+n of one tensor, encoded as `dtype`, to `out`. Returns the flags of `kernels.run`.

    scratch: at least `scratch_bytes` of memory.
    """
    program = Program(start, n, scratch)
    program.sum(linear)
    return program.run(out, dtype)


def scratch_bytes(parts: Iterable[Part], n: int, operations: int = 1) -> int:
    """Bytes of scratch memory for n elements of these tensors and this many operations on them: a window for each file,
    and all n elements of every other source."""
    total = RESULT * operations
    for source, name in parts:
        inside = source.lowered_bytes(name, n) if isinstance(source, Lowers) else None
        if inside is not None:
            total += inside
            continue
        width = kernels.itemsize(source.specs[name].dtype)
        total += max(WINDOW, 8 * TILE) if isinstance(source, OnDisk) else aligned(n * width)
    return total


def aligned(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // 64) * 64
