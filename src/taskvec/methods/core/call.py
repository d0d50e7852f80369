"""A call of a method: its arguments, its parameters and the memory that it needs. applied.py computes its values."""

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.derived import STRETCH, Derived, Parameter
from taskvec.algebra.fitting import told_by
from taskvec.algebra.program import aligned, scratch_bytes
from taskvec.algebra.weights import SHOWN, Weights
from taskvec.errors import MismatchError, RecipeError, UnboundKnob
from taskvec.methods.core.lanes import Lanes
from taskvec.methods.core.method import Method
from taskvec.methods.core.roles import LANES, WITHIN_TENSORS, Rows, Scope, meant, written
from taskvec.numbers.operations import RESULT
from taskvec.numbers.rationals import as_float
from taskvec.sources.abilities import stored_of
from taskvec.sources.cost import Cost
from taskvec.sources.positions import Place
from taskvec.sources.positions import places as positions
from taskvec.sources.source import Source, Spec

# Elements that an elementwise method sees at once: a few float32 tiles of this size fit the second-level cache.
METHOD_TILE = 128 << 10
# Elements that a measure counts or sums at once. The number is fixed, so that no sum depends on threads or blocks.
PART = 2 * METHOD_TILE
COUNTS = 15 << 18  # bytes of the largest table in which magnitudes near a threshold are counted, with its workspace
ABSENT = Spec((0,), "F32")  # what statistics hold of a tensor that they do not name
KEPT = 2  # results of whole tensors that are held: where one tensor ends and the next begins, threads work on both
Value = float | str | tuple[float, ...]  # of a parameter, at one tensor


class Call(Derived):
    """One call of a method: a source in float32, whose mass is that of its arguments."""

    def __init__(self, method: Method, args: tuple[Weights, ...], params: Mapping[str, Parameter]):
        super().__init__(method.name, args, params, method.defaults)
        self.method = method
        self.own_passes = method.passes if isinstance(method.passes, int) else method.passes(self.params)
        count = len(args) // 2 if method.statistics else len(args)
        self.models, self.statistics = args[:count], args[count:]  # what is merged, and the statistics of each
        self.scope, self.by_tile = meant(method.scope, self.params), meant(method.by_tile, self.params)
        self._rows = meant(method.rows, self.params)
        self.scaled = method.scale is not None and method.scale.on.of(self.params)
        self.within: Source | None = None  # the model that has all layers, where the arguments name only some of them

    @classmethod
    def of(cls, method: Method, args: tuple[Weights, ...], params: Mapping[str, Any]) -> Weights:
        """A call with everything checked, as an expression. Raises RecipeError for arguments and parameters that the
        method cannot take, MassError."""
        method.require_arguments(args)
        call = cls(method, args, method.given(params, len(args)))
        call.check()
        names_a_model = any(not s.partial for a in args for s in a.summed)  # as base + lora - base does
        source = call.placed(None) if names_a_model and call.lacks_entries else call
        mentioned: dict[Source, str] = {}
        for weights in args:
            for leaf, name in weights.mentioned.items():
                mentioned[leaf] = mentioned.get(leaf) or name
        return Weights({source: 1}, mentioned)

    def rebuilt(self, args: tuple[Weights, ...], params: Mapping[str, Parameter]) -> Weights:
        """The same call with other arguments."""
        return self.of(self.method, args, params)

    def __reduce__(self) -> Any:
        return type(self), (self.method, self.args, self.params), {"within": self.within}

    def same(self) -> tuple[Any, ...]:
        """What two equal calls share. For a user's own method this includes the digest of its code."""
        return *super().same(), self.method.source

    def placed(self, model: Source | None) -> Derived:
        """See `Derived.placed`. Raises RecipeError if the number of entries is needed and nothing tells it."""
        reference = self.together.reference
        model = reference if reference is not None and not reference.partial else model
        call = super().placed(model)
        assert isinstance(call, Call)
        if call.lacks_entries:
            call = call.with_entries(model)
        for c in self.coefficients() if model is None else ():
            c.require_layers(self.args[0].text())
        if model is None or call.within is model or not call.lacks_layers:
            return call
        if call is self:  # what this call already knows is of other layers
            (copy,) = self.rebuilt(self.args, self.params).terms
            assert isinstance(copy, Call)
            call = copy
        call.within = model
        return call

    def with_entries(self, model: Source | None) -> "Call":
        """The same call with the number of entries that the model has. Raises RecipeError where there is no model."""
        if model is None:
            adapter = self.args[0].text()
            by_tensor = written(self.method.scope, Scope.TENSOR)
            raise RecipeError(
                f"{self.name} ranks the entries of the whole model, and {adapter} does not say how many these are: "
                f"an adapter names only some of the tensors. Add the vector to its base, or write base + {adapter} - "
                f"base in its place, or say how many there are ({self.method.entries}=...)"
                + (f", or rank each tensor for itself ({by_tensor})" if by_tensor else "")
            )
        self.specs  # noqa: B018 - raises MismatchError for what the model does not have
        entries = sum(spec.numel for spec in model.specs.values() if spec.arithmetic)
        args = tuple(a if _needs_model(a) else Weights(a.terms, a.mentioned) for a in self.args)
        (call,) = self.rebuilt(args, self.params | {self.method.entries: Coefficient.of(entries)}).terms
        assert isinstance(call, Call)
        return call

    @property
    def lacks_layers(self) -> bool:
        """Whether its numbers depend on the layers although its arguments are adapters, which name only some layers."""
        constant = all(
            c.constant is not None for c in (*(c for a in self.args for c in a.terms.values()), *self.coefficients())
        )
        return not constant and all(source.partial for a in self.args for source in a.terms)

    @property
    def lacks_entries(self) -> bool:
        """Whether it ranks the entries of the whole model although its arguments are adapters, which name only some."""
        whole = self.scope is Scope.MODEL and self.params.get(self.method.entries) == Coefficient.of(0)
        return whole and all(source.partial for a in self.args for source in a.terms)

    # ---- what it is
    @cached_property
    def together(self) -> Weights:
        """The sum of what is merged. It has the names and shapes that all arguments must have."""
        return sum(self.models, Weights({}))

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """Tensors with arithmetic are float32. The others, of a model, are those of the first model."""
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
        """Names, shapes and dtypes as the first model among the arguments has them in its file."""
        return stored_of(self.donor)

    @cached_property
    def donor(self) -> Source | None:
        """The first model among the arguments, which gives an output its dtypes and its integers."""
        return self.together.donor

    @property
    def methods(self) -> dict[str, str]:
        """The user's own methods in here: name -> digest of its code."""
        return super().methods | ({self.name: self.method.source} if self.method.source else {})

    def own_proof(self) -> tuple[str | None, ...]:
        """For a user's own method what proves that its code is the same as in an earlier run, or None."""
        from taskvec.methods.core.proof import proof_of

        return (proof_of(self.method.fn),) if self.method.source else ()

    def numbers(self, name: str) -> dict[str, Value]:
        """The parameters for one tensor."""
        if missing := self.knobs:
            raise UnboundKnob(f"{self.name}: names without a value: {', '.join(sorted(missing))}")
        return dict(self._constants) if self._constants is not None else self._numbers_at(self.places[name])

    @cached_property
    def _constants(self) -> dict[str, Value] | None:
        """The parameters, if they are the same for every tensor."""
        are_constant = all(number.constant is not None for number in self.coefficients())
        return self._numbers_at(Place("")) if are_constant else None

    def _numbers_at(self, place: Place) -> dict[str, Value]:
        def at(key: str, value: Coefficient) -> float:
            return self.method.require(key, as_float(value.at(place)), f" at {place.name}")

        def of(key: str, value: Any) -> Value:
            if isinstance(value, tuple):
                return tuple(at(key, c) for c in value)
            return value if isinstance(value, str) else at(key, value)

        values = {key: of(key, value) for key, value in self.params.items()}
        if self.method.check and (problem := self.method.check(values, len(self.models))):
            raise RecipeError(f"{self.name}{f' at {place.name}' if place.name else ''}: {problem}")
        return values

    def check(self) -> None:
        """Raise RecipeError for parameters that exclude one another. Those that differ between tensors are checked when
        the tensors are measured."""
        _ = self._constants

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands among the layers of all arguments together, or of the model that has all layers."""
        return self.together.places if self.within is None else positions(self.within.specs)

    @property
    def piecewise(self) -> bool:
        """Whether what the function is told of a tensor depends on that tensor alone."""
        return self.scope in WITHIN_TENSORS

    @property
    def lowers(self) -> bool:
        """Whether it becomes operations of the kernels, which work on its arguments while these are in the cache."""
        return self.method.lower is not None and not self.by_rows

    @property
    def by_rows(self) -> bool:
        """Whether the function is given whole rows."""
        return self.method.rows is not None or (self.method.local and self.scope is Scope.ROW)

    @property
    def draws_twice(self) -> bool:
        """Whether it draws to measure, and then once more to compute."""
        return self.method.keyed and self.own_passes > 0 and self.scaled

    def astray(self) -> Iterator[str]:
        """Statistics that were computed of another model than the argument that they belong to."""
        yield from super().astray()
        for model, statistics in zip(self.models, self.statistics, strict=False):
            (source,) = statistics.terms
            single = [s for s, c in model.terms.items() if c == 1] if len(model.summed) == 1 else []
            if source.base and source.base not in {s.fingerprint for s in single}:
                what = f"the model {single[0].fingerprint[:16]}" if single else "an expression"
                yield f"{source.text} is of the model {source.base[:16]}; beside it stands {model.text()}, {what}"

    # ---- what it costs
    @property
    def cost(self) -> Cost:
        """Memory for the whole run: whole tensors for a method that needs them, and coefficients for each lane. While
        the call measures it also needs a part of each argument, and the sample from which thresholds are guessed."""
        width = max((self.step(name) for name in self.specs), default=0) if self.method.rows else 0
        parts = (len(self.args) + 16) * 4 * max(PART, width) if self.own_passes else 0
        return Cost(self._kept_bytes, parts)

    @property
    def _kept_bytes(self) -> int:
        """Bytes held once, whatever the number of threads."""
        if self.method.combines:
            width = 8 * len(self.args) * (len(self.args) + 1)
            shapes = [spec.shape for spec in self.specs.values() if self.scope in LANES]
            return sum(width * Lanes.of(shape, self.scope).count for shape in shapes)
        if self.method.local or self.method.rows:
            everything = sum(spec.numel for spec in self.specs.values() if spec.arithmetic)
            return min(STRETCH, everything) // 8 * self.draws_twice
        largest = max((4 * spec.numel for spec in self.specs.values() if spec.arithmetic), default=0)
        return KEPT * largest + max(map(self._whole_bytes, self.specs), default=0)

    def _whole_bytes(self, name: str) -> int:
        """Bytes of one tensor's arguments, its result and what the function holds beside them."""
        spec, workspace_of = self.specs[name], self.method.workspace
        size, statistics = 4 * spec.numel, [4 * self.known(a, name).numel for a in self.statistics]
        workspace = workspace_of(spec.shape, len(self.args)) if workspace_of else size
        copies = self.method.copies * max([size, *statistics]) if any(statistics) or not self.statistics else 0
        return (len(self.models) + 1) * size + sum(statistics) + workspace + copies

    @staticmethod
    def known(statistics: Weights, name: str) -> Spec:
        """The spec of what statistics hold of a tensor."""
        return statistics.specs.get(name, ABSENT)

    def cost_of(self, name: str) -> Cost:
        """Memory of a thread for one tensor: the tables in which it counts near its thresholds or measures something
        else, and a tile of each argument and of the results. Where it is operations of the kernels, a block's program
        already counts these tiles."""
        counts = self.own_passes and not self.method.combines
        tables = (COUNTS * self.method.thresholds or 2 << 20) if counts else 0
        if self.lowers and not self.by_tile:  # with by_tile a range that begins within a tile needs tiles of its own
            return Cost(computing=tables)
        step, results = self.step(name), 3 if self.lowers else 8 + self.method.copies
        tiles = sum(4 * step + scratch_bytes(a.parts(name), step) for a in self.args if name in a.specs)
        return Cost(computing=tables + tiles + results * 4 * step)

    def lowered_bytes(self, name: str, n: int) -> int | None:
        """Scratch memory for n of its elements in a program of the kernels, or None if it cannot be in one."""
        if not (self.lowers or self.draws_twice):
            return None
        args = sum(scratch_bytes(a.parts(name), n) for a in self.args if name in a.specs)
        return args + 2 * RESULT if self.lowers else max(args + 2 * RESULT, aligned(4 * n))

    def step(self, name: str, most: int = METHOD_TILE) -> int:
        """Elements of a tensor that the function is given at once: a tile, or the whole rows that make one."""
        width = self.width(name)
        return max(1, most // width) * width if self.by_rows else most

    def width(self, name: str) -> int:
        """Elements of a row."""
        shape = self.specs[name].shape
        if len(shape) > 1 and self._rows is Rows.BEHIND_FIRST_AXIS:
            return max(1, math.prod(shape[1:]))
        return max(1, shape[-1]) if shape else 1

    def spans(self, name: str, start: int, stop: int, most: int = METHOD_TILE) -> "list[tuple[int, int]]":
        """(first element, how many) of what the function is given for the elements start .. stop."""
        step, numel = self.step(name, most), self.specs[name].numel
        if not self.by_rows:
            return [(at, min(step, stop - at)) for at in range(start, stop, step)]
        return [(at, min(step, numel - at)) for at in range(start - start % self.width(name), stop, step)]


def _needs_model(weights: Weights) -> bool:
    """Whether adapters need more of the model that cancelled beside them than the number of its entries."""
    return any(c.constant is None for c in weights.terms.values()) or told_by(weights.terms, ()) is not None
