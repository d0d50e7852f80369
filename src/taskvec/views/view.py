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
    """A call whose tensors are tensors of its arguments. A subclass says which (`tensors`), and what becomes of
    config.json (`configured`)."""

    alike = False

    @property
    def busy(self) -> bool:  # type: ignore[override]
        """Whether an argument is: the engine looks through a view, which has no work of its own."""
        return any(s.busy for s in self.inner())

    def placed(self, model: Source | None) -> Derived:
        """See `Derived.placed`. The view may have other tensors than its argument, so the model beside the view is no
        model for the argument."""
        return super().placed(None)

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, str]]:
        """Name -> (number of the argument, name there). By default these are all tensors of the first argument."""
        return {name: (0, name) for name in self.args[0].specs}

    def check(self) -> None:
        """Raise an error for what the headers show to be wrong."""
        masses = [a.kind() for a in self.args]
        if len(set(masses)) > 1:
            raise MassError(f"{self.name} works on models or on task vectors, not on both: their masses are {masses}")
        self.specs  # noqa: B018 - raises what does not fit

    def written(self, names: Mapping[Source, str]) -> str:
        """The call as a recipe writes it: parameters without a default stand in their places, others have names."""
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
        """The tensors as they are in the arguments. Floating-point ones are float32, or float64 if a source is."""
        return {name: self._spec(*place) for name, place in self.tensors.items()}

    def _spec(self, k: int, inner: str) -> Spec:
        spec = self.args[k].specs[inner]
        kinds = (s.specs[inner].dtype for s in self.args[k].terms if inner in s.specs)
        return Spec(spec.shape, accumulator(*kinds)) if spec.arithmetic else spec

    @cached_property
    def stored(self) -> Mapping[str, Spec]:
        """The tensors with the dtypes that they have in each argument's first model."""
        kept = [stored_of(a.donor) for a in self.args]
        return {
            name: Spec(self.specs[name].shape, (kept[k].get(inner) or self.specs[name]).dtype)
            for name, (k, inner) in self.tensors.items()
        }

    @property
    def folder(self) -> Path | None:
        """The folder of the first argument's model, where config.json lies."""
        return folder_of(self.args[0].donor)

    def settled(self) -> tuple[dict[str, Any], dict[str, Sequence[str]]]:
        """The entries of config.json that this view and its arguments change, and the problems: see `Settings`."""
        settings = self.configured(settings_of(self.args[0]))
        return settings.changes, dict(settings.problems)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that a view within the first argument made, or None."""
        donor = self.args[0].donor
        return donor.tokenizer if isinstance(donor, Derived) else None

    def configured(self, settings: Settings) -> Settings:
        """What the first argument's config.json becomes."""
        return settings

    @cached_property
    def base(self) -> str | None:
        """The fingerprint of the same view of the models that are subtracted in the arguments, which are task vectors.

        It is None if the view is a model, or if there is an argument in which not exactly one model is subtracted.
        """
        if self.mass:
            return None
        bases = [a if a.kind() else _subtracted(a) for a in self.args]
        if any(base is None for base in bases):
            return None
        (view,) = self.rebuilt(tuple(base for base in bases if base), self.params).terms
        return view.fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the file that it would be saved to if every tensor is one of a file, else of the call."""
        return fingerprint(self.stored, self.as_stored) if self.verbatim else super().fingerprint

    @property
    def verbatim(self) -> bool:
        """Whether every tensor is one of a file, bit for bit."""
        return all(_verbatim(a) for a in self.args)

    @property
    def cost(self) -> Cost:
        """The memory of the table of its tensors."""
        return Cost(once=A_TENSOR * len(self.tensors))

    # ---- values
    def origin(self, name: str) -> dict[tuple[Source, str], Fraction]:
        """What is summed for a tensor: (source, name of the tensor there) -> coefficient."""
        k, inner = self.tensors[name]
        return self.args[k].parts(inner)

    def readinto(self, name: str, start: int, out: memoryview) -> None:
        """Elements from `start` on, in the dtype of `specs`."""
        self.encoded(name, start, self.specs[name].dtype, out)

    def as_stored(self, name: str, start: int, out: memoryview) -> None:
        """Elements from `start` on, in the dtype of `stored`."""
        self.encoded(name, start, self.stored[name].dtype, out)

    def encoded(self, name: str, start: int, dtype: str, out: memoryview) -> None:
        """Elements from `start` on, in any dtype; a tensor that is not of floating point is copied in its own."""
        k, inner = self.tensors[name]
        if self.specs[name].arithmetic:
            summed(self.args[k].linear(inner), start, dtype, out)
        else:
            donor = self.args[k].donor
            assert donor is not None
            donor.readinto(inner, start, out)


def summed(linear: Linear, start: int, dtype: str, out: memoryview, scratch: memoryview | None = None) -> None:
    """Write a linear combination to `out`, VIEW_TILE elements at a time. scratch: as many bytes as `scratch_bytes` says
    for so many elements."""
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


def _subtracted(weights: Weights) -> Weights | None:
    """The model that is subtracted, if there is exactly one."""
    models = [s for s, c in weights.terms.items() if s.mass and (c.constant or 0) < 0]
    return Weights({models[0]: 1}) if len(models) == 1 else None


def _verbatim(weights: Weights) -> bool:
    """Whether an expression is one source with all its tensors, each of which is one of a file, bit for bit."""
    terms = [*weights.terms.items()]
    if len(terms) != 1 or terms[0][1] != 1:
        return False
    source = terms[0][0]
    return not source.partial and (not isinstance(source, Derived) or source.verbatim)


# ---- what the functions of a recipe check --------------------------------------------------------
def lifted(view: View) -> Weights:
    """The view as an expression. It is checked unless it has knobs, whose values come later."""
    if not view.knobs:
        view.check()
    return Weights({view: 1}, sum(view.args, Weights({})).mentioned)


def require_weights(call: str, args: Iterable[Any]) -> tuple[Weights, ...]:
    """The arguments, if each is an expression that mentions a source. Raises RecipeError."""
    weights = tuple(args)
    if wrong := [type(a).__name__ for a in weights if not isinstance(a, Weights)]:
        raise RecipeError(f"{call} works on models or task vectors, not on {', '.join(wrong)}")
    if not weights:
        raise RecipeError(f"{call} takes at least one model or task vector")
    if not all(a.mentioned for a in weights):
        raise RecipeError(f"{call} was given an expression with nothing in it")
    return weights


def whole(call: str, key: str, value: Any, least: int, most: int | None = None) -> Coefficient:
    """A whole number of at least `least` and at most `most`, as a parameter. Raises RecipeError."""
    parameter = value if isinstance(value, Coefficient) else None
    if isinstance(value, Integral) and not isinstance(value, bool):
        parameter = Coefficient.of(value)
    number = parameter.constant if parameter is not None else None
    if parameter is None or number is None or number.denominator != 1 or number < least:
        raise RecipeError(f"{call}: {key} must be a whole number of at least {least}, not {value!r}")
    if most is not None and number > most:
        raise RecipeError(f"{call}: {key} must be at most {most}, not {value!r}")
    return parameter


def texts(call: str, **given: Any) -> dict[str, str]:
    """The parameters that are not None, each of which must be a text. Raises RecipeError."""
    for key, value in given.items():
        if value is not None and not isinstance(value, str):
            raise RecipeError(f'{call}: {key} must be a text, {key}="...", not {type(value).__name__}')
    return {key: value for key, value in given.items() if value is not None}


def without_collisions(call: str, pairs: Iterable[tuple[str, tuple[int, str]]]) -> dict[str, tuple[int, str]]:
    """The table of a view's tensors (`View.tensors`). Raises MismatchError, which lists those that would have one
    name."""
    places: dict[str, list[tuple[int, str]]] = {}
    for name, place in pairs:
        places.setdefault(name, []).append(place)
    if twice := [f"{name}: {', '.join(n for _, n in p)}" for name, p in places.items() if len(p) > 1]:
        raise MismatchError(f"{call} gives several tensors one name:", twice[:SHOWN])
    return {name: place for name, (place,) in places.items()}
