"""What views have in common. A tensor of a view is a tensor of an argument: the engine looks through the view and reads
it there, so that a renaming costs nothing and changes no bit.

Views are linear: f(a) - f(b) and f(a - b) are the same sums of the same tensors.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

from taskvec.algebra.coefficients import Coefficient
from taskvec.algebra.derived import Derived, as_parameter, parameter_text
from taskvec.algebra.program import Linear, evaluate, scratch_bytes
from taskvec.algebra.weights import SHOWN, Weights
from taskvec.errors import MassError, MismatchError, RecipeError
from taskvec.numbers.dtypes import BITS, accumulator
from taskvec.sources.abilities import LooksThrough, folder_of, stored_of
from taskvec.sources.cost import Cost
from taskvec.sources.source import Source, Spec, fingerprint
from taskvec.views.settings import Settings, settings_of

A_TENSOR = 2000  # bytes of bookkeeping
VIEW_TILE = 64 << 10  # elements that are summed at once


class View(Derived, LooksThrough):
    """A call whose tensors are tensors of its arguments. A subclass says which, and what that does to config.json."""

    alike = False

    @property
    def busy(self) -> bool:  # type: ignore[override]
        """As its arguments are: the engine looks through a view."""
        return any(s.busy for s in self.inner())

    def placed(self, model: Source | None) -> Derived:
        """See `Derived.placed`. A view has other tensors than its argument, so its neighbours say nothing of that."""
        return super().placed(None)

    @property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """Output tensor -> (the argument, the name there)."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise what the headers can tell."""
        masses = [a.kind() for a in self.args]
        if len(set(masses)) > 1:
            raise MassError(f"{self.name} works on models or on task vectors, not on both: their masses are {masses}")
        self.specs  # noqa: B018 - raises what does not fit

    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it: what has no default stands in its place, the rest has its name."""
        parts = [a.text(names) for a in self.args]
        for key, value in self.params.items():
            if key not in self.defaults:
                parts.append(parameter_text(value))
            elif value != as_parameter(self.defaults[key]):
                parts.append(f"{key}={parameter_text(value)}")
        return f"{self.name}({', '.join(parts)})"

    # ---- what it is
    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """As in the arguments, in float32 (float64 if a source is) where there is arithmetic."""
        return {name: self._spec(*place) for name, place in self.tensors.items()}

    def _spec(self, k: int, inner: str) -> Spec:
        spec = self.args[k].specs[inner]
        kinds = (s.specs[inner].dtype for s in self.args[k].terms if inner in s.specs)
        return Spec(spec.shape, accumulator(*kinds)) if spec.arithmetic else spec

    @cached_property
    def stored(self) -> Mapping[str, Spec]:
        """With the dtypes of each argument's first model."""
        kept = [stored_of(a.donor) for a in self.args]
        return {
            name: Spec(self.specs[name].shape, (kept[k].get(inner) or self.specs[name]).dtype)
            for name, (k, inner) in self.tensors.items()
        }

    @property
    def folder(self) -> Path | None:
        """Where the configuration lies: with the first argument's model."""
        return folder_of(self.args[0].donor)

    def settled(self) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
        """Entries of config.json, and what it cannot say, with what the arguments changed."""
        found = self.configured(settings_of(self.args[0]))
        return found.changes, dict(found.problems)

    @property
    def tokenizer(self) -> Any:
        """That of the first argument's model, where a view made it."""
        donor = self.args[0].donor
        return donor.tokenizer if isinstance(donor, Derived) else None

    def configured(self, settings: Settings) -> Settings:
        """What the first argument's config.json becomes."""
        return settings

    @cached_property
    def base(self) -> str | None:
        """The same view of what the arguments are relative to, if each task vector has one model subtracted."""
        if self.mass:
            return None
        grounds = [a if a.kind() else _ground(a) for a in self.args]
        if any(ground is None for ground in grounds):
            return None
        (view,) = self.rebuilt(tuple(ground for ground in grounds if ground), self.params).terms
        return view.fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """That of the file it would be saved to where this can be told without arithmetic, else that of the call."""
        return fingerprint(self.stored, self.as_stored) if self.verbatim else super().fingerprint

    @property
    def verbatim(self) -> bool:
        """Whether every tensor is one of a file, bit for bit."""
        return all(_verbatim(a) for a in self.args)

    @property
    def cost(self) -> Cost:
        """The table of its tensors."""
        return Cost(once=A_TENSOR * len(self.tensors))

    # ---- values
    def origin(self, name: str) -> dict[tuple[Source, str], Fraction]:
        """What is summed for a tensor: (source, its tensor) -> number."""
        k, inner = self.tensors[name]
        return self.args[k].parts(inner)

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Elements from `start` on, in the dtype of `specs`."""
        self.encoded(name, start, self.specs[name].dtype, out)

    def as_stored(self, name: str, start: int, out: memoryview) -> None:
        """Elements from `start` on, in the dtype of `stored`."""
        self.encoded(name, start, self.stored[name].dtype, out)

    def encoded(self, name: str, start: int, dtype: str, out: memoryview) -> None:
        """Elements from `start` on, in some dtype; what is not arithmetic has only its own."""
        k, inner = self.tensors[name]
        if self.specs[name].arithmetic:
            summed(self.args[k].linear(inner), start, dtype, out)
        else:
            donor = self.args[k].donor
            assert donor is not None
            donor.readinto(inner, start, out)


def summed(linear: Linear, start: int, dtype: str, out: memoryview, scratch: memoryview | None = None) -> None:
    """A linear combination, VIEW_TILE elements at a time; `scratch` is what `scratch_bytes` says for so many."""
    width = BITS[dtype] // 8
    n = len(out) // width
    if not linear:
        out[:] = bytes(len(out))
        return
    if scratch is None:
        scratch = memoryview(bytearray(scratch_bytes(linear.parts, min(n, VIEW_TILE))))
    for at in range(0, n, VIEW_TILE):
        count = min(VIEW_TILE, n - at)
        evaluate(linear, start + at, count, dtype, out[at * width : (at + count) * width], scratch)


def _ground(weights: Weights) -> Weights | None:
    """The one model that is subtracted."""
    found = [s for s, c in weights.terms.items() if s.mass and (c.constant or 0) < 0]
    return Weights({found[0]: 1}) if len(found) == 1 else None


def _verbatim(weights: Weights) -> bool:
    terms = [*weights.terms.items()]
    if len(terms) != 1 or terms[0][1] != 1:
        return False
    source = terms[0][0]
    return not source.partial and (not isinstance(source, Derived) or source.verbatim)


# ---- what the functions of a recipe check --------------------------------------------------------
def lifted(view: View) -> Weights:
    """The view as an expression, checked as far as its knobs allow."""
    if not view.knobs:
        view.check()
    return Weights({view: 1}, sum(view.args, Weights({})).mentioned)


def require_weights(call: str, args: Iterable[Any]) -> tuple[Weights, ...]:
    """The arguments, if each is an expression with a source in it."""
    found = tuple(args)
    if wrong := [type(a).__name__ for a in found if not isinstance(a, Weights)]:
        raise RecipeError(f"{call} works on models or task vectors, not on {', '.join(wrong)}")
    if not found:
        raise RecipeError(f"{call} takes at least one model or task vector")
    if not all(a.mentioned for a in found):
        raise RecipeError(f"{call} was given an expression with nothing in it")
    return found


def whole(call: str, key: str, value: Any, least: int, most: int | None = None) -> Coefficient:
    """A whole number of at least `least` and at most `most`, as a parameter."""
    number = value if isinstance(value, Coefficient) else None
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = Coefficient.of(value)
    found = number.constant if number is not None else None
    if number is None or found is None or found.denominator != 1 or found < least:
        raise RecipeError(f"{call}: {key} must be a whole number of at least {least}, not {value!r}")
    if most is not None and found > most:
        raise RecipeError(f"{call}: {key} must be at most {most}, not {value!r}")
    return number


def texts(call: str, **given: Any) -> dict[str, str]:
    """The parameters that are given, each a text."""
    for key, value in given.items():
        if value is not None and not isinstance(value, str):
            raise RecipeError(f'{call}: {key} must be a text, {key}="...", not {type(value).__name__}')
    return {key: value for key, value in given.items() if value is not None}


def without_collisions(call: str, pairs: Iterable[tuple[str, tuple[int, str]]]) -> dict[str, tuple[int, str]]:
    """The table of a view's tensors. Raises MismatchError that lists those that would have one name."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name, place in pairs:
        found.setdefault(name, []).append(place)
    if twice := [f"{name}: {', '.join(n for _, n in p)}" for name, p in found.items() if len(p) > 1]:
        raise MismatchError(f"{call} gives several tensors one name:", twice[:SHOWN])
    return {name: place for name, (place,) in found.items()}
