"""Tensors that cannot be summed, such as counters and positions, must be the same in every model of a sum.

A result has those of the first model. If another model has other values, the recipe does not say which ones are wanted,
and that is an error. A task vector has no such tensors. Tensors that a view leaves out are not compared.
"""

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, Protocol

from taskvec.algebra.hints import patterns
from taskvec.errors import MassError, MismatchError
from taskvec.numbers.dtypes import BITS, elements_in
from taskvec.sources.abilities import Composite
from taskvec.sources.source import Source, Spec
from taskvec.sources.text import quoted

PIECE = 256 << 10  # bytes that are compared at once


class Expression(Protocol):
    """What this module needs to know of Weights, which import it."""

    @property
    def terms(self) -> Mapping[Source, Any]:
        """Source -> coefficient."""

    @property
    def donor(self) -> Source | None:
        """The source that gives a result its integers."""

    @property
    def mass(self) -> Fraction:
        """0 for a task vector. Raises MassError where it differs from tensor to tensor."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Name -> Spec."""


def require_same(weights: Expression, names: Iterable[str] | None = None, way: str = "") -> None:
    """Raise MismatchError if tensors that cannot be summed differ between the models of an expression of mass 1.

    names: the tensors to compare; None for all.
    way: what the message proposes to do. Without it, the message says what to write in the recipe in place of each
        model that differs, so that it has the tensors of the first one.
    """
    asked = [name for name in (weights.specs if names is None else names) if not weights.specs[name].arithmetic]
    conflicts = dict.fromkeys(_conflicts(asked, weights) if asked else ())
    if not conflicts or _is_vector(weights):
        return
    lines = [f"{name} ({a.specs[name]}) differs between {a.text} and {b.text}" for name, a, b in conflicts]
    if not way:
        for a, b in dict.fromkeys((a, b) for _, a, b in conflicts):
            differing = [name for name, *pair in conflicts if pair == [a, b]]
            which = ", ".join(map(quoted, patterns(differing, b.specs) or differing))
            lines.append(f"join(drop({b.text}, {which}), select({a.text}, {which})) in place of {b.text}")
    raise MismatchError(f"tensors that cannot be summed differ; {way or 'take them from one of the models'}:", lines)


def _conflicts(names: list[str], *args: Expression) -> Iterator[tuple[str, Source, Source]]:
    """(tensor, first model, other model) wherever a tensor differs between the models of these expressions, and between
    those of the calls within them."""
    models = dict.fromkeys(s for s in [*(a.donor for a in args), *(s for a in args for s in a.terms)] if s and s.mass)
    for other in [*models][1:]:
        first = next(iter(models))
        for name in names:
            known = name in first.specs and name in other.specs and not first.specs[name].arithmetic
            if known and not _same(name, first, other):
                yield name, first, other
    for call in dict.fromkeys(s for a in args for s in a.terms if isinstance(s, Composite)):
        if (tensors := call.tensors) is None:
            yield from _conflicts(names, *call.args)
            continue
        shown = [tensors[name] for name in names if name in tensors]  # (number of an argument, its tensor)
        for k, argument in enumerate(call.args):
            if inner := [name for number, name in shown if number == k]:
                yield from _conflicts(inner, argument)


def _is_vector(weights: Expression) -> bool:
    try:
        return weights.mass == 0
    except MassError:
        return False


def _same(name: str, a: Source, b: Source) -> bool:
    spec = a.specs[name]
    step = elements_in(spec.dtype, PIECE)
    for start in range(0, spec.numel, step):
        size = min(step, spec.numel - start) * BITS[spec.dtype] // 8
        in_a, in_b = bytearray(size), bytearray(size)
        a.readinto(name, start, memoryview(in_a))
        b.readinto(name, start, memoryview(in_b))
        if in_a != in_b:
            return False
    return True
