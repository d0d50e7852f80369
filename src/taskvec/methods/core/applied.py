"""A method applied to expressions is one more source. It adds and scales like a checkpoint, and nothing is computed
until somebody asks for its elements.

1. `prepare` measures what the function must be told beside its arguments (thresholds, a Gram matrix), in passes over
   the data. Calls of one method are measured in the same passes.
2. `compute` gives the elements of a range of one tensor, in one of four ways. A method that combines its arguments is a
   linear combination. One that lowers is operations of the kernels. A local one, or one of rows, is called tile by
   tile. Any other one is called once for the whole tensor.
"""

import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from taskvec.algebra.derived import STRETCH, Names, Parameter, prepare
from taskvec.algebra.program import Part, Program, alone, arranged
from taskvec.algebra.weights import Weights
from taskvec.errors import TaskvecError
from taskvec.executors.threads import give_back
from taskvec.methods.core.call import KEPT, METHOD_TILE
from taskvec.methods.core.lanes import Lanes
from taskvec.methods.core.measurement import SPAN, Measurement, here, is_by_tile
from taskvec.methods.core.method import Method
from taskvec.methods.core.reading import Reading
from taskvec.methods.core.roles import LANES
from taskvec.numbers.operations import MASK
from taskvec.sources.abilities import Lowers

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Applied(Reading, Lowers):
    """A call that computes its elements, range by range."""

    def __init__(self, method: Method, args: tuple[Weights, ...], params: Mapping[str, Parameter]):
        super().__init__(method, args, params)
        self._lock = threading.RLock()
        self._measured: dict[str, Mapping[str, Any]] = {}
        self.kept: dict[str, memoryview] = {}  # tensor -> a bit an entry: whether the draw for measuring kept it
        self._told: dict[str, dict[str, Any]] = {}
        self._coefficients: dict[str, Sequence[Any]] = {}
        self._whole: dict[str, NDArray[Any]] = {}

    # ---- what is measured before
    def prepare(
        self, threads: int, progress: Callable[[int], None] = lambda size: None, names: Names | None = None
    ) -> None:
        """Measure what the function must be told, once, after the same was done for its arguments.

        names: the tensors that are needed, where each tensor is measured for itself. What is drawn for them is kept
        until others are asked for."""
        self.prepare_all([self], threads, progress, names)

    @property
    def kin(self) -> Hashable:
        """Calls of equal kin are measured together: those of one method."""
        return self.method, self.piecewise

    @classmethod
    def prepare_all(
        cls, calls: Sequence["Applied"], threads: int, progress: Callable[[int], None], names: Names | None
    ) -> None:
        """`prepare` for calls of one kin, in the same passes."""
        first = calls[0]
        wanted = names if first.piecewise else None
        prepare([a for call in calls for a in call.args], threads, progress, wanted)
        with ExitStack() as held:
            for call in sorted(calls, key=id):  # one order everywhere, so that two threads never wait for each other
                held.enter_context(call._lock)
            for call in calls:
                if not call._measured:
                    call._require_numbers()
            todo = [(call, missing) for call in calls if (missing := call._unmeasured_among(wanted))]
            for call, _ in todo:
                call.kept.clear()
            measure = first.method.measure if todo else None
            measurements = [call._measurement(missing, wanted is not None) for call, missing in todo] if measure else []
            told = measure(measurements, threads, progress) if measure else [{} for _ in todo]
            for (call, _), measurement in zip(todo, measurements, strict=bool(measure)):
                call.kept.update(measurement.kept)
            for (call, missing), of_tensors in zip(todo, told, strict=True):
                call._measured |= {name: of_tensors.get(name, {}) for name in missing}

    def _unmeasured_among(self, wanted: Names | None) -> list[str]:
        """Which of the wanted tensors, or of all with None, have still to be measured."""
        if len(self._measured) == len(self.specs):
            return []
        among = self.specs if wanted is None else (n for n in wanted if n in self.specs)
        return [n for n in among if n not in self._measured]

    def _require_numbers(self) -> None:
        """Raise RecipeError for parameters that are out of range at some tensor, before any work."""
        for name, spec in self.specs.items():
            if spec.arithmetic:
                self.numbers(name)

    def _measurement(self, names: Names, remember: bool) -> Measurement:
        """The measurement of some tensors. remember: what is drawn to measure them is kept, if there is memory."""
        arithmetic = tuple(name for name in names if self.specs[name].arithmetic)
        size = sum(self.specs[name].numel for name in arithmetic)
        return Measurement(self, arithmetic, remember and self.draws_twice and size <= STRETCH)

    @property
    def unmeasured(self) -> int:
        """Elements that `prepare` has still to read."""
        left = (spec.numel for name, spec in self.specs.items() if spec.arithmetic and name not in self._measured)
        return self.own_passes * sum(left) + super().unmeasured

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Elements from `start` on, float32. Tensors without arithmetic are read from the first model."""
        if self.specs[name].arithmetic:
            import numpy as np

            self.compute(name, start, np.frombuffer(out, np.float32))
        else:
            assert self.donor is not None
            self.donor.readinto(name, start, out)

    def compute(self, name: str, start: int, result: "NDArray[Any]") -> bool:
        """Elements from `start` on; whether all arguments are known to be finite."""
        told = self._told_of(name)
        if self.method.combines:
            return self._combine(name, start, result, told)
        if self._lowers_at(name, start, told):
            return not self.evaluated(alone(self, name), start, result)
        if self.method.local or self.method.rows:
            return self._tiles(name, start, result, told)
        result[:] = self._tensor(name, told).reshape(-1)[start : start + result.size]
        return False

    def _told_of(self, name: str) -> dict[str, Any]:
        """What the function is told of a tensor: the parameters, and what was measured."""
        if name not in self._told:
            if name not in self._measured:
                self.prepare(1, names=[name])
            self._told[name] = self.numbers(name) | dict(self._measured[name])
        return self._told[name]

    def _lowers_at(self, name: str, start: int, told: Mapping[str, Any]) -> bool:
        """Whether the elements from `start` on can be operations of the kernels. Where a number is told for each tile,
        the range must begin with a tile."""
        fits = start % SPAN == 0 or not any(map(is_by_tile, told.values()))
        return (self.lowers and fits) or self._bits(name, start) is not None

    def _bits(self, name: str, start: int) -> memoryview | None:
        """What the draw for measuring kept from `start` on, a bit an entry, if that is known and begins with a byte."""
        bits = self.kept.get(name)
        return None if bits is None or start % 8 else bits[start // 8 :]

    def lowered(self, program: Program, name: str) -> int | None:
        """Add the operations that compute its elements, and return a reference to the result; None if it has none."""
        told = self._told_of(name)
        if (bits := self._bits(name, program.start)) is not None:
            assert self.method.scale is not None
            return program.add(MASK, self.operands(program, name), (told[self.method.scale.told],), bits)
        if self.method.lower is None or not self._lowers_at(name, program.start, told):
            return None
        return self.method.lower(program, self.operands(program, name), name, here(told, program.start))

    def _combine(self, name: str, start: int, out: "NDArray[Any]", told: Mapping[str, Any]) -> bool:
        """A linear combination of the arguments, with the coefficients that the function makes of the Gram matrix."""
        import numpy as np

        if name not in self._coefficients:
            by_lane = self.scope in LANES  # each lane has products of its own, so the function itself looks for NaN
            with np.errstate(all="ignore"):
                if by_lane or np.isfinite(told[self.method.first]).all():
                    self._coefficients[name] = self.method.fn(**told)
                else:
                    self._coefficients[name] = [math.nan] * len(self.args)
        coefficients = self._coefficients[name]
        if self.scope in LANES:
            self._by_lanes(name, start, out, coefficients)
            return False
        totals: dict[Part, float] = {}
        for c, linear in zip(coefficients, self.sums(name), strict=True):
            for source, inner, number in linear.terms:
                totals[source, inner] = totals.get((source, inner), 0.0) + float(c) * number
        combined = arranged({part: c for part, c in totals.items() if c}, self.mass and mass_of(coefficients))
        step = METHOD_TILE
        finite = [self.values(combined, start + at, out[at : at + step]) for at in range(0, out.size, step)]
        return all(finite)

    def _by_lanes(self, name: str, start: int, out: "NDArray[Any]", coefficients: Sequence[Any]) -> None:
        """A linear combination with other coefficients for each lane, summed in float32, argument by argument.

        Models are summed around the first of them. Where that is not finite, the plain sum decides, as in the
        kernels."""
        import numpy as np

        lanes = Lanes.of(self.specs[name].shape, self.scope)
        numbers = [np.asarray(c, np.float64) for c in coefficients]
        mass, scales = np.sum(numbers, axis=0).astype(np.float32), [c.astype(np.float32) for c in numbers]
        for at in range(0, out.size, METHOD_TILE):
            tile = out[at : at + METHOD_TILE]
            index = lanes.index(start + at, tile.size)
            total, first = (np.zeros(tile.size, np.float32) for _ in range(2))
            with np.errstate(all="ignore"):  # what is not finite is reported by its tensor where it would be written
                for k, (scale, linear) in enumerate(zip(scales, self.sums(name), strict=True)):
                    self.values(linear, start + at, tile)
                    if self.mass and not k:
                        first[:] = tile
                    else:
                        total += scale[index] * (tile - first)
                if self.mass:  # what is zero is not added, so that -0 stays -0, as in the kernels
                    last = mass[index] * first
                    total = np.where(total == 0, last, last + total)
                if not (finite := np.isfinite(total)).all():
                    plain = np.zeros(tile.size, np.float32)
                    for scale, linear in zip(scales, self.sums(name), strict=True):
                        self.values(linear, start + at, tile)
                        plain += scale[index] * tile
                    total = np.where(finite, total, plain)
                tile[:] = total

    def _tiles(self, name: str, start: int, out: "NDArray[Any]", told: Mapping[str, Any]) -> bool:
        """The function tile by tile. Where a number is told for each tile, each tile is computed from its beginning."""
        import numpy as np

        step, stop, all_finite = self.step(name), start + out.size, True
        if getattr(self._of_thread, "tiles", out[:0]).size < len(self.args) * step:
            self._of_thread.tiles = np.empty(len(self.args) * step, np.float32)
        rows = self._of_thread.tiles[: len(self.args) * step].reshape(len(self.args), step)
        by_tile = any(map(is_by_tile, told.values()))
        for at, size in self.spans(name, start - start % SPAN if by_tile else start, stop):
            arrays = [row[:size] for row in rows]
            finite = [self.values(linear, at, row) for row, linear in zip(arrays, self.sums(name), strict=True)]
            result, first = self.tile(name, at, arrays, told, all(finite)), max(0, start - at)
            last = min(size, stop - at)
            out[at + first - start : at + last - start] = result[first:last]
            all_finite &= all(finite)
        return all_finite

    def tile(
        self, name: str, at: int, arrays: "Sequence[NDArray[Any]]", told: Mapping[str, Any], finite: bool = False
    ) -> "NDArray[Any]":
        """The function of a tile that begins at `at`. Of an array in `told` it gets the number of this tile."""
        known = here(told, at)
        key = {"name": name, "start": at} if self.method.keyed else {}
        if self.method.rows:
            matrices = [array.reshape(-1, self.width(name)) for array in arrays]
            return self._called(name, matrices, known | key, finite).reshape(-1)
        return self._called(name, arrays, known | key, finite)

    def _tensor(self, name: str, told: Mapping[str, Any]) -> "NDArray[Any]":
        """The whole tensor, computed once for all threads that want parts of it."""
        with self._lock:
            if name not in self._whole:
                while len(self._whole) >= KEPT:
                    del self._whole[next(iter(self._whole))]
                self._whole[name] = self._computed(name, told)
                if self.specs[name].numel > METHOD_TILE:
                    give_back()
            return self._whole[name]

    def _computed(self, name: str, told: Mapping[str, Any]) -> "NDArray[Any]":
        import numpy as np

        arrays = []
        specs = [self.specs[name]] * len(self.models) + [self.known(a, name) for a in self.statistics]
        for spec, linear in zip(specs, self.sums(name), strict=True):
            array = np.empty(spec.numel, np.float32)
            for at in range(0, spec.numel, METHOD_TILE):
                self.values(linear, at, array[at : at + METHOD_TILE])
            arrays.append(array.reshape(spec.shape))
        key = {"name": name, "start": 0} if self.method.keyed else {}
        return self._called(name, arrays, {**told, **key})

    def _called(
        self, name: str, arrays: "Sequence[NDArray[Any]]", told: Mapping[str, Any], finite: bool = False
    ) -> "NDArray[Any]":
        """The function of these arrays, whose result must have their shape. finite: whether the arrays are known to be
        finite. Raises TaskvecError for another shape, and for an error in a user's own function."""
        import numpy as np

        try:
            with np.errstate(all="ignore"):  # a NaN is reported by its tensor where it would be written
                result = np.asarray(self.method.fn(*arrays, **told), np.float32)
        except Exception as error:
            if isinstance(error, TaskvecError) or not self.method.source:
                raise
            raise TaskvecError(f"{self.method.name} failed at {name}: {type(error).__name__}: {error}") from error
        if result.shape != arrays[0].shape:
            raise TaskvecError(
                f"{self.method.name} made {list(result.shape)} of {name}, where it was given {list(arrays[0].shape)}"
            )
        # A method may drop a NaN in silence, as every comparison with it is false. So it is put back.
        for array in [] if finite else [a for a in arrays if not math.isfinite(float(a.sum()))]:
            good = np.isfinite(array)
            result = np.where(good if good.shape == result.shape else good.all(), result, np.float32("nan"))
        return result


def mass_of(coefficients: Sequence[float]) -> float:
    """The sum of the coefficients; exactly 1 if it differs from 1 by no more than their rounding."""
    total = math.fsum(coefficients)
    return 1.0 if abs(total - 1) <= 2.0**-50 * len(coefficients) else total
