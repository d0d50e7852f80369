"""What is summed for one tensor, and the summing: sources, numbers and memory in, numbers of one dtype out."""

from collections.abc import Iterable, Sequence
from typing import Any

from taskvec import kernels
from taskvec.errors import SourceChanged, TaskvecError
from taskvec.operations import RESULT, SUM, TILE, WINDOW, Op
from taskvec.source import Source

Term = tuple[Source, str, float]  # a source, its tensor, and the number in front of it


class Program:
    """What `kernels.run` is told of elements start .. start+n of one tensor: inputs, each read once, and operations.

    References are those of `kernels.Op`: k is the k-th input, ~k the result of the k-th operation. A source with
    `segment(name, start) -> (fd, offset)` is read by the kernel itself; one with `lowered(program, name)` adds its own
    operations and returns a reference, or None; every other one fills its part of the scratch memory (`readinto`).
    """

    def __init__(self, start: int, n: int, scratch: memoryview):
        self.start, self.n, self.ops = start, n, list[Op]()
        self._sources: list[Source | None] = []
        self._inputs: list[Any] = []
        self._dtypes: list[str] = []
        self._known: dict[tuple[Source, str], int] = {}
        self._free = scratch

    def operand(self, source: Source, name: str) -> int:
        """One tensor of a source."""
        if (known := self._known.get((source, name))) is not None:
            return known
        lowered = getattr(source, "lowered", None)
        found = lowered(self, name) if lowered else None
        if found is None:
            found = self._input(source, name)
        self._known[source, name] = found
        return found

    def _input(self, source: Source, name: str) -> int:
        dtype = source.specs[name].dtype
        if segment := getattr(source, "segment", None):
            return self._add_input(segment(name, self.start), dtype, source)
        size = self.n * kernels.itemsize(dtype)
        if len(self._free) >= size:
            view, self._free = self._free[:size], self._free[aligned(size) :]
        else:  # it could be lowered elsewhere, and not from this start
            view = memoryview(bytearray(size))
        source.readinto(name, self.start, view)
        return self._add_input(view, dtype, source)

    def _add_input(self, given: Any, dtype: str, source: Source | None) -> int:
        self._inputs.append(given)
        self._dtypes.append(dtype)
        self._sources.append(source)
        return len(self._inputs) - 1

    def array(self, values: Any) -> int:
        """float32 numbers in memory."""
        return self.add(SUM, (self._add_input(values, "F32", None),), (1.0,))

    def add(self, code: int, sources: Sequence[int], numbers: Sequence[float] = (), sink: Any = None) -> int:
        """One operation."""
        self.ops.append(Op(code, tuple(sources), tuple(numbers), sink))
        return ~(len(self.ops) - 1)

    def sum(self, terms: Sequence[Term]) -> int:
        """A linear combination; of nothing, zeros."""
        return self.add(SUM, [self.operand(source, name) for source, name, _ in terms], [c for *_, c in terms])

    def run(self, out: Any = None, dtype: str = "F32") -> int:
        """The last operation is a sum, and goes to `out`; without one all that counts are sinks. Returns the flags of
        `kernels.run`. Raises SourceChanged, TaskvecError."""
        try:
            return kernels.run(out, dtype, self._inputs, self._dtypes, self.ops, self.n, self.start, self._free)
        except (EOFError, OSError) as error:
            where = str(getattr(error, "filename", None) or error)
            source = self._sources[int(where.split()[-1])]
            assert source is not None, "memory can be read"
            if isinstance(error, EOFError):
                raise SourceChanged(f"{source.text} became shorter while it was read; nothing was written") from None
            raise TaskvecError(f"{source.text} cannot be read: {error.strerror}") from None


def evaluate(terms: Sequence[Term], start: int, n: int, dtype: str, out: Any, scratch: memoryview) -> int:
    """Elements start .. start+n of one tensor, encoded as `dtype` into `out`; returns the flags of `kernels.run`.

    `scratch`: at least `scratch_bytes` of memory.
    """
    program = Program(start, n, scratch)
    program.sum(terms)
    return program.run(out, dtype)


def scratch_bytes(parts: Iterable[tuple[Source, str]], n: int) -> int:
    """Memory that a sum needs for n elements: a window for each file, all elements of every other source."""
    return RESULT + operand_bytes(parts, n)


def operand_bytes(parts: Iterable[tuple[Source, str]], n: int) -> int:
    """The same without what the sum itself needs."""
    total = 0
    for source, name in parts:
        lowered = getattr(source, "lowered_bytes", None)
        inside = lowered(name, n) if lowered else None
        if inside is not None:
            total += inside
            continue
        width = kernels.itemsize(source.specs[name].dtype)
        total += max(WINDOW, 8 * TILE) if hasattr(source, "segment") else aligned(n * width)
    return total


def aligned(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // 64) * 64
