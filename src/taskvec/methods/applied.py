"""A method applied to expressions is one more source: it adds and scales like a checkpoint, and nothing is computed
until its elements are asked for.
"""

import ctypes
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taskvec.coefficients import Coefficient, as_float
from taskvec.derived import Derived, Parameter, room
from taskvec.errors import TaskvecError, UnboundKnob
from taskvec.places import Place
from taskvec.source import Source, Spec
from taskvec.terms import Term, evaluate, scratch_bytes
from taskvec.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taskvec.methods.lift import Method

TILE = 64 << 10  # elements that an elementwise method sees at once: a few float32 tiles fit the second-level cache
PART = 4 * TILE  # elements that a measure counts or sums at once: fixed, so that threads and blocks change no sum
KEPT = 2  # whole tensors that a method which is not local holds: threads work on two where one ends
Measured = Mapping[str, Mapping[str, Any]]  # tensor -> what the function is told about it
Value = float | str | tuple[float, ...]  # of a parameter, at one tensor


class Applied(Derived):
    """One call of a method: a source of the mass of its arguments, float32, computed range by range."""

    def __init__(self, method: "Method", args: tuple[Weights, ...], params: Mapping[str, Parameter]):
        super().__init__(method.name, args, params, method.defaults)
        self.method, self.own_passes = method, method.passes
        self._lock = threading.RLock()
        self._measured: Measured | None = None
        self._terms: dict[str, list[list[Term]]] = {}
        self._told: dict[str, dict[str, Any]] = {}
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
    def specs(self) -> Mapping[str, Spec]:
        """float32 wherever there is arithmetic; the rest passes through from the first model."""
        total = sum(self.args, Weights({})).specs
        return {
            name: Spec(spec.shape, "F32") if spec.arithmetic else spec
            for name, spec in total.items()
            if spec.arithmetic or self.mass
        }

    @cached_property
    def stored(self) -> Mapping[str, Spec]:
        """As the first model among the arguments has it."""
        donor = sum(self.args, Weights({})).reference
        return getattr(donor, "stored", donor.specs) if donor else {}

    @property
    def methods(self) -> dict[str, str]:
        """The user's own methods in here: name -> digest of its code."""
        return super().methods | ({self.name: self.method.source} if self.method.source else {})

    @property
    def resident(self) -> int:
        """Bytes held beside the blocks: whole tensors for a method that needs them, and what is measured."""
        if self.method.local or self.method.combines:
            return super().resident
        count, room = len(self.args), self.method.workspace
        sizes = {spec.shape: 4 * spec.numel for spec in self.specs.values() if spec.arithmetic}
        working = ((count + 1) * size + (room(shape, count) if room else size) for shape, size in sizes.items())
        return super().resident + KEPT * max(sizes.values(), default=0) + max(working, default=0)

    def scratch(self, name: str) -> int:
        """Bytes that a thread holds while it computes a range."""
        arguments = sum(4 * TILE + room(a, name, TILE) for a in self.args if name in a.specs)
        return arguments + 8 * 4 * TILE + (len(self.args) + 6) * 4 * PART * bool(self.method.measure)

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

        return {
            key: value if isinstance(value, str)
            else tuple(at(key, c) for c in value) if isinstance(value, tuple)
            else at(key, value)
            for key, value in self.params.items()
        }  # fmt: skip

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands among the layers of all arguments together."""
        return sum(self.args, Weights({})).places

    @property
    def unmeasured(self) -> int:
        """Elements that `prepare` has still to read."""
        own = self.method.passes * sum(spec.numel for spec in self.specs.values() if spec.arithmetic)
        return own * (self._measured is None) + super().unmeasured

    # ---- values
    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """float32 elements from `start` on; tensors without arithmetic are the first model's."""
        if not self.specs[name].arithmetic:
            next(leaf for leaf in self.leaves if leaf.mass).readinto(name, start, out)
            return
        import numpy as np

        result = np.frombuffer(out, np.float32)
        self.prepare(1)
        assert self._measured is not None
        if name not in self._told:
            self._told[name] = self.numbers(name) | dict(self._measured.get(name, {}))
        told = dict(self._told[name])
        if self.method.combines:
            self._combine(name, start, result, told)
        elif self.method.local:
            self._tiles(name, start, result, told)
        else:
            result[:] = self._tensor(name, told).reshape(-1)[start : start + result.size]

    def terms(self, name: str) -> list[list[Term]]:
        """For each argument what is summed for one tensor; found once."""
        if name not in self._terms:
            self._terms[name] = [a.scales(name, self.places[name]) for a in self.args]
        return self._terms[name]

    def _combine(self, name: str, start: int, out: "NDArray[Any]", told: dict[str, Any]) -> None:
        coefficients = self.method.fn(told.pop("gram"), **told)
        totals: dict[tuple[Source, str], float] = {}
        for c, terms_of in zip(coefficients, self.terms(name), strict=True):
            for source, inner, number in terms_of:
                totals[source, inner] = totals.get((source, inner), 0.0) + float(c) * number
        ordered = sorted(totals.items(), key=lambda item: (item[0][0].fingerprint, item[0][1]))
        terms = [(source, inner, c) for (source, inner), c in ordered if c]
        for at in range(0, out.size, TILE):
            self.values(terms, start + at, out[at : at + TILE])

    def _tiles(self, name: str, start: int, out: "NDArray[Any]", told: dict[str, Any]) -> None:
        import numpy as np

        if not hasattr(self._room, "tiles"):
            self._room.tiles = np.empty((len(self.args), TILE), np.float32)
        for at in range(0, out.size, TILE):
            tile = out[at : at + TILE]
            arrays = [row[: tile.size] for row in self._room.tiles]
            for row, terms in zip(arrays, self.terms(name), strict=True):
                self.values(terms, start + at, row)
            key = {"name": name, "start": start + at} if self.method.keyed else {}
            tile[:] = self._called(name, arrays, told | key)

    def _tensor(self, name: str, told: dict[str, Any]) -> "NDArray[Any]":
        """The whole tensor, computed once for the threads that want its parts."""
        with self._lock:
            if name not in self._whole:
                while len(self._whole) >= KEPT:
                    del self._whole[next(iter(self._whole))]
                self._whole[name] = self._computed(name, told)
                if self.specs[name].numel > TILE:
                    _give_back()
            return self._whole[name]

    def _computed(self, name: str, told: dict[str, Any]) -> "NDArray[Any]":
        import numpy as np

        spec = self.specs[name]
        arrays = []
        for terms in self.terms(name):
            array = np.empty(spec.numel, np.float32)
            for at in range(0, spec.numel, TILE):
                self.values(terms, at, array[at : at + TILE])
            arrays.append(array.reshape(spec.shape))
        key = {"name": name, "start": 0} if self.method.keyed else {}
        return self._called(name, arrays, told | key)

    def _called(self, name: str, arrays: "Sequence[NDArray[Any]]", told: Mapping[str, Any]) -> "NDArray[Any]":
        """What the function makes of the arrays, which must have their shape."""
        import numpy as np

        try:
            found = np.asarray(self.method.fn(*arrays, **told), np.float32)
        except Exception as error:
            if isinstance(error, TaskvecError) or not self.method.source:
                raise
            raise TaskvecError(f"{self.method.name} failed at {name}: {type(error).__name__}: {error}") from error
        if found.shape != arrays[0].shape:
            raise TaskvecError(
                f"{self.method.name} made {list(found.shape)} of {name}, where it was given {list(arrays[0].shape)}"
            )
        for array in arrays:  # a comparison with NaN is false: what a method would drop in silence stays to be seen
            if not math.isfinite(float(array.sum())):
                found = np.where(np.isfinite(array), found, np.float32("nan"))
        return found

    def values(self, terms: list[Term], start: int, out: "NDArray[Any]") -> None:
        """A linear combination, in float32."""
        if not terms:
            out[:] = 0
            return
        need = scratch_bytes([term[:2] for term in terms], out.size)
        if getattr(self._room, "size", 0) < need:
            self._room.scratch, self._room.size = memoryview(bytearray(need)), need
        evaluate(terms, start, out.size, "F32", out, self._room.scratch)


def _give_back() -> None:
    """Return what was freed to the system: glibc keeps tens of MB for every thread that has held as much."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
