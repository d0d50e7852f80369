"""A method applied to expressions is one more source: it adds and scales like a checkpoint, and nothing is computed
until its elements are asked for.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taskvec.coefficients import Coefficient, as_float
from taskvec.derived import Derived, Parameter, room
from taskvec.errors import MismatchError, TaskvecError, UnboundKnob
from taskvec.executors import give_back
from taskvec.methods.lanes import LANES, Lanes
from taskvec.operations import RESULT
from taskvec.places import Place
from taskvec.source import Source, Spec
from taskvec.terms import Program, Term, evaluate, operand_bytes, scratch_bytes
from taskvec.weights import SHOWN, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taskvec.methods.lift import Method

TILE = 128 << 10  # elements that an elementwise method sees at once: a few float32 tiles fit the second-level cache
SPAN = 32 << 10  # elements that share a number of those that are told tile by tile; blocks begin at multiples of it
PART = 2 * TILE  # elements that a measure counts or sums at once: fixed, so that threads and blocks change no sum
ABSENT = Spec((0,), "F32")  # what statistics hold of a tensor that they do not name
KEPT = 2  # whole tensors that a method which is not local holds: threads work on two where one ends
Measured = Mapping[str, Mapping[str, Any]]  # tensor -> what the function is told about it
Value = float | str | tuple[float, ...]  # of a parameter, at one tensor


class Applied(Derived):
    """One call of a method: a source of the mass of its arguments, float32, computed range by range."""

    def __init__(self, method: "Method", args: tuple[Weights, ...], params: Mapping[str, Parameter]):
        super().__init__(method.name, args, params, method.defaults)
        self.method = method
        self.own_passes = method.passes if isinstance(method.passes, int) else method.passes(self.params)
        count = len(args) // 2 if method.statistics else len(args)
        self.models, self.statistics = args[:count], args[count:]  # what is merged, and what is known of each
        self._lock = threading.RLock()
        self._measured: Measured | None = None
        self._terms: dict[str, list[list[Term]]] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._coefficients: dict[str, Sequence[Any]] = {}
        self._whole: dict[str, NDArray[Any]] = {}
        self._room = threading.local()

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return self.method(*args, **params)

    def same(self) -> tuple[Any, ...]:
        """What two equal calls share; of one's own methods, the code too."""
        return *super().same(), self.method.source

    # ---- what it is
    @cached_property
    def together(self) -> Weights:
        """The sum of what is merged: the names and shapes that all of it must have."""
        return sum(self.models, Weights({}))

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """float32 wherever there is arithmetic; the rest passes through from the first model."""
        total, fits = self.together.specs, self.method.fits
        if fits and (problems := [p for a in self.statistics for s in a.terms for p in fits(s, total)]):
            raise MismatchError(f"the statistics given to {self.name} are not of these models:", problems[:SHOWN])
        return {
            name: Spec(spec.shape, "F32") if spec.arithmetic else spec
            for name, spec in total.items()
            if spec.arithmetic or self.mass
        }

    @cached_property
    def stored(self) -> Mapping[str, Spec]:
        """As the first model among the arguments has it."""
        return getattr(self.donor, "stored", self.donor.specs) if self.donor else {}

    @cached_property
    def donor(self) -> Source | None:
        """The first model among the arguments: its dtypes are those of an output, and its integers."""
        return self.together.donor

    @property
    def methods(self) -> dict[str, str]:
        """The user's own methods in here: name -> digest of its code."""
        return super().methods | ({self.name: self.method.source} if self.method.source else {})

    @property
    def resident(self) -> int:
        """Bytes held beside the blocks: whole tensors for a method that needs them, numbers a lane for one by lanes."""
        if self.method.combines:
            scope, width = self.params.get("scope"), 8 * len(self.args) * (len(self.args) + 1)
            return super().resident + sum(
                width * Lanes.of(spec.shape, str(scope)).count for spec in self.specs.values() if scope in LANES
            )
        if self.method.local or self.method.rows:
            return super().resident
        largest = max((4 * spec.numel for spec in self.specs.values() if spec.arithmetic), default=0)
        return super().resident + KEPT * largest + max(map(self._held, self.specs), default=0)

    def _held(self, name: str) -> int:
        """Bytes of one tensor's arguments, its result and what the function holds beside them."""
        spec, room = self.specs[name], self.method.workspace
        own, known = 4 * spec.numel, [4 * self.known(a, name).numel for a in self.statistics]
        beside = room(spec.shape, len(self.args)) if room else own
        copies = self.method.copies * max([own, *known]) if any(known) or not self.statistics else 0
        return (len(self.models) + 1) * own + sum(known) + beside + copies

    @staticmethod
    def known(statistics: Weights, name: str) -> Spec:
        """What statistics hold of a tensor."""
        return statistics.specs.get(name, ABSENT)

    def astray(self) -> Iterator[str]:
        """Statistics that were computed of another model than their argument."""
        yield from super().astray()
        for model, known in zip(self.models, self.statistics, strict=False):
            (source,) = known.terms
            of = [s for s, c in model.terms.items() if c == 1] if len(model.summed) == 1 else []
            if source.base and source.base not in {s.fingerprint for s in of}:
                what = f"the model {of[0].fingerprint[:16]}" if of else "an expression"
                yield f"{source.text} is of the model {source.base[:16]}; beside it stands {model.text()}, {what}"

    @property
    def lowers(self) -> bool:
        """Whether it becomes operations of the kernel, which work on whatever it is of while that is in the cache."""
        return self.method.lower is not None

    def scratch(self, name: str) -> int:
        """Bytes that a thread holds while it computes a range, beside what a program needs."""
        step = self.step(name)
        arguments = sum(4 * step + room(a, name, step) for a in self.args if name in a.specs)
        measuring = (len(self.args) + 24) * 4 * max(PART, step) * bool(self.own_passes)
        return arguments + (8 + self.method.copies) * 4 * step + measuring

    def lowered_bytes(self, name: str, n: int) -> int | None:
        """Scratch memory of a program that it is part of, where it can be."""
        if not self.lowers:
            return None
        args = sum(RESULT + operand_bytes(a.parts(name), n) for a in self.args if name in a.specs)
        return args + 2 * RESULT

    def step(self, name: str) -> int:
        """Elements of a tensor that the function is given at once: a tile, or the whole rows that make one."""
        width = self.width(name)
        return max(1, TILE // width) * width if self.method.rows else TILE

    def width(self, name: str) -> int:
        """Elements of a row."""
        shape = self.specs[name].shape
        return max(1, shape[-1]) if shape else 1

    def spans(self, name: str, start: int, stop: int) -> "list[tuple[int, int]]":
        """(first element, how many) of what the function is given for the elements start .. stop."""
        step, numel = self.step(name), self.specs[name].numel
        if not self.method.rows:
            return [(at, min(step, stop - at)) for at in range(start, stop, step)]
        return [(at, min(step, numel - at)) for at in range(start - start % self.width(name), stop, step)]

    # ---- what it takes to know
    def prepare(self, threads: int, progress: Callable[[int], None] = lambda size: None) -> None:
        """Measure what the function must be told, arguments first; once."""
        super().prepare(threads, progress)
        with self._lock:
            if self._measured is None:
                self._measured = self.method.measure(self, threads, progress) if self.method.measure else {}

    def numbers(self, name: str) -> dict[str, Value]:
        """The parameters for one tensor."""
        if missing := self.knobs:
            raise UnboundKnob(f"{self.name}: names without a value: {', '.join(sorted(missing))}")
        place = self.places[name]

        def at(key: str, value: Coefficient) -> float:
            return self.method.require(key, as_float(value.at(place)), f" at {name}")

        def of(key: str, value: Any) -> Value:
            if isinstance(value, tuple):
                return tuple(at(key, c) for c in value)
            return value if isinstance(value, str) else at(key, value)

        return {key: of(key, value) for key, value in self.params.items()}

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands among the layers of all arguments together."""
        return self.together.places

    @property
    def unmeasured(self) -> int:
        """Elements that `prepare` has still to read."""
        own = self.own_passes * sum(spec.numel for spec in self.specs.values() if spec.arithmetic)
        return own * (self._measured is None) + super().unmeasured

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """float32 elements from `start` on; tensors without arithmetic are the first model's."""
        if self.specs[name].arithmetic:
            import numpy as np

            self.compute(name, start, np.frombuffer(out, np.float32))
        else:
            assert self.donor is not None
            self.donor.readinto(name, start, out)

    def compute(self, name: str, start: int, result: "NDArray[Any]") -> bool:
        """Elements from `start` on; whether all arguments are known to be finite."""
        told = self._knows(name)
        if self.method.combines:
            return self._combine(name, start, result, told)
        if self._lowers_at(start, told):
            return not self._evaluate([(self, name, 1.0)], start, result)
        if self.method.local or self.method.rows:
            return self._tiles(name, start, result, told)
        result[:] = self._tensor(name, told).reshape(-1)[start : start + result.size]
        return False

    def _knows(self, name: str) -> dict[str, Any]:
        """What the function is told of a tensor: the parameters, and what was measured."""
        self.prepare(1)
        assert self._measured is not None
        if name not in self._told:
            self._told[name] = self.numbers(name) | dict(self._measured.get(name, {}))
        return self._told[name]

    def _lowers_at(self, start: int, told: Mapping[str, Any]) -> bool:
        """What is known a tile can be given to the kernel from the beginning of one on."""
        return self.lowers and (start % SPAN == 0 or not any(map(is_by_tile, told.values())))

    def lowered(self, program: Program, name: str) -> int | None:
        """The operations that compute its elements, where it has some: a reference to their result."""
        told = self._knows(name)
        if not self._lowers_at(program.start, told):
            return None
        assert self.method.lower is not None
        return self.method.lower(program, self.operands(program, name), name, here(told, program.start))

    def operands(self, program: Program, name: str) -> list[int]:
        """The arguments, as references."""
        return [program.sum(terms) for terms in self.terms(name)]

    def program(self, name: str, start: int, n: int, ops: int) -> Program:
        """A program of elements of its arguments, with room for them and some operations beside."""
        inside = sum(RESULT + operand_bytes([t[:2] for t in terms], n) for terms in self.terms(name))
        return Program(start, n, self.memory(inside + RESULT * ops))

    def terms(self, name: str) -> list[list[Term]]:
        """For each argument what is summed for one tensor; found once."""
        if name not in self._terms:
            self._terms[name] = [a.scales(name, self.places[name]) for a in self.args]
        return self._terms[name]

    def _combine(self, name: str, start: int, out: "NDArray[Any]", told: Mapping[str, Any]) -> bool:
        import numpy as np

        if name not in self._coefficients:
            given = {key: value for key, value in told.items() if key != "gram"}
            with np.errstate(all="ignore"):
                self._coefficients[name] = self.method.fn(told["gram"], **given)
        coefficients = self._coefficients[name]
        if self.params.get("scope") in LANES:
            self._by_lanes(name, start, out, coefficients)
            return False
        totals: dict[tuple[Source, str], float] = {}
        for c, terms_of in zip(coefficients, self.terms(name), strict=True):
            for source, inner, number in terms_of:
                totals[source, inner] = totals.get((source, inner), 0.0) + float(c) * number
        ordered = sorted(totals.items(), key=lambda item: (item[0][0].fingerprint, item[0][1]))
        terms = [(source, inner, c) for (source, inner), c in ordered if c]
        finite = [self.values(terms, start + at, out[at : at + TILE]) for at in range(0, out.size, TILE)]
        return all(finite)

    def _by_lanes(self, name: str, start: int, out: "NDArray[Any]", coefficients: Sequence[Any]) -> None:
        """A linear combination with coefficients of its own for each lane; summed in float32, argument by argument."""
        import numpy as np

        lanes = Lanes.of(self.specs[name].shape, str(self.params["scope"]))
        for at in range(0, out.size, TILE):
            tile = out[at : at + TILE]
            index = lanes.index(start + at, tile.size)
            total = np.zeros(tile.size, np.float32)
            for c, terms in zip(coefficients, self.terms(name), strict=True):
                self.values(terms, start + at, tile)
                total += tile * np.asarray(c, np.float32)[index]
            tile[:] = total

    def _tiles(self, name: str, start: int, out: "NDArray[Any]", told: Mapping[str, Any]) -> bool:
        """Tile by tile; what is known a tile (an array in `told`) needs each from its beginning."""
        import numpy as np

        step, stop, all_finite = self.step(name), start + out.size, True
        if getattr(self._room, "tiles", out[:0]).size < len(self.args) * step:
            self._room.tiles = np.empty(len(self.args) * step, np.float32)
        rows = self._room.tiles[: len(self.args) * step].reshape(len(self.args), step)
        by_tile = any(map(is_by_tile, told.values()))
        for at, size in self.spans(name, start - start % SPAN if by_tile else start, stop):
            arrays = [row[:size] for row in rows]
            finite = [self.values(terms, at, row) for row, terms in zip(arrays, self.terms(name), strict=True)]
            found, first = self.tile(name, at, arrays, told, all(finite)), max(0, start - at)
            last = min(size, stop - at)
            out[at + first - start : at + last - start] = found[first:last]
            all_finite &= all(finite)
        return all_finite

    def tile(
        self, name: str, at: int, arrays: "Sequence[NDArray[Any]]", told: Mapping[str, Any], finite: bool = False
    ) -> "NDArray[Any]":
        """What the function makes of a tile that begins at `at`; of an array in `told` it gets the tile's number."""

        known = here(told, at)
        key = {"name": name, "start": at} if self.method.keyed else {}
        if self.method.rows:
            matrices = [array.reshape(-1, self.width(name)) for array in arrays]
            return self._called(name, matrices, known | key, finite).reshape(-1)
        return self._called(name, arrays, known | key, finite)

    def _tensor(self, name: str, told: Mapping[str, Any]) -> "NDArray[Any]":
        """The whole tensor, computed once for the threads that want its parts."""
        with self._lock:
            if name not in self._whole:
                while len(self._whole) >= KEPT:
                    del self._whole[next(iter(self._whole))]
                self._whole[name] = self._computed(name, told)
                if self.specs[name].numel > TILE:
                    give_back()
            return self._whole[name]

    def _computed(self, name: str, told: Mapping[str, Any]) -> "NDArray[Any]":
        import numpy as np

        arrays = []
        every = [self.specs[name]] * len(self.models) + [self.known(a, name) for a in self.statistics]
        for held, terms in zip(every, self.terms(name), strict=True):
            array = np.empty(held.numel, np.float32)
            for at in range(0, held.numel, TILE):
                self.values(terms, at, array[at : at + TILE])
            arrays.append(array.reshape(held.shape))
        key = {"name": name, "start": 0} if self.method.keyed else {}
        return self._called(name, arrays, {**told, **key})

    def _called(
        self, name: str, arrays: "Sequence[NDArray[Any]]", told: Mapping[str, Any], finite: bool = False
    ) -> "NDArray[Any]":
        """What the function makes of the arrays, which must have their shape. `finite`: they are known to be."""
        import numpy as np

        try:
            with np.errstate(all="ignore"):  # a NaN is reported by its tensor where it would be written
                found = np.asarray(self.method.fn(*arrays, **told), np.float32)
        except Exception as error:
            if isinstance(error, TaskvecError) or not self.method.source:
                raise
            raise TaskvecError(f"{self.method.name} failed at {name}: {type(error).__name__}: {error}") from error
        if found.shape != arrays[0].shape:
            raise TaskvecError(
                f"{self.method.name} made {list(found.shape)} of {name}, where it was given {list(arrays[0].shape)}"
            )
        # A comparison with NaN is false: what a method would drop in silence stays to be seen.
        for array in [] if finite else [a for a in arrays if not math.isfinite(float(a.sum()))]:
            good = np.isfinite(array)
            found = np.where(good if good.shape == found.shape else good.all(), found, np.float32("nan"))
        return found

    def values(self, terms: list[Term], start: int, out: "NDArray[Any]") -> bool:
        """A linear combination, in float32; whether all of it is known to be finite."""
        if not terms:
            out[:] = 0
            return True
        (source, name, number), *more = terms
        if isinstance(source, Applied) and number == 1 and not more:
            return source.compute(name, start, out)
        return not self._evaluate(terms, start, out)

    def _evaluate(self, terms: list[Term], start: int, out: "NDArray[Any]") -> int:
        return evaluate(
            terms, start, out.size, "F32", out, self.memory(scratch_bytes([t[:2] for t in terms], out.size))
        )

    def memory(self, size: int) -> memoryview:
        """Scratch memory of this thread."""
        if getattr(self._room, "size", 0) < size:
            self._room.scratch, self._room.size = memoryview(bytearray(size)), size
        found: memoryview = self._room.scratch
        return found


def is_by_tile(value: Any) -> bool:
    """Whether what is told of a tensor is an array: a number a tile."""
    return bool(getattr(value, "ndim", 0))


def here(told: Mapping[str, Any], start: int) -> dict[str, Any]:
    """What is told of the tile at `start`."""
    return {key: value[start // SPAN] if is_by_tile(value) else value for key, value in told.items()}
