"""Weights: an expression over checkpoints as the dict that it is, {source: coefficient}.

`base + 0.4*(math - base)` collapses at once to `0.6*base + 0.4*math`. Nothing is read until a tensor is asked for.
This module knows no file and no format.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from taskvec.algebra.bases import strangers
from taskvec.algebra.coefficients import ZERO, Coefficient, joined, monomial_text
from taskvec.algebra.fitting import in_form, objections, told_by
from taskvec.algebra.hints import differences, ways_out
from taskvec.algebra.idle_patterns import unfit
from taskvec.algebra.integers import require_same
from taskvec.algebra.naming import distinct
from taskvec.algebra.program import Linear, arranged, evaluate, scratch_bytes
from taskvec.errors import FingerprintError, MassError, MismatchError, RecipeError, UnboundKnob
from taskvec.numbers.dtypes import accumulator, numpy_dtype
from taskvec.numbers.rationals import Number, as_float
from taskvec.sources.abilities import (
    Composite,
    FromFiles,
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

MEET = ("", "permutation")  # kinds of files that must meet their base; other statistics stand beside theirs
SHOWN, FEW = 50, 8  # findings of one kind that an error prints; of which it knows the way out


class Weights(Base):
    """A linear expression over sources, {source: coefficient}. Two are equal if these are equal.

    Weights can be added, subtracted and scaled. As a Mapping they compute on demand: `w["layer.weight"]` is the tensor
    as a numpy array in float32 (float64 if a source is float64).
    """

    __array_ufunc__ = None  # a number of numpy in front leaves it to __rmul__

    def __init__(
        self,
        terms: Mapping[Source, Coefficient | Number],
        mentioned: Mapping[Source, str] | None = None,
        summed: Iterable[Source] = (),
    ):
        given, mentioned, before = in_form(terms, mentioned or {}, tuple(summed))
        self.terms: Mapping[Source, Coefficient] = MappingProxyType({s: c for s, c in given.items() if c})
        # Every source in order of mention, also those that cancelled, with the name it was given ("" if none).
        # The result of a method or a view is no source of its own in this list: what it was made from is.
        leaves = [leaf for source in given for leaf in leaves_of(source)]
        self.mentioned: Mapping[Source, str] = MappingProxyType(_merged(mentioned, dict.fromkeys(leaves, "")))
        # Every term, also those that cancelled: what must have the same names and shapes.
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
        """Knobs replaced by numbers. Raises UnboundKnob for a name that is no knob of this expression."""
        if unknown := knobs.keys() - self.knobs:
            raise UnboundKnob(
                f"no knob named {', '.join(sorted(unknown))}: knobs are {', '.join(sorted(self.knobs)) or 'none'}"
            )
        found = Weights({}, self.mentioned, [source for source in self.summed if not isinstance(source, Composite)])
        for source, c in self.terms.items():
            found += (source.bind(knobs) if isinstance(source, Composite) else Weights({source: 1})) * c.bind(knobs)
        return found

    @cached_property
    def placed(self) -> "Weights":
        """The same, its methods told of the model that they stand beside: see `Derived.placed`."""
        return self.placed_in(None)

    def placed_in(self, model: Source | None) -> "Weights":
        """The same within an expression whose names are those of `model`, if it is not itself one of whole models."""
        reference = self.reference
        model = reference if reference is not None and not reference.partial else model
        for source, c in self.terms.items() if model is None else ():
            c.require_layers(source.text)
        found = {s: s.placed(model) if isinstance(s, Composite) else s for s in self.terms}
        if all(found[source] is source for source in found):
            return self
        others = [source for source in self.summed if source not in found]
        return Weights({found[s]: c for s, c in self.terms.items()}, self.mentioned, [*found.values(), *others])

    @cached_property
    def knobs(self) -> frozenset[str]:
        """Names that must be bound before this has values."""
        inner = (source.knobs for source in self.terms if isinstance(source, Composite))
        return frozenset(k for c in self.terms.values() for k in c.knobs).union(*inner)

    # ---- what it is
    @property
    def mass(self) -> Fraction:
        """Sum of coefficient x mass of the source: 1 for a model, 0 for a task vector. One number for every tensor."""
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
        """Name -> Spec that all sources share. Raises MismatchError with every difference, and for quantised weights
        (quantised.py), before anything is read."""
        reference = self.reference
        if reference is None:
            return MappingProxyType({})
        refuse(dict.fromkeys(leaf for source in self.summed for leaf in leaves_of(source)))
        if len(self.summed) > 1:
            refuse_statistics(self.summed)
        problems = [*self._unlike(reference), *objections(self.mentioned, self.summed, reference)]
        if problems:
            raise MismatchError("the sources do not fit together:", problems)
        everyone = self.summed if reference.partial else [reference]  # LoRAs alone: what any of them names
        return MappingProxyType({name: spec for source in everyone for name, spec in source.specs.items()})

    def _unlike(self, reference: Source) -> Iterator[str]:
        """What keeps each source from being added, and what to write so that it can be: a few tensors will do then."""
        names = self.names()
        called = {s: written(s, names) for s in self.summed}
        found = {s: differences(s, reference) for s in self.summed if s is not reference}
        for source, lines in found.items():
            ways = ways_out(source, reference, called[source], called[reference]) if lines else []
            most = FEW if ways else max(FEW, SHOWN // len(found))
            yield from lines[:most]
            yield from [f"... and {len(lines) - most} more"] if len(lines) > most else []
            yield from ways

    @property
    def reference(self) -> Source | None:
        """Whose names and shapes count: the first model's, else the first vector's that is not partial."""
        ranked = sorted(self.summed, key=lambda s: (not s.mass, s.partial))
        return ranked[0] if ranked else None

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each tensor stands among the layers, for coefficients that depend on it; see `check_patterns`."""
        if self.reference and not self.reference.partial:  # what LoRAs do not name, the model they are for may have
            self.check_patterns()
        return MappingProxyType(places(self.specs))

    def check_patterns(self) -> None:
        """Raise RecipeError for a pattern that fits nothing, in coefficients or in what methods are told."""
        if problems := list(dict.fromkeys(self.unfit())):
            raise RecipeError("the recipe has patterns that do nothing:", problems[:SHOWN])

    def unfit(self, beyond: Iterable[str] = ()) -> Iterator[str]:
        """What is wrong with patterns, a line each. beyond: names of the expression that this one is a part of."""
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
        if problems := [*strangers((s for s in leaves if statistic_of(s) in MEET), models)] if models else []:
            raise FingerprintError("a task vector meets a base that it was not made from (--force goes on):", problems)
        if astray := [p for term in self.terms if isinstance(term, Composite) for p in term.astray()]:
            raise FingerprintError("statistics stand beside a model that they are not of (--force goes on):", astray)

    @property
    def donor(self) -> Source | None:
        """Whose dtypes, integers and side files a result has: the first model that takes part, else the reference."""
        return next((s for s in self.summed if s.mass and s in self.terms), self.reference)

    # ---- values
    def ordered(self) -> list[tuple[Source, Coefficient]]:
        """The terms in the order of summation: by fingerprint, so that equal expressions give equal bits anywhere."""
        return sorted(self.terms.items(), key=lambda term: (term[0].fingerprint, term[0].text))

    def parts(self, name: str, place: Place | None = None) -> "dict[tuple[Source, str], Fraction]":
        """(source, its tensor) -> number, for all that takes part in one tensor; views are looked through.

        `place`: where the tensor stands among the layers, if it is not this expression alone that says so.
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
        """`parts` as what is computed: around a pivot (program.py), in the order of the fingerprints."""
        if self._alike is None:
            return arranged(self.parts(name, place))
        terms = [(source, name, number) for source, _, number in self._alike.terms if name in source.specs]
        return replace(self._alike, terms=tuple(terms))

    @cached_property
    def _constants(self) -> "dict[Source, Fraction] | None":
        """What is summed for every tensor alike; None if a coefficient or a view says that tensor by tensor."""
        if any(c.constant is None or isinstance(source, LooksThrough) for source, c in self.terms.items()):
            return None
        return {source: c.constant for source, c in self.terms.items() if c.constant}

    @cached_property
    def _alike(self) -> Linear | None:
        """The same as what is computed, without the names. Only vectors may lack a tensor: points all have the same."""
        numbers = self._constants
        return None if numbers is None else arranged({(source, ""): number for source, number in numbers.items()})

    def read(self, name: str, rows: slice | None = None) -> "NDArray[Any]":
        """One tensor, or a range of its rows, computed: float32 (float64 if a source is); others pass through."""
        if self.placed is not self:
            return self.placed.read(name, rows)
        if rows is not None and rows.step not in (None, 1):
            return self.read(name)[rows]
        spec = self.specs[name]
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
        """The recipe, with `names` for sources where given; `parse` reads it back."""
        parts, order = [], [*self.mentioned]
        names = self._told_apart() if names is None else names
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
        """The same, its one source called `name` in lineage and model cards."""
        plain = [*self.mentioned] == [*self.terms]
        return Weights(self.terms, dict.fromkeys(self.mentioned, name), self.summed) if plain else self

    def _told_apart(self) -> Mapping[Source, str]:
        """Names for arrays that have one name and are not the same."""
        counts = Counter(source.text for source in self.mentioned if not isinstance(source, FromFiles))
        alike = {text for text, count in counts.items() if count > 1}
        return {s: name for s, name in self.names().items() if s.text in alike} if alike else {}

    def names(self, reserved: Container[str] = ()) -> dict[Source, str]:
        """A distinct identifier for every source mentioned: the name it was given, else the end of its path. None is
        one of `reserved`, such as the functions of recipes."""
        return distinct(self.mentioned, reserved)

    def __copy__(self) -> "Weights":
        return self  # nothing in it ever changes

    def __deepcopy__(self, memo: Any) -> "Weights":
        return self

    def __reduce__(self) -> Any:
        """Sources, coefficients and names. A file is pickled as where it lies and as its fingerprint (`FromFiles`), so
        that the other process opens it again, and raises SourceChanged if its fingerprint is another one. Arrays in
        memory, and methods that no module has, raise TypeError.

        Pickles are for processes of your own: whoever wrote a pickle can run any code where it is read. For everything
        else there is the text, str(weights), which `parse` reads without running anything.
        """
        return Weights, (dict(self.terms), dict(self.mentioned), self.summed)

    def __repr__(self) -> str:
        return f"Weights({self.text()})"


def _merged(first: Mapping[Source, str], second: Mapping[Source, str]) -> dict[Source, str]:
    """Both, in order of mention; of two names for a source the first that is one."""
    return {source: first.get(source) or second.get(source, "") for source in {**first, **second}}


def _readable(mass: Fraction) -> str:
    return f"{as_float(mass):g}"
