"""Weights: an expression over checkpoints, which is a dict {source: coefficient}.

Sums and multiples of expressions are such dicts again: `base + 0.4*(math - base)` is at once `0.6*base + 0.4*math`.
No tensor is read until somebody asks for its values. This module knows no file and no format.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from taskvec.algebra.bases import strangers
from taskvec.algebra.coefficients import ZERO, Coefficient, joined, monomial_text
from taskvec.algebra.fitting import in_form, objections, told_by
from taskvec.algebra.hints import misfits
from taskvec.algebra.idle_patterns import unfit
from taskvec.algebra.integers import require_same
from taskvec.algebra.naming import distinct, told_apart
from taskvec.algebra.program import Linear, arranged, evaluate, scratch_bytes
from taskvec.errors import FingerprintError, MassError, MismatchError, RecipeError, UnboundKnob
from taskvec.numbers.dtypes import accumulator, numpy_dtype
from taskvec.numbers.rationals import Number, as_float
from taskvec.sources.abilities import (
    Composite,
    LooksThrough,
    leaves_of,
    refuse_statistics,
    statistic_of,
    written,
)
from taskvec.sources.positions import Place, places
from taskvec.sources.quantised import refuse
from taskvec.sources.source import Source, Spec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Base = Mapping[str, NDArray[Any]]
else:
    Base = Mapping

SHOWN = 50  # problems of one kind that an error lists at most
BASED = ("", "permutation")  # `statistic` of weights and of permutations: they may only be used with their own base


class Weights(Base):
    """A linear expression over sources, {source: coefficient}. Two expressions are equal if these dicts are equal.

    Weights can be added, subtracted and scaled. They are also a Mapping from names to tensors, each of which is
    computed when it is asked for: `w["layer.weight"]` is a numpy array in float32 (float64 if a source is float64).
    """

    __array_ufunc__ = None  # so that numpy.float32(2) * weights calls __rmul__

    def __init__(
        self,
        terms: Mapping[Source, Coefficient | Number],
        mentioned: Mapping[Source, str] | None = None,
        summed: Iterable[Source] = (),
    ):
        given, mentioned, before = in_form(terms, mentioned or {}, tuple(summed))
        self.terms: Mapping[Source, Coefficient] = MappingProxyType({s: c for s, c in given.items() if c})
        # Every file and array in order of mention, with the name that it was given ("" if none). Those that cancelled
        # are in it, too. In place of the result of a method or a view it has the files that the result is made from.
        leaves = [leaf for source in given for leaf in leaves_of(source)]
        self.mentioned: Mapping[Source, str] = MappingProxyType(_merged(mentioned, dict.fromkeys(leaves, "")))
        # Every term, and those that cancelled: all of them must have the same names and shapes.
        self.summed: tuple[Source, ...] = tuple(dict.fromkeys([*before, *given]))

    # ---- the vector space
    def __add__(self, other: "Weights") -> "Weights":
        if not isinstance(other, Weights):
            return NotImplemented
        total = dict(self.terms)
        for source, c in other.terms.items():
            total[source] = total.get(source, ZERO) + c
        return Weights(total, _merged(self.mentioned, other.mentioned), (*self.summed, *other.summed))

    def __radd__(self, other: Any) -> "Weights":
        return self if isinstance(other, int) and other == 0 else NotImplemented  # sum([...]) starts from 0

    def __mul__(self, scale: Number | Coefficient) -> "Weights":
        if isinstance(scale, Weights):
            raise TypeError("weights are scaled by numbers, not multiplied with one another")
        return Weights({s: c * Coefficient.of(scale) for s, c in self.terms.items()}, self.mentioned, self.summed)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Number | Coefficient) -> "Weights":
        return Weights({s: c / divisor for s, c in self.terms.items()}, self.mentioned, self.summed)

    def __neg__(self) -> "Weights":
        return self * -1

    def __sub__(self, other: "Weights") -> "Weights":
        return self + -other if isinstance(other, Weights) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return self.terms == other.terms if isinstance(other, Weights) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def bind(self, **knobs: Number | Coefficient) -> "Weights":
        """This expression with numbers in place of knobs. Raises UnboundKnob for a name that is no knob of it."""
        if unknown := knobs.keys() - self.knobs:
            raise UnboundKnob(
                f"no knob named {', '.join(sorted(unknown))}: knobs are {', '.join(sorted(self.knobs)) or 'none'}"
            )
        total = Weights({}, self.mentioned, [source for source in self.summed if not isinstance(source, Composite)])
        for source, c in self.terms.items():
            total += (source.bind(knobs) if isinstance(source, Composite) else Weights({source: 1})) * c.bind(knobs)
        return total

    @cached_property
    def placed(self) -> "Weights":
        """This expression, with every method in it told which model it is added to (`Derived.placed`)."""
        return self.placed_in(None)

    def placed_in(self, model: Source | None) -> "Weights":
        """`placed`, as a part of a larger expression whose tensors are those of `model`, or of none.

        model: the model that adapters in here are added to, if this expression has no source that names every tensor.
        """
        reference = self.reference
        model = reference if reference is not None and not reference.partial else model
        for source, c in self.terms.items() if model is None else ():
            c.require_layers(source.text)
        placed = {s: s.placed(model) if isinstance(s, Composite) else s for s in self.terms}
        if all(new is old for old, new in placed.items()):
            return self
        cancelled = [source for source in self.summed if source not in placed]
        terms = {placed[source]: c for source, c in self.terms.items()}
        return Weights(terms, self.mentioned, [*placed.values(), *cancelled])

    @cached_property
    def knobs(self) -> frozenset[str]:
        """Names that must be bound before this has values."""
        inner = (source.knobs for source in self.terms if isinstance(source, Composite))
        return frozenset(k for c in self.terms.values() for k in c.knobs).union(*inner)

    # ---- what it is
    @property
    def mass(self) -> Fraction:
        """The sum of coefficient x mass: 1 for a model, 0 for a task vector. Raises MassError if tensors differ."""
        self._require_bound()
        total = sum((c * s.mass for s, c in self.terms.items()), ZERO)
        if (constant := total.constant) is not None:
            return constant
        by_tensor = {name: total.at(place) for name, place in self.places.items()}
        values = sorted(set(by_tensor.values()))
        if len(values) > 1:
            first = {value: next(n for n, v in by_tensor.items() if v == value) for value in values}
            raise MassError(
                "the mass differs from tensor to tensor, so this is neither a model nor a task vector:",
                [f"mass {_readable(v)} at {name}" for v, name in first.items()],
            )
        return values[0] if values else Fraction(0)

    def kind(self) -> int:
        """The mass, which must be 0 or 1. Raises MassError that says what to do."""
        refuse_statistics(self.terms)
        mass = self.mass
        if mass not in (0, 1):
            raise MassError(
                f"this has mass {_readable(mass)}: a model has mass 1, a task vector 0. Subtract a base from "
                "fine-tuned models (base + 0.4*(tuned - base)), or divide to average ((a + b)/2).\n"
                f"  expression: {self.text(self.names())}"
            )
        return int(mass)

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """Name -> Spec, from headers alone. Raises MismatchError that lists every difference between the sources, and
        for quantised weights (sources/quantised.py), which cannot be summed."""
        reference = self.reference
        if reference is None:
            return MappingProxyType({})
        refuse(dict.fromkeys(leaf for source in self.summed for leaf in leaves_of(source)))
        if len(self.summed) > 1:
            refuse_statistics(self.summed)
        problems = [*misfits(self.summed, reference, self.names(), SHOWN)]
        problems += objections(self.mentioned, self.summed, reference)
        if problems:
            raise MismatchError("the sources do not fit together:", problems)
        named_by = self.summed if reference.partial else [reference]  # adapters alone: every tensor that one names
        return MappingProxyType({name: spec for source in named_by for name, spec in source.specs.items()})

    @property
    def reference(self) -> Source | None:
        """The source that says which tensors there are: the first model, else the first vector that names them all."""
        ranked = sorted(self.summed, key=lambda s: (not s.mass, s.partial))
        return ranked[0] if ranked else None

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands among the layers. Raises RecipeError as `check_patterns` does."""
        if self.reference and not self.reference.partial:  # a pattern may fit a tensor that an adapter does not name
            self.check_patterns()
        return MappingProxyType(places(self.specs))

    def check_patterns(self) -> None:
        """Raise RecipeError for a pattern that fits no tensor, in coefficients and in parameters of methods."""
        if problems := list(dict.fromkeys(self.unfit())):
            raise RecipeError("the recipe has patterns that do nothing:", problems[:SHOWN])

    def unfit(self, beyond: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with the patterns in here, a line each. beyond: more names that they may fit, namely those of
        the expression that this one is a part of."""
        inner = [source for source in self.terms if isinstance(source, Composite)]
        if inner or any(c.constant is None for c in self.terms.values()):
            names = dict.fromkeys([*self.specs, *beyond])
            yield from unfit(self.terms.values(), names)
            for call in inner:
                yield from call.unfit(names)

    def check_bases(self) -> None:
        """Raise FingerprintError for a task vector whose base is none of the models that the expression mentions, and
        for statistics of another model than the one that a method was given with them."""
        models = {s.fingerprint: s for s in (*self.mentioned, *self.terms) if s.mass}
        leaves = dict.fromkeys(leaf for term in self.terms for leaf in leaves_of(term))
        if problems := [*strangers((s for s in leaves if statistic_of(s) in BASED), models)] if models else []:
            raise FingerprintError("a task vector meets a base that it was not made from (--force goes on):", problems)
        if problems := [line for term in self.terms if isinstance(term, Composite) for line in term.astray()]:
            raise FingerprintError("statistics stand beside a model that they are not of (--force goes on):", problems)

    @property
    def donor(self) -> Source | None:
        """The source that gives a result its dtypes, its integers and the files beside it: the first model among the
        terms, else the reference."""
        return next((s for s in self.summed if s.mass and s in self.terms), self.reference)

    # ---- values
    def ordered(self) -> list[tuple[Source, Coefficient]]:
        """The terms in the order of summation: by fingerprint, so that equal expressions give equal bits anywhere."""
        return sorted(self.terms.items(), key=lambda term: (term[0].fingerprint, term[0].text))

    def parts(self, name: str, place: Place | None = None) -> "dict[tuple[Source, str], Fraction]":
        """One tensor as a sum: (source, the name of its tensor) -> the number in front of it.

        A view does not appear: the tensors of files that it shows do. Numbers that are zero are left out.
        place: where the tensor stands among the layers. Given by an expression that this one is a part of.
        """
        self._require_bound()
        if self._constants is not None:
            return {(source, name): number for source, number in self._constants.items() if name in source.specs}
        total: dict[tuple[Source, str], Fraction] = {}
        for source, c in self.terms.items():
            if name in source.specs and (value := c.at(place or self.places[name])):
                through = source.origin(name) if isinstance(source, LooksThrough) else {(source, name): Fraction(1)}
                for key, number in through.items():
                    total[key] = total.get(key, Fraction(0)) + value * number
        return {key: number for key, number in total.items() if number}

    def linear(self, name: str, place: Place | None = None) -> Linear:
        """The sum that `parts` says, as it is computed: around a pivot (program.py), in the order of fingerprints."""
        if self._alike is None:
            return arranged(self.parts(name, place))
        terms = [(source, name, number) for source, _, number in self._alike.terms if name in source.specs]
        return replace(self._alike, terms=tuple(terms))

    @cached_property
    def _constants(self) -> "dict[Source, Fraction] | None":
        """Source -> number where these are the same for every tensor; None where a coefficient or a view differs."""
        if any(c.constant is None or isinstance(source, LooksThrough) for source, c in self.terms.items()):
            return None
        return {source: c.constant for source, c in self.terms.items() if c.constant}

    @cached_property
    def _alike(self) -> Linear | None:
        """`_constants` as a sum around a pivot, made once for all tensors, with "" in place of their names. Sources
        that lack a tensor are left out of it later: these are vectors, and the pivot is a model."""
        numbers = self._constants
        return None if numbers is None else arranged({(source, ""): number for source, number in numbers.items()})

    def read(self, name: str, rows: slice | None = None) -> "NDArray[Any]":
        """The values of one tensor, or of a range of its rows: float32, or float64 if a source is float64.

        Tensors that cannot be summed, such as integers, are those of `donor`. Raises MismatchError if models differ.
        """
        if self.placed is not self:
            return self.placed.read(name, rows)
        spec = self.specs[name]
        if rows is not None and (rows.step not in (None, 1) or not spec.shape):
            return self.read(name)[rows]  # numpy raises IndexError for rows of a scalar
        if not spec.arithmetic:
            return self._passed_through(name, spec, rows)
        import numpy as np

        linear = self.linear(name)
        first, last, _ = (rows or slice(None)).indices(spec.shape[0] if spec.shape else 1)
        shape = (max(0, last - first), *spec.shape[1:]) if spec.shape else ()
        row = spec.numel // spec.shape[0] if spec.shape and spec.shape[0] else 1
        dtype = accumulator(*(s.specs[inner].dtype for s, inner in linear.parts))
        out = np.zeros(shape, np.float64 if dtype == "F64" else np.float32)
        if linear and out.size:
            scratch = memoryview(bytearray(scratch_bytes(linear.parts, out.size)))
            evaluate(linear, first * row, out.size, dtype, out.reshape(-1), scratch)
        return out

    def _passed_through(self, name: str, spec: Spec, rows: slice | None) -> "NDArray[Any]":
        import numpy as np

        source = self.donor
        assert source is not None
        require_same(self, [name])
        raw = bytearray(spec.nbytes)
        source.readinto(name, 0, memoryview(raw))
        array = np.frombuffer(raw, numpy_dtype(spec.dtype))
        return (array.reshape(spec.shape) if array.size == spec.numel else array)[rows or ...]

    def __getitem__(self, name: str) -> "NDArray[Any]":
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.specs  # that of Mapping would compute the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def _require_bound(self) -> None:
        if self.knobs:
            raise UnboundKnob(
                f"names without a value: {', '.join(sorted(self.knobs))}. Bind each to a number (a knob) or to a model."
            )

    # ---- text
    def text(self, names: Mapping[Source, str] | None = None) -> str:
        """The recipe, which `parse` reads back. names: what to call sources; the others are written as they are."""
        parts, order = [], [*self.mentioned]
        names = told_apart(self.mentioned) if names is None else names
        for source, c in sorted(self.terms.items(), key=lambda term: order.index(leaves_of(term[0])[0])):
            name = written(source, names)
            if len(c.terms) == 1:
                ((factors, value),) = c.terms.items()
                number = monomial_text(factors, value)
                parts.append({"1": name, "-1": f"-{name}"}.get(number, f"{number}*{name}"))
            else:
                parts.append(f"({c})*{name}")
        if parts and (model := told_by(self.terms, self.summed)):
            name = written(model, names)
            parts += [name, f"-{name}"]
        return joined(parts) if parts else "0"

    __str__ = text

    def named(self, name: str) -> "Weights":
        """This expression of one source, which is then called `name` in lineages and model cards. An expression of
        several sources is returned as it is."""
        plain = [*self.mentioned] == [*self.terms]
        return Weights(self.terms, dict.fromkeys(self.mentioned, name), self.summed) if plain else self

    def names(self, reserved: Container[str] = ()) -> dict[Source, str]:
        """A distinct identifier for every file and array, none of which is `reserved`: see naming.py."""
        return distinct(self.mentioned, reserved)

    def __copy__(self) -> "Weights":
        return self  # it never changes

    def __deepcopy__(self, memo: Any) -> "Weights":
        return self

    def __reduce__(self) -> Any:
        """A pickle holds sources, coefficients and names, and no tensors.

        Of a file it holds the path and the fingerprint (`FromFiles`): the process that unpickles it opens the file
        again, and raises SourceChanged if the fingerprint is another one. Arrays in memory, and methods that are not
        in an importable module, raise TypeError.

        Pickles are for processes of your own: whoever wrote a pickle can run any code where it is read. For everything
        else there is the text, str(weights), which `parse` reads without running anything.
        """
        return type(self), (dict(self.terms), dict(self.mentioned), self.summed)

    def __repr__(self) -> str:
        return f"Weights({self.text()})"


def _merged(first: Mapping[Source, str], second: Mapping[Source, str]) -> dict[Source, str]:
    """The sources of both, in order of mention. Of two names for one source the first counts that is not ""."""
    return {source: first.get(source) or second.get(source, "") for source in {**first, **second}}


def _readable(mass: Fraction) -> str:
    return f"{as_float(mass):g}"
