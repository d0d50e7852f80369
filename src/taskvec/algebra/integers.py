"""Tensors that cannot be summed, such as counters and positions: they must be the same in every model of a sum.

What is saved, read or loaded has those of the first model. Where another model has other ones nobody has said which are
wanted, and that is an error. A task vector does without them. What a view leaves out does not count.
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
    """What this module needs of Weights."""

    @property
    def terms(self) -> Mapping[Source, Any]:
        """Source -> coefficient."""

    @property
    def donor(self) -> Source | None:
        """Whose integers a result has."""

    @property
    def mass(self) -> Fraction:
        """0 for a task vector. Raises MassError where it differs from tensor to tensor."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Name -> Spec."""


def require_same(weights: Expression, names: Iterable[str] | None = None, way: str = "") -> None:
    """Raise MismatchError for tensors of a model, those of the given names or all, that cannot be summed and differ.

    way: what to do about it. By default it is to write a model in the recipe that has the tensors of the first one.
    """
    asked = [name for name in (weights.specs if names is None else names) if not weights.specs[name].arithmetic]
    found = dict.fromkeys(_apart(asked, weights) if asked else ())
    if not found or _is_vector(weights):
        return
    lines = [f"{name} ({one.specs[name]}) differs between {one.text} and {two.text}" for name, one, two in found]
    if not way:
        for one, two in dict.fromkeys((one, two) for _, one, two in found):
            several = [name for name, *pair in found if pair == [one, two]]
            which = ", ".join(map(quoted, patterns(several, two.specs) or several))
            lines.append(f"join(drop({two.text}, {which}), select({one.text}, {which})) in place of {two.text}")
    raise MismatchError(f"tensors that cannot be summed differ; {way or 'take them from one of the models'}:", lines)


def _apart(names: list[str], *args: Expression) -> Iterator[tuple[str, Source, Source]]:
    """(tensor, model, another) where they differ between the models of expressions, or within those of a call."""
    models = dict.fromkeys(s for s in [*(a.donor for a in args), *(s for a in args for s in a.terms)] if s and s.mass)
    for other in [*models][1:]:
        first = next(iter(models))
        for name in names:
            known = name in first.specs and name in other.specs and not first.specs[name].arithmetic
            if known and not _same(name, first, other):
                yield name, first, other
    for call in dict.fromkeys(s for a in args for s in a.terms if isinstance(s, Composite)):
        if (tensors := call.tensors) is None:
            yield from _apart(names, *call.args)
            continue
        places = [tensors[name] for name in names if name in tensors]
        for k, argument in enumerate(call.args):
            if inner := [name for at, name in places if at == k]:
                yield from _apart(inner, argument)


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
        one, two = bytearray(size), bytearray(size)
        a.readinto(name, start, memoryview(one))
        b.readinto(name, start, memoryview(two))
        if one != two:
            return False
    return True
