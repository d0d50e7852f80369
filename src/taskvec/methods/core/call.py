"""A call of a method: what it is, what its numbers are, and what memory it needs; what it computes is in applied.py."""

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

METHOD_TILE = (
    128 << 10
)  # elements that an elementwise method sees at once: a few float32 tiles fit the second-level cache
COUNTS = 15 << 18  # bytes of the largest table in which magnitudes about a threshold are counted, and what is beside it
PART = (
    2 * METHOD_TILE
)  # elements that a measure counts or sums at once: fixed, so that threads and blocks change no sum
ABSENT = Spec((0,), "F32")  # what statistics hold of a tensor that they do not name
KEPT = 2  # whole tensors that a method which is not local holds: threads work on two where one ends
Value = float | str | tuple[float, ...]  # of a parameter, at one tensor


class Call(Derived):
    """One call of a method: a source of the mass of its arguments, float32."""

    def __init__(self, method: Method, args: tuple[Weights, ...], params: Mapping[str, Parameter]):
        super().__init__(method.name, args, params, method.defaults)
        self.method = method
        self.own_passes = method.passes if isinstance(method.passes, int) else method.passes(self.params)
        count = len(args) // 2 if method.statistics else len(args)
        self.models, self.statistics = args[:count], args[count:]  # what is merged, and what is known of each
        self.scope, self.by_tile = meant(method.scope, self.params), meant(method.by_tile, self.params)
        self._rows = meant(method.rows, self.params)
        self.scaled = method.scale is not None and method.scale.on.of(self.params)
        self.within: Source | None = None  # whose layers count, where the arguments name only some of them

    @classmethod
    def of(cls, method: Method, args: tuple[Weights, ...], params: Mapping[str, Any]) -> Weights:
        """A call with everything checked, as an expression. Raises RecipeError for arguments and parameters that the
        method cannot take, MassError."""
        method.require_arguments(args)
        call = cls(method, args, method.given(params, len(args)))
        call.check()
        tells = any(not s.partial for a in args for s in a.summed)  # base + lora - base
        source = call.placed(None) if tells and call.lacks_entries else call
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
        """What two equal calls share; of one's own methods, the code too."""
        return *super().same(), self.method.source

    def placed(self, model: Source | None) -> Derived:
        """See `Derived.placed`. Raises RecipeError if the number of entries is needed and nothing tells it."""
        reference = self.together.reference
        model = reference if reference is not None and not reference.partial else model
        found = super().placed(model)
        assert isinstance(found, Call)
        if found.lacks_entries:
            found = found.with_entries(model)
        for c in self.coefficients() if model is None else ():
            c.require_layers(self.args[0].text())
        if model is None or found.within is model or not found.lacks_layers:
            return found
        if found is self:  # what this call already knows is of other layers
            (new,) = self.rebuilt(self.args, self.params).terms
            assert isinstance(new, Call)
            found = new
        found.within = model
        return found

    def with_entries(self, model: Source | None) -> "Call":
        """The same call, told how many entries the model has."""
        if model is None:
            adapter = self.args[0].text()
            alone = written(self.method.scope, Scope.TENSOR)
            raise RecipeError(
                f"{self.name} ranks the entries of the whole model, and {adapter} does not say how many these are: "
                f"an adapter names only some of the tensors. Add the vector to its base, or write base + {adapter} - "
                f"base in its place, or say how many there are ({self.method.entries}=...)"
                + (f", or rank each tensor for itself ({alone})" if alone else "")
            )
        self.specs  # noqa: B018 - raises MismatchError for what the model does not have
        entries = sum(spec.numel for spec in model.specs.values() if spec.arithmetic)
        args = tuple(a if _needs_model(a) else Weights(a.terms, a.mentioned) for a in self.args)
        (found,) = self.rebuilt(args, self.params | {self.method.entries: Coefficient.of(entries)}).terms
        assert isinstance(found, Call)
        return found

    @property
    def lacks_layers(self) -> bool:
        """Whether its numbers depend on the layers, and its arguments, adapters, name only some of them."""
        constant = all(
            c.constant is not None for c in (*(c for a in self.args for c in a.terms.values()), *self.coefficients())
        )
        return not constant and all(source.partial for a in self.args for source in a.terms)

    @property
    def lacks_entries(self) -> bool:
        """Whether the function ranks entries of the whole model, and its arguments, adapters, name only some."""
        whole = self.scope is Scope.MODEL and self.params.get(self.method.entries) == Coefficient.of(0)
        return whole and all(source.partial for a in self.args for source in a.terms)

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
        return stored_of(self.donor)

    @cached_property
    def donor(self) -> Source | None:
        """The first model among the arguments: its dtypes are those of an output, and its integers."""
        return self.together.donor

    @property
    def methods(self) -> dict[str, str]:
        """The user's own methods in here: name -> digest of its code."""
        return super().methods | ({self.name: self.method.source} if self.method.source else {})

    def own_proof(self) -> tuple[str | None, ...]:
        """Of one's own method what proves that its code is the same, or None."""
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
        alike = all(number.constant is not None for number in self.coefficients())
        return self._numbers_at(Place("")) if alike else None

    def _numbers_at(self, place: Place) -> dict[str, Value]:
        def at(key: str, value: Coefficient) -> float:
            return self.method.require(key, as_float(value.at(place)), f" at {place.name}")

        def of(key: str, value: Any) -> Value:
            if isinstance(value, tuple):
                return tuple(at(key, c) for c in value)
            return value if isinstance(value, str) else at(key, value)

        found = {key: of(key, value) for key, value in self.params.items()}
        if self.method.check and (problem := self.method.check(found, len(self.models))):
            raise RecipeError(f"{self.name}{f' at {place.name}' if place.name else ''}: {problem}")
        return found

    def check(self) -> None:
        """Raise RecipeError for parameters that cannot be together; those that differ between tensors come later."""
        _ = self._constants

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands among the layers of all arguments together, or of the model that they are within."""
        return self.together.places if self.within is None else positions(self.within.specs)

    @property
    def piecewise(self) -> bool:
        """Whether what is told of a tensor is known from that tensor."""
        return self.scope in WITHIN_TENSORS

    @property
    def lowers(self) -> bool:
        """Whether it becomes operations of the kernel, which work on whatever it is of while that is in the cache."""
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
        """Statistics that were computed of another model than their argument."""
        yield from super().astray()
        for model, known in zip(self.models, self.statistics, strict=False):
            (source,) = known.terms
            of = [s for s, c in model.terms.items() if c == 1] if len(model.summed) == 1 else []
            if source.base and source.base not in {s.fingerprint for s in of}:
                what = f"the model {of[0].fingerprint[:16]}" if of else "an expression"
                yield f"{source.text} is of the model {source.base[:16]}; beside it stands {model.text()}, {what}"

    # ---- what it costs
    @property
    def cost(self) -> Cost:
        """For the whole run: whole tensors for a method that needs them, numbers a lane for one by lanes. While the
        call measures: a part of each argument, and the sample of thresholds."""
        width = max((self.step(name) for name in self.specs), default=0) if self.method.rows else 0
        parts = (len(self.args) + 16) * 4 * max(PART, width) if self.own_passes else 0
        return Cost(self._kept_bytes, parts)

    @property
    def _kept_bytes(self) -> int:
        """Bytes held once, whatever the number of threads."""
        if self.method.combines:
            width = 8 * len(self.args) * (len(self.args) + 1)
            lanes = (Lanes.of(spec.shape, self.scope) for spec in self.specs.values() if self.scope in LANES)
            return sum(width * its.count for its in lanes)
        if self.method.local or self.method.rows:
            everything = sum(spec.numel for spec in self.specs.values() if spec.arithmetic)
            return min(STRETCH, everything) // 8 * self.draws_twice
        largest = max((4 * spec.numel for spec in self.specs.values() if spec.arithmetic), default=0)
        return KEPT * largest + max(map(self._whole_bytes, self.specs), default=0)

    def _whole_bytes(self, name: str) -> int:
        """Bytes of one tensor's arguments, its result and what the function holds beside them."""
        spec, workspace = self.specs[name], self.method.workspace
        own, known = 4 * spec.numel, [4 * self.known(a, name).numel for a in self.statistics]
        beside = workspace(spec.shape, len(self.args)) if workspace else own
        copies = self.method.copies * max([own, *known]) if any(known) or not self.statistics else 0
        return (len(self.models) + 1) * own + sum(known) + beside + copies

    @staticmethod
    def known(statistics: Weights, name: str) -> Spec:
        """What statistics hold of a tensor."""
        return statistics.specs.get(name, ABSENT)

    def cost_of(self, name: str) -> Cost:
        """The tables in which it counts about its thresholds, or measures something else; a tile of each argument and
        what is made of them, unless it is a part of the program that the block pays for."""
        counts = self.own_passes and not self.method.combines
        tables = (COUNTS * self.method.thresholds or 2 << 20) if counts else 0
        if self.lowers and not self.by_tile:  # which has tiles, too, but where a tile begins
            return Cost(computing=tables)
        step, made = self.step(name), 3 if self.lowers else 8 + self.method.copies
        tiles = sum(4 * step + scratch_bytes(a.parts(name), step) for a in self.args if name in a.specs)
        return Cost(computing=tables + tiles + made * 4 * step)

    def lowered_bytes(self, name: str, n: int) -> int | None:
        """Scratch memory of a program that it is part of, where it can be."""
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
