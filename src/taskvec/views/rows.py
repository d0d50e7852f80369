"""Views of rows: each row of an embedding or a head is a row of an argument, the mean of several rows, or zero.

1. A plan says for each of the n rows of the output where it comes from: two int32 arrays (n), the number of an argument
   and the number of a row of it. So the plan takes as much memory for wide rows as for narrow ones.
2. Neighbouring rows of the output that are neighbours in one argument, too, are a run. A run is read at once.
3. A mean is computed in float64 from the rows of the arguments when it is needed. The mean of all rows of the first
   argument is computed once, in a pass before.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from taskvec.algebra.derived import Names, reads
from taskvec.algebra.program import Linear, aligned, scratch_bytes
from taskvec.numbers import kernels
from taskvec.numbers.dtypes import BITS
from taskvec.sources.cost import Cost
from taskvec.sources.source import Source, Spec
from taskvec.views.view import VIEW_TILE, View, summed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Indices = NDArray[np.int32]
else:
    Indices = Any
# In place of the number of an argument: zero, the mean of some rows, the mean of all rows of the first argument.
ZERO, MEAN, ALL = -1, -2, -3


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """Where every row of the output comes from. Row i is row `row[i]` of argument `arg[i]`, if that is not negative.

    Otherwise `arg[i]` is ZERO, ALL, or MEAN: the mean of the rows `means[row[i]]` = ((argument, row), ...).
    """

    arg: Indices
    row: Indices
    means: tuple[tuple[tuple[int, int], ...], ...] = field(default=())

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the plan takes."""
        return self.arg.nbytes + self.row.nbytes + sum(200 + 100 * len(m) for m in self.means)

    def __len__(self) -> int:
        return len(self.arg)

    def counts(self, k: int) -> int:
        """How many rows of argument k are read."""
        return int((self.arg == k).sum()) + sum(a == k for mean in self.means for a, _ in mean)

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """The runs among the rows first <= i < last of the output, which is not empty: (begin, end, arg, row).

        Rows begin <= i < end of the output are the rows of `arg` from `row` on.
        """
        import numpy as np

        arg, row = self.arg[first:last], self.row[first:last]
        on = (arg[1:] >= 0) & (row[1:] == row[:-1] + 1) | (arg[1:] == ZERO) | (arg[1:] == ALL)
        follows = (arg[1:] == arg[:-1]) & on
        ends = [*(np.flatnonzero(~follows) + 1).tolist(), len(arg)]
        begin = 0
        for end in ends:
            yield first + begin, first + end, int(arg[begin]), int(row[begin])
            begin = end


@dataclass(frozen=True, slots=True)
class Padding:
    """A plan of `size` rows that takes no memory: the first `rows` are those of argument 0, the others are `fill`."""

    rows: int
    size: int
    fill: int  # ZERO or ALL
    means: tuple[tuple[tuple[int, int], ...], ...] = ()
    nbytes = 0

    def __len__(self) -> int:
        return self.size

    def counts(self, k: int) -> int:
        """How many rows of argument k are read."""
        return 0 if k else min(self.rows, self.size)

    def runs(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """See `RowPlan.runs`."""
        kept = min(last, self.rows)
        if first < kept:
            yield first, kept, 0, first
        if kept < last:
            yield max(first, kept), last, self.fill, 0


class Rows(View):
    """A view that keeps the names of its first argument and rearranges the rows of the tensors in `rearranged`."""

    def __init__(self, *call: Any):
        super().__init__(*call)
        self._lock = threading.Lock()
        self._means: dict[str, NDArray[Any]] = {}  # tensor -> the mean of all its rows, once it is computed
        self._sums: dict[tuple[int, str], Linear] = {}
        self._memory = threading.local()

    @property
    def rearranged(self) -> tuple[str, ...]:
        """The names of the tensors whose rows are rearranged."""
        raise NotImplementedError

    def plan(self, name: str) -> RowPlan | Padding:
        """Where the rows of a tensor come from."""
        raise NotImplementedError

    @property
    def plans(self) -> list[RowPlan | Padding]:
        """Every plan once, although several tensors may share it."""
        return [*{id(plan): plan for plan in map(self.plan, self.rearranged)}.values()]

    def _spec(self, k: int, inner: str) -> Spec:
        spec = super()._spec(k, inner)
        return Spec((len(self.plan(inner)), *spec.shape[1:]), spec.dtype) if inner in self.rearranged else spec

    def origin(self, name: str) -> dict[tuple[Source, str], Fraction]:
        """See `View.origin`. A tensor with rearranged rows is this view's own."""
        return {(self, name): Fraction(1)} if name in self.rearranged else super().origin(name)

    @property
    def verbatim(self) -> bool:
        """Whether every row is one of a file, bit for bit, or zero: no row is a mean."""
        return super().verbatim and not self.own_passes and not any(plan.means for plan in self.plans)

    # ---- what it costs
    @property
    def cost(self) -> Cost:
        """The memory of the plans of the rows, and of the means."""
        widths = sum(self._width(name) for name in self.rearranged)
        return super().cost + Cost(once=sum(plan.nbytes for plan in self.plans) + 8 * widths * self.own_passes)

    def cost_of(self, name: str) -> Cost:
        """The memory of one sum of an argument, and of a mean while it is computed."""
        sums = max(scratch_bytes(a.parts(name), VIEW_TILE) for a in self.args if name in a.specs)
        means = 8 * (VIEW_TILE + 3 * self._width(name)) * bool(self.plan(name).means or self.own_passes)
        return Cost(computing=sums + means)

    def reads(self, name: str) -> int:
        """Bytes of the rows that are taken, and of all rows of the first argument if their mean is."""
        whole = [reads(a, name) for a in self.args]
        rows = [max(1, a.specs[name].shape[0]) for a in self.args]
        taken = (size * self.plan(name).counts(k) // rows[k] for k, size in enumerate(whole))
        return sum(taken) + whole[0] * self.own_passes

    @property
    def unmeasured(self) -> int:
        """The number of elements that `prepare` has still to read."""
        own = sum(self.args[0].specs[name].numel for name in self.rearranged if name not in self._means)
        return super().unmeasured + own * self.own_passes

    def prepare(
        self, threads: int, progress: Callable[[int], None] = lambda size: None, names: Names | None = None
    ) -> None:
        """Compute the mean of all rows if it is needed, the first time that this is called."""
        super().prepare(threads, progress, names)
        if self.own_passes:
            with self._lock:
                for name in self.rearranged:
                    if name not in self._means:
                        self._means[name] = self._mean_of_all(name, progress)

    # ---- values
    def encoded(self, name: str, start: int, dtype: str, out: memoryview) -> None:
        """Elements from `start` on, run by run."""
        if name not in self.rearranged:
            super().encoded(name, start, dtype, out)
            return
        size, width = BITS[dtype] // 8, self._width(name)
        end = start + len(out) // size
        if not width or start == end:
            return
        scratch = self._scratch(name)
        for begin, stop, arg, row in self.plan(name).runs(start // width, -(-end // width)):
            first, last = max(begin * width, start), min(stop * width, end)
            piece = out[(first - start) * size : (last - start) * size]
            if arg >= 0:
                summed(self._sum(arg, name), first + (row - begin) * width, dtype, piece, scratch)
            elif arg == ZERO:
                piece[:] = bytes(len(piece))
            else:
                values = self._mean(name, row) if arg == MEAN else self._mean_of_rows(name)
                self._repeat(values, first, dtype, piece)

    def _repeat(self, values: "NDArray[Any]", first: int, dtype: str, out: memoryview) -> None:
        """Fill `out` with the same row over and over, from its element first % width on."""
        size, width, at = BITS[dtype] // 8, len(values), 0
        while at < len(out):
            part = values[first % width :][: (len(out) - at) // size]
            kernels.combine(out[at : at + len(part) * size], dtype, [part], ["F64"], [1.0], len(part))
            at, first = at + len(part) * size, first + len(part)

    def _mean(self, name: str, index: int) -> "NDArray[Any]":
        """The mean of the rows `means[index]` of a plan, (width,) in float64."""
        import numpy as np

        width, members = self._width(name), self.plan(name).means[index]
        total, values = np.zeros(width), np.empty(width)
        for arg, row in members:
            summed(self._sum(arg, name), row * width, "F64", values.data.cast("B"), self._scratch(name))
            total += values
        return total / len(members)

    def _mean_of_rows(self, name: str) -> "NDArray[Any]":
        self.prepare(1)
        return self._means[name]

    def _mean_of_all(self, name: str, progress: Callable[[int], None]) -> "NDArray[Any]":
        """The mean of all rows of the first argument, (width,), summed in float64 in their order."""
        import numpy as np

        spec, width = self.args[0].specs[name], self._width(name)
        total, step = np.zeros(width), max(1, VIEW_TILE // max(1, width))
        for first in range(0, spec.shape[0], step):
            count = min(step, spec.shape[0] - first)
            rows = np.empty((count, width))
            out = rows.reshape(-1).data.cast("B")
            summed(self._sum(0, name), first * width, "F64", out, self._scratch(name))
            total += rows.sum(axis=0)
            progress(count * width)
        return total / max(1, spec.shape[0])

    def _width(self, name: str) -> int:
        """The number of elements of a row."""
        spec = self.args[0].specs[name]
        return Spec(spec.shape[1:], spec.dtype).numel

    def _sum(self, k: int, name: str) -> Linear:
        if (k, name) not in self._sums:
            self._sums[k, name] = self.args[k].linear(name)
        return self._sums[k, name]

    def _scratch(self, name: str) -> memoryview:
        """Memory of this thread, large enough for the sum of any argument."""
        kept: dict[str, memoryview] = self._memory.__dict__
        if name not in kept:
            need = max(aligned(scratch_bytes(a.parts(name), VIEW_TILE)) for a in self.args if name in a.specs)
            large = [memory for memory in kept.values() if len(memory) >= need]
            kept[name] = large[0] if large else memoryview(bytearray(need))
        return kept[name]
