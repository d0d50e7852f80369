"""A method applied to expressions is one more source: it adds and scales like a checkpoint, and nothing is computed
until its elements are asked for.
"""

import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taskvec.coefficients import Coefficient, Place, as_float, quoted
from taskvec.errors import TaskvecError, UnboundKnob
from taskvec.source import Source, Spec
from taskvec.weights import Weights, base_of, evaluate, scratch_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taskvec.methods.lift import Method

TILE = 64 << 10  # elements that an elementwise method sees at once: a few float32 tiles fit the second-level cache
PART = 4 * TILE  # elements that a measure counts or sums at once: fixed, so that threads and blocks change no sum
KEPT = 2  # whole tensors that a method which is not local holds: threads work on two where one ends
Parameter = Coefficient | str
Measured = Mapping[str, Mapping[str, Any]]  # tensor -> what the function is told about it


class Applied:
    """One call of a method: a source of the mass of its arguments, float32, computed range by range."""

    def __init__(self, method: "Method", args: tuple[Weights, ...], params: Mapping[str, Parameter]):
        self.method, self.args, self.params = method, args, dict(params)
        self._lock = threading.RLock()
        self._measured: Measured | None = None
        self._terms: dict[str, list[list[tuple[Source, float]]]] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._whole: dict[str, NDArray[Any]] = {}
        self._room = threading.local()

    def _same(self) -> tuple[Any, ...]:
        return (
            self.method.name,
            self.method.source,
            self.args,
            tuple(sorted(self.params.items(), key=lambda item: item[0])),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Applied) and self._same() == other._same()

    def __hash__(self) -> int:
        return hash((self.method.name, self.args))

    # ---- what it is
    @property
    def leaves(self) -> tuple[Source, ...]:
        """Every file or array below, in order of mention."""
        return tuple(dict.fromkeys(leaf for a in self.args for leaf in a.mentioned))

    @cached_property
    def mass(self) -> int:
        """That of its arguments, which is one."""
        return self.args[0].kind()

    @property
    def base(self) -> str | None:
        """The model that all arguments are relative to, if it is one."""
        bases = {None if self.mass else base_of(a) for a in self.args}
        return bases.pop() if len(bases) == 1 else None

    @property
    def partial(self) -> bool:
        """Whether every argument is."""
        return all(leaf.partial for leaf in self.leaves)

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """float32 wherever there is arithmetic; the rest passes through from the first model."""
        total = sum(self.args, Weights({})).specs
        return {
            name: Spec(spec.shape, "F32") if spec.arithmetic else spec
            for name, spec in total.items()
            if spec.arithmetic or self.mass
        }

    @property
    def knobs(self) -> frozenset[str]:
        """Names in arguments and parameters that have no value yet."""
        numbers = [p for p in self.params.values() if isinstance(p, Coefficient)]
        return frozenset().union(*(a.knobs for a in self.args), *(p.knobs for p in numbers))

    @property
    def methods(self) -> dict[str, str]:
        """The user's own methods in here: name -> digest of its code."""
        found = {self.method.name: self.method.source} if self.method.source else {}
        return found | {k: v for s in self.inner() for k, v in s.methods.items()}

    def bind(self, values: Mapping[str, Any]) -> "Weights":
        """The same call with knobs replaced."""
        args = [a.bind(**{k: v for k, v in values.items() if k in a.knobs}) for a in self.args]
        params = {k: p.bind(values) if isinstance(p, Coefficient) else p for k, p in self.params.items()}
        return self.method(*args, **params)

    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it; parameters that have their default are left out."""
        parts = [a.text(names) for a in self.args]
        for key, value in self.params.items():
            default = self.method.defaults[key]
            if isinstance(value, str):
                parts += [f"{key}={quoted(value)}"] if value != default else []
            else:
                parts += [f"{key}={value}"] if value != Coefficient.of(default) else []
        return f"{self.method.name}({', '.join(parts)})"

    @property
    def text(self) -> str:
        """The call, its sources as they write themselves."""
        return self.written({})

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE3 of the method, its parameters and its arguments' coefficients and fingerprints."""
        from blake3 import blake3

        args = [[[str(c), s.fingerprint] for s, c in a.ordered()] for a in self.args]
        params = {k: str(v) for k, v in self.params.items()}
        return blake3(json.dumps([self.method.name, self.method.source, params, args]).encode()).hexdigest()

    @property
    def resident(self) -> int:
        """Bytes held beside the blocks: whole tensors for a method that needs them, and what is measured."""
        inner = sum(getattr(s, "resident", 0) for a in self.args for s in a.terms)
        if self.method.local or self.method.combines:
            return inner
        largest = max((4 * spec.numel for spec in self.specs.values()), default=0)
        return inner + (len(self.args) + 2 + KEPT) * largest

    def scratch(self, name: str) -> int:
        """Bytes a thread holds while it computes a range."""
        arguments = sum(4 * TILE + _scratch(a, name, TILE) for a in self.args)
        return arguments + 8 * 4 * TILE + (len(self.args) + 6) * 4 * PART * bool(self.method.measure)

    # ---- what it takes to know
    def prepare(self, threads: int, progress: Callable[[int], None] = lambda size: None) -> None:
        """Measure what the function must be told, arguments first; once."""
        for inner in self.inner():
            inner.prepare(threads, progress)
        with self._lock:
            if self._measured is None:
                self._measured = self.method.measure(self, threads, progress) if self.method.measure else {}

    def inner(self) -> Iterator["Applied"]:
        """The method calls among the arguments."""
        yield from {s: None for a in self.args for s in a.terms if isinstance(s, Applied)}

    @property
    def passes(self) -> int:
        """Passes over the data before the one that computes."""
        return self.method.passes + max((s.passes for s in self.inner()), default=0)

    def numbers(self, name: str) -> dict[str, float | str]:
        """The parameters for one tensor."""
        place = self.places[name]
        found: dict[str, float | str] = {}
        for key, value in self.params.items():
            if isinstance(value, str):
                found[key] = value
                continue
            if value.knobs:
                raise UnboundKnob(f"{self.method.name}: {key} has names without a value: {', '.join(value.knobs)}")
            found[key] = self.method.require(key, as_float(value.at(place)), f" at {name}")
        return found

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands among the layers of all arguments together."""
        return sum(self.args, Weights({})).places

    @property
    def unmeasured(self) -> int:
        """Elements that `prepare` has still to read."""
        own = self.method.passes * sum(spec.numel for spec in self.specs.values() if spec.arithmetic)
        return own * (self._measured is None) + sum(s.unmeasured for s in self.inner())

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

    def terms(self, name: str) -> "list[list[tuple[Source, float]]]":
        """For each argument the (source, number) of one tensor; found once."""
        if name not in self._terms:
            self._terms[name] = [scales_of(a, name, self.places) for a in self.args]
        return self._terms[name]

    def _combine(self, name: str, start: int, out: "NDArray[Any]", told: dict[str, Any]) -> None:
        coefficients = self.method.fn(told.pop("gram"), **told)
        totals: dict[Source, float] = {}
        for c, terms_of in zip(coefficients, self.terms(name), strict=True):
            for source, number in terms_of:
                totals[source] = totals.get(source, 0.0) + float(c) * number
        terms = [(s, c) for s, c in sorted(totals.items(), key=lambda term: term[0].fingerprint) if c]
        for at in range(0, out.size, TILE):
            tile = out[at : at + TILE]
            self.values(terms, name, start + at, tile)

    def _tiles(self, name: str, start: int, out: "NDArray[Any]", told: dict[str, Any]) -> None:
        import numpy as np

        if not hasattr(self._room, "tiles"):
            self._room.tiles = np.empty((len(self.args), TILE), np.float32)
        for at in range(0, out.size, TILE):
            tile = out[at : at + TILE]
            arrays = [row[: tile.size] for row in self._room.tiles]
            for row, terms in zip(arrays, self.terms(name), strict=True):
                self.values(terms, name, start + at, row)
            key = {"name": name, "start": start + at} if self.method.keyed else {}
            tile[:] = self._called(name, arrays, told | key)

    def _tensor(self, name: str, told: dict[str, Any]) -> "NDArray[Any]":
        """The whole tensor, computed once for the threads that want its parts."""
        import numpy as np

        with self._lock:
            if name not in self._whole:
                spec = self.specs[name]
                arrays = []
                for terms in self.terms(name):
                    array = np.empty(spec.numel, np.float32)
                    for at in range(0, spec.numel, TILE):
                        self.values(terms, name, at, array[at : at + TILE])
                    arrays.append(array.reshape(spec.shape))
                key = {"name": name, "start": 0} if self.method.keyed else {}
                while len(self._whole) >= KEPT:
                    del self._whole[next(iter(self._whole))]
                self._whole[name] = self._called(name, arrays, told | key)
            return self._whole[name]

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

    def values(self, terms: list[tuple[Source, float]], name: str, start: int, out: "NDArray[Any]") -> None:
        """A linear combination of sources, in float32."""
        if not terms:
            out[:] = 0
            return
        need = scratch_bytes([s for s, _ in terms], name, out.size)
        if getattr(self._room, "size", 0) < need:
            self._room.scratch, self._room.size = memoryview(bytearray(need)), need
        evaluate(terms, name, start, out.size, "F32", out, self._room.scratch)


def scales_of(weights: Weights, name: str, places: Mapping[str, Place]) -> list[tuple[Source, float]]:
    """(source, number) for one tensor, at its place among all arguments' layers."""
    found = [(s, c.at(places[name])) for s, c in weights.ordered() if name in s.specs]
    return [(s, as_float(c)) for s, c in found if c]


def _scratch(weights: Weights, name: str, n: int) -> int:
    sources = [s for s in weights.terms if name in s.specs]
    return scratch_bytes(sources, name, n) + sum(s.scratch(name) for s in sources if isinstance(s, Applied))
