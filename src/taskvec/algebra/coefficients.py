"""What may stand in front of a source: numbers, knobs, filters, tables of patterns, gradients over the layers.

A coefficient is a polynomial over *factors*, with exact rational numbers. A factor is a knob, which is a name that gets
a number later, or it is a function of the tensor's name and its place among the layers. So coefficients add and
multiply tensor by tensor, `1 - 0.4 - 0.4 + 0.3` is exactly 0.5, and `only(p) + without(p)` is exactly 1. A coefficient
is a dict {monomial: number}, and two coefficients are equal if their dicts are.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from keyword import iskeyword
from numbers import Real
from types import MappingProxyType
from typing import Any
from unicodedata import normalize

from taskvec.errors import RecipeError, UnboundKnob
from taskvec.numbers.rationals import Number, bounded, exact, number_text
from taskvec.sources.positions import Place
from taskvec.sources.text import FirstMatch, matches, quoted

MOST_TERMS = 4096  # monomials of a coefficient
DEEPEST = 15  # levels of inverses, tables and gradients within one another


# ---- factors -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Knob:
    """A number that is known only by its name until it is bound."""

    name: str

    def at(self, place: Place) -> "Coefficient":
        """Itself: a knob is the same for every tensor."""
        return Coefficient({(self,): Fraction(1)})

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Only:
    """1 on tensors that fit one of the patterns, 0 elsewhere."""

    patterns: tuple[str, ...]

    def at(self, place: Place) -> "Coefficient":
        """0 or 1."""
        return Coefficient.of(int(any(matches(p, place.name) for p in self.patterns)))

    def __str__(self) -> str:
        return f"only({', '.join(map(quoted, self.patterns))})"


@dataclass(frozen=True, slots=True)
class Per:
    """A table: the value of the first pattern that fits."""

    table: "tuple[tuple[str, Coefficient], ...]"
    depth: int = field(init=False, compare=False, repr=False)
    _first: FirstMatch = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_first", FirstMatch(pattern for pattern, _ in self.table))
        object.__setattr__(self, "depth", _deeper(value for _, value in self.table))

    def at(self, place: Place) -> "Coefficient":
        """The value of the first pattern that fits; RecipeError if none does."""
        if (k := self._first.of(place.name)) is not None:
            return self.table[k][1]
        raise RecipeError(f'no pattern of {self} fits tensor {place.name}: add "*": a number for the rest')

    def __str__(self) -> str:
        return f"per({{{', '.join(f'{quoted(p)}: {v}' for p, v in self.table)}}})"


@dataclass(frozen=True, slots=True)
class Layers:
    """A gradient: linear between points that are evenly spaced from the first layer to the last."""

    points: "tuple[Coefficient, ...]"
    outside: "Coefficient | None" = None
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper([*self.points, *([] if self.outside is None else [self.outside])]))

    def at(self, place: Place) -> "Coefficient":
        """The value at the tensor's depth; `outside` for tensors of no layer, RecipeError where that was not given."""
        if place.depth is None:
            if self.outside is None:
                raise RecipeError(
                    f"tensor {place.name} belongs to no layer: give its coefficient, as in {str(self)[:-1]}, outside=0)"
                )
            return self.outside
        position = place.depth * (len(self.points) - 1)  # 0 at the first point, 1 at the second, ...
        below = math.floor(position)
        above, share = min(below + 1, len(self.points) - 1), position - below
        return self.points[below] * (1 - share) + self.points[above] * share

    def __str__(self) -> str:
        outside = [] if self.outside is None else [f"outside={self.outside}"]
        return f"layers({', '.join([*map(str, self.points), *outside])})"


@dataclass(frozen=True, slots=True)
class Inverse:
    """1 / divisor, for a divisor that is no plain number."""

    divisor: "Coefficient"
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper([self.divisor]))

    def at(self, place: Place) -> "Coefficient":
        """The inverse of the divisor's value; RecipeError where that is zero."""
        value = self.divisor.reduced(place)
        if not value:
            raise RecipeError(f"division by zero at {place.name}: {self.divisor} is 0 there")
        return ONE / value

    def __str__(self) -> str:
        return f"1/({self.divisor})"


Factor = Knob | Only | Per | Layers | Inverse
Monomial = tuple[Factor, ...]


def _deeper(inner: "Iterable[Coefficient]") -> int:
    """One more than the levels of tables, gradients and inverses within these coefficients.

    Raises RecipeError if that is more than DEEPEST, because every function that reads a coefficient recurses as deep.
    """
    depth = 1 + max((getattr(f, "depth", 0) for c in inner for f in c.factors), default=0)
    if depth > DEEPEST:
        raise RecipeError(f"coefficients stand within one another (1/(...), per, layers) more than {DEEPEST} deep")
    return depth


# ---- the polynomial ------------------------------------------------------------------------------
def monomial(factors: Iterable[Factor]) -> Monomial:
    """The product of factors in a canonical order. A filter is kept once, because its square is itself."""
    kept: list[Factor] = []
    for factor in sorted(factors, key=lambda f: (not isinstance(f, Knob), type(f).__name__, str(f))):
        if not (isinstance(factor, Only) and factor in kept):
            kept.append(factor)
    return tuple(kept)


class Coefficient:
    """A polynomial {monomial: rational}. Immutable, hashable, exact under + - * and /."""

    __slots__ = ("terms",)
    __array_ufunc__ = None  # so that numpy.float32(2) * coefficient calls __rmul__
    terms: Mapping[Monomial, Fraction]

    def __init__(self, terms: Mapping[Monomial, Fraction]):
        self.terms = MappingProxyType({m: v for m, v in terms.items() if v})

    @classmethod
    def of(cls, value: "Number | Real | Coefficient") -> "Coefficient":
        """A number as a coefficient."""
        return value if isinstance(value, Coefficient) else cls({(): exact(value)})

    @property
    def constant(self) -> Fraction | None:
        """The number that this is, or None if it depends on a knob or on the tensor."""
        if len(self.terms) == 1:
            return self.terms.get(())
        return None if self.terms else Fraction(0)

    @property
    def knobs(self) -> frozenset[str]:
        """The names that must be bound before this is a number."""
        return frozenset(factor.name for factor in self.walk() if isinstance(factor, Knob))

    def walk(self) -> "Iterator[Factor]":
        """Every factor, including those within tables, gradients and divisors."""
        for factor in self.factors:
            yield factor
            inner = [value for _, value in factor.table] if isinstance(factor, Per) else []
            inner += [*factor.points, *filter(None, [factor.outside])] if isinstance(factor, Layers) else []
            inner += [factor.divisor] if isinstance(factor, Inverse) else []
            for value in inner:
                yield from value.walk()

    def require_layers(self, vector: str) -> None:
        """Raise RecipeError if this depends on the number of layers. vector: the text of an adapter, which lacks it."""
        for factor in self.walk():
            if isinstance(factor, Layers) and len(set(factor.points)) > 1:
                raise RecipeError(
                    f"{factor} runs from the first layer of the model to the last, and {vector} does not say how many "
                    "there are: an adapter names only some of the tensors. Add the vector to its base, or write "
                    f"base + {vector} - base in its place (within a view only the latter will do)"
                )

    @property
    def factors(self) -> frozenset[Factor]:
        """Every factor of every monomial."""
        return frozenset(f for m in self.terms for f in m)

    def bind(self, values: "Mapping[str, Number | Coefficient]") -> "Coefficient":
        """This coefficient with numbers in place of knobs. Names that are no knobs of it are ignored."""
        given = {name: Coefficient.of(value) for name, value in values.items()}

        def bound(factor: Factor) -> Coefficient:
            match factor:
                case Knob(name) if name in given:
                    return given[name]
                case Per(table):
                    return Coefficient({(Per(tuple((p, v.bind(given)) for p, v in table)),): Fraction(1)})
                case Layers(points, outside):
                    ends = None if outside is None else outside.bind(given)
                    return Coefficient({(Layers(tuple(p.bind(given) for p in points), ends),): Fraction(1)})
                case Inverse(divisor):
                    return ONE / divisor.bind(given)
            return Coefficient({(factor,): Fraction(1)})

        return self._replaced(bound)

    def at(self, place: Place) -> Fraction:
        """The number for one tensor. Raises UnboundKnob."""
        if (constant := self.constant) is not None:
            return constant
        if (value := self.reduced(place).constant) is None:
            raise UnboundKnob(f"knobs without a value: {', '.join(sorted(self.knobs))}")
        return value

    def reduced(self, place: Place) -> "Coefficient":
        """Its value at one tensor: a number, or a polynomial in knobs and in inverses of polynomials in knobs."""
        value = self._replaced(lambda factor: factor.at(place))
        done = all(isinstance(factor, Knob | Inverse) for factor in value.walk())
        return value if done else value.reduced(place)  # the value of a table may hold tables again

    def _replaced(self, replace: "Callable[[Factor], Coefficient]") -> "Coefficient":
        total = ZERO
        for factors, value in self.terms.items():
            product = Coefficient({(): value})
            for factor in factors:
                product = product * replace(factor)
            total = total + product
        return total

    def __add__(self, other: "Number | Coefficient") -> "Coefficient":
        if not isinstance(other, Coefficient | Real):
            return NotImplemented
        total = dict(self.terms)
        for factors, value in Coefficient.of(other).terms.items():
            total[factors] = total.get(factors, Fraction(0)) + value
        return Coefficient(total)

    def __mul__(self, other: "Number | Coefficient") -> "Coefficient":
        if not isinstance(other, Coefficient | Real):
            return NotImplemented
        total: dict[Monomial, Fraction] = {}
        factor = Coefficient.of(other)
        if len(self.terms) * len(factor.terms) > 16 * MOST_TERMS:
            raise RecipeError(f"a product of coefficients has more than {MOST_TERMS} terms")
        for a, x in self.terms.items():
            for b, y in factor.terms.items():
                key = monomial(a + b)
                total[key] = bounded(total.get(key, Fraction(0)) + x * y)
        if len(total) > MOST_TERMS:
            raise RecipeError(f"a product of coefficients has more than {MOST_TERMS} terms")
        return Coefficient(total)

    def __truediv__(self, other: "Number | Coefficient") -> "Coefficient":
        if not isinstance(other, Coefficient | Real):
            return NotImplemented
        divisor = Coefficient.of(other)
        if divisor.constant is None:
            return self * Coefficient({(Inverse(divisor),): Fraction(1)})
        if not divisor.constant:
            raise RecipeError("division by zero")
        return self * (1 / divisor.constant)

    def __rtruediv__(self, other: Number) -> "Coefficient":
        return Coefficient.of(other) / self

    def __neg__(self) -> "Coefficient":
        return self * -1

    def __sub__(self, other: "Number | Coefficient") -> "Coefficient":
        return self + (-Coefficient.of(other))

    def __rsub__(self, other: Number) -> "Coefficient":
        return -self + other

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Real):
            try:
                other = Coefficient.of(other)
            except RecipeError:  # not finite
                return False
        return self.terms == other.terms if isinstance(other, Coefficient) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __reduce__(self) -> Any:
        return Coefficient, (dict(self.terms),)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __str__(self) -> str:
        terms = [(len(factors), "*".join(map(str, factors)), value) for factors, value in self.terms.items()]
        parts = [_scaled(text, value) for _, text, value in sorted(terms)]
        return joined(parts) if parts else "0"

    __repr__ = __str__


ZERO, ONE = Coefficient({}), Coefficient({(): Fraction(1)})


def monomial_text(factors: Monomial, value: Fraction) -> str:
    """`0.4*lam*only("*.mlp.*")`, with the number left out where it is 1 or -1."""
    return _scaled("*".join(map(str, factors)), value)


def _scaled(text: str, value: Fraction) -> str:
    if not text:
        return number_text(value)
    return text if value == 1 else f"-{text}" if value == -1 else f"{number_text(value)}*{text}"


def joined(parts: Iterable[str]) -> str:
    """Summands with their signs: ["a", "-0.3*b"] -> "a - 0.3*b"."""
    first, *rest = parts
    return first + "".join(f" - {p[1:]}" if p.startswith("-") else f" + {p}" for p in rest)


# ---- what a recipe calls -------------------------------------------------------------------------
def knob(name: str) -> Coefficient:
    """A coefficient that gets its value later: `weights.bind(lam=0.3)` for `knob("lam")`."""
    if not name.isidentifier() or iskeyword(name):
        raise RecipeError(f"a knob's name must be an identifier, and no keyword of Python, not {name!r}")
    name = normalize("NFKC", name)  # as the parser reads it
    return Coefficient({(Knob(name),): Fraction(1)})


def only(*patterns: str) -> Coefficient:
    """The coefficient 1 on the tensors whose whole name fits a pattern (`*`, `?`, `[ab]`), and 0 on the others.

    >>> base + 0.4 * only("model.layers.*.mlp.*") * (math - base)

    A pattern that fits no tensor is an error where the result is planned, read or saved (idle_patterns.py).
    """
    return Coefficient({(Only(tuple(sorted(_patterns(patterns)))),): Fraction(1)})


def without(*patterns: str) -> Coefficient:
    """The coefficient 0 on the tensors whose whole name fits a pattern, 1 on the others: exactly `1 - only(...)`."""
    return 1 - only(*patterns)


def per(table: "Mapping[str, Number | Coefficient]") -> Coefficient:
    """A table of coefficients: `per({"*.mlp.*": 0.5, "*": 0.3})`. A tensor gets that of the first pattern that fits.

    It is an error (idle_patterns.py) if a row other than `*` fits no tensor, or only tensors that rows above it take.
    """
    if not isinstance(table, Mapping) or not table:
        raise RecipeError('per needs a table: per({"*.mlp.*": 0.5, "*": 0.3})')
    _patterns(table)
    return Coefficient({(Per(tuple((p, Coefficient.of(v)) for p, v in table.items())),): Fraction(1)})


def layers(*points: "Number | Coefficient", outside: "Number | Coefficient | None" = None) -> Coefficient:
    """A gradient over the layers, linear between the points: `layers(0.2, 0.8)` runs from the first layer to the last.

    The layer l is the first number in a tensor's name (`model.layers.3.…`). Its depth is l/(L-1) in its own stack of L
    layers.

    outside: the coefficient of tensors of no layer (embeddings, head). It is needed if there are any.
    """
    if not points:
        raise RecipeError("layers needs points: layers(0.2, 0.8)")
    ends = None if outside is None else Coefficient.of(outside)
    return Coefficient({(Layers(tuple(map(Coefficient.of, points)), ends),): Fraction(1)})


def _patterns(patterns: Iterable[str]) -> list[str]:
    """The patterns as a list. Raises RecipeError if there are none, or one is not a text."""
    given = list(patterns)
    if not given or not all(isinstance(p, str) and p for p in given):
        raise RecipeError(f'patterns are texts such as "model.layers.*.mlp.*", not {given}')
    return given
